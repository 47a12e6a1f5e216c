"""What a comparison with the front shows: plain results, tables and figures made of them.

A way of growing stands beside the network that it becomes, after as many updates and after as many FLOPs, and beside the
best of all sizes after as many FLOPs. Between budgets, a size's result lies on the line over the logarithm of the FLOPs.
"""
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fxgrow.common import atomic_write, quantity
from fxgrow.experiments.papers.front import FRONT, GROWN, RATES, FrontSetup
from fxgrow.experiments.papers.running import finished
from fxgrow.experiments.plots import curves
from fxgrow.experiments.tasks import Metric, task_of

Results = Mapping[str, Any]
Points = Mapping[int, list[tuple[float, float]]]  # by seed: FLOPs and results, ascending in FLOPs
BUDGET = "budget"
DEPTH = 4  # how far behind the front the figure shows networks, as a multiple of how far ahead of it they come
SLACK = 0.05  # in the logarithm of FLOPs: a budget is met to within an update


def gathered(setup: FrontSetup, command: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return all results that there are as plain data, from which tables and figures are made."""
    declared, front, data = setup.declared, setup.front, setup.load(0)
    metric = task_of(data).metrics[0]
    goals = []
    for goal in setup.goals():
        arm = declared.arm(f"{RATES if goal.group == RATES else FRONT}/{goal.leg.key}")
        found = [run for seed in seeds if (run := finished(setup, arm, seed)) is not None]
        runs = [{"seed": setup.seed_of(arm, run["seed"]), "flops": run["flops"], "updates": run["step"],
                 "parameters": run["parameters"], "result": _result(run, metric.name, goal.group), "seconds": run["seconds"],
                 **({"diverged": run["diverged"]} if run["diverged"] else {})} for run in found]
        goals.append({"group": goal.group, "name": goal.name, BUDGET: goal.budget, "equal": goal.equal,
                      "lr": goal.leg.stretches[-1].lr, "updates": goal.leg.until, "runs": runs})
    ways = {way.name: {"start": way.start, "last": way.last, BUDGET: way.budget,
                       "steps": [vars(step) for step in way.steps]} for way in front.ways}
    sizes = {name: {"network": setup.preset.networks[name].on(data.input_shape)[0], "lr": size.lr}
             for name, size in front.sizes.items()}
    return {"experiment": declared.name, "title": declared.title, "source": declared.source, "scale": setup.scale,
            "data": data.name, "seeds": list(seeds), "command": command, "metric": vars(metric), "budgets": front.budgets,
            "settings": {**setup.preset.settings, "decay": front.decay}, "sizes": sizes, "ways": ways, "goals": goals}


def _result(run: Mapping[str, Any], metric: str, group: str) -> float | None:
    """Return what a run ended with, on the test part; rates are chosen on the validation part."""
    if run["diverged"]:
        return None
    return run["rows"][-1][f"val_{metric}"] if group == RATES else run["test"][metric]


class Compared:
    """Results by what they are of."""

    def __init__(self, results: Results):
        self.results, self.metric = results, Metric(**results["metric"])
        self.sign = 1.0 if self.metric.higher else -1.0
        self.budgets = results["budgets"]

    def goals(self, group: str, name: str = "", **more: Any) -> list[Mapping[str, Any]]:
        """Return the goals of a group, of one name, and with these entries, that have runs."""
        return [g for g in self.results["goals"] if g["group"] == group and name in ("", g["name"]) and self.runs(g)
                and all(g[k] == v for k, v in more.items())]

    def runs(self, goal: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
        """Return FLOPs and result by seed, of the runs that did not diverge."""
        return {r["seed"]: (r["flops"], r["result"]) for r in goal["runs"] if r["result"] is not None}

    def points(self, group: str, name: str) -> Points:
        """Return the curve of a size or a way, for each seed."""
        found: dict[int, list[tuple[float, float]]] = {}
        for goal in self.goals(group, name):
            for seed, point in self.runs(goal).items():
                found.setdefault(seed, []).append(point)
        return {seed: sorted(points) for seed, points in found.items()}

    def at(self, name: str, flops: float) -> dict[int, float]:
        """Return a size's result at these FLOPs by seed, where its budgets reach so far."""
        found = {}
        for seed, points in self.points(FRONT, name).items():
            x = [math.log(f) for f, _ in points]
            if x[0] - SLACK <= math.log(flops) <= x[-1] + SLACK:
                found[seed] = float(np.interp(math.log(flops), x, [y for _, y in points]))
        return found

    def beside(self, goal: Mapping[str, Any], name: str) -> dict[int, float]:
        """Return a size's result by seed, each at the FLOPs of the goal's run of that seed: those by `auto` differ."""
        return {seed: at[seed] for seed, (flops, _) in self.runs(goal).items() if seed in (at := self.at(name, flops))}

    def best(self, flops: float) -> tuple[str, dict[int, float]] | None:
        """Return the size that is best at these FLOPs, on the mean over the seeds that all have, and its results by seed."""
        found = {name: at for name in self.results["sizes"] if (at := self.at(name, flops))}
        if not found:
            return None
        common = set.intersection(*(set(at) for at in found.values()))
        name = max(found, key=lambda name: statistics.fmean(self.sign * found[name][s] for s in common or found[name]))
        return name, found[name]

    def ahead(self, mine: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
        """Return by how much the first is better, for each seed that both have."""
        return [self.sign * (mine[s] - theirs[s]) for s in mine if s in theirs]

    def reached(self, name: str, level: float) -> float | None:
        """Return the FLOPs at which a way's mean first is as good as a level, over seeds with all ends; None: at none."""
        all_seeds = self.points(GROWN, name).values()
        by_seed = [points for points in all_seeds if len(points) == max(map(len, all_seeds))]  # those with all ends
        points = [(statistics.fmean(p[0] for p in ps), self.sign * statistics.fmean(p[1] for p in ps))
                  for ps in zip(*by_seed)]
        level *= self.sign
        for (f0, y0), (f1, y1) in zip([points[0], *points], points):
            if y1 >= level:
                share = 0.0 if y0 >= level or f0 == f1 else (level - y0) / (y1 - y0)
                return f1 if f0 == f1 else f0 * (f1 / f0) ** share
        return None


def mean(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """Return mean ± standard deviation over seeds."""
    if not values:
        return ""
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.{digits}f}{sd}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def rates_table(compared: Compared) -> str:
    """Return the results of the runs that choose rates: a row for each size, the best rate in bold, the one taken."""
    goals = compared.goals(RATES)
    rates = sorted({g["lr"] for g in goals})
    rows = []
    for name, size in compared.results["sizes"].items():
        found = {g["lr"]: statistics.fmean(r for _, r in compared.runs(g).values()) for g in goals if g["name"] == name}
        best = max(found.values(), key=lambda r: compared.sign * r, default=None)
        rows.append([name, *(("**{:.3f}**" if found[lr] == best else "{:.3f}").format(found[lr]) if lr in found else ""
                             for lr in rates), f"{size['lr']:g}"])
    return _table(["size", *(f"{lr:g}" for lr in rates), "taken"], rows)


def front_table(compared: Compared) -> str:
    """Return the results of all sizes: a row for each, a column for each budget, the best of which is in bold."""
    sizes, rows = compared.results["sizes"], []
    columns = [i for i in range(len(compared.budgets)) if compared.goals(FRONT, budget=i)]
    cells = {(g["name"], g[BUDGET]): [r for _, r in compared.runs(g).values()] for g in compared.goals(FRONT)}
    best = {i: max((n for n in sizes if (n, i) in cells), key=lambda n: compared.sign * statistics.fmean(cells[n, i]))
            for i in columns}
    for name in sizes:
        goals = compared.goals(FRONT, name)
        if goals:
            parameters = goals[0]["runs"][0]["parameters"]
            texts = [mean(cells.get((name, i), ())) for i in columns]
            rows.append([name, f"{parameters:,}", *(f"**{t}**" if best[i] == name else t for i, t in zip(columns, texts))])
    return _table(["size", "parameters", *(quantity(compared.budgets[i], "FLOP") for i in columns)], rows)


WAYS = ("way", "ends with", "updates", "FLOPs", "result", "of the big one's FLOPs at equal updates", "ahead of it",
        "ahead of the big one at equal FLOPs", "ahead of the front at equal FLOPs", "the front there")


def ways_table(compared: Compared) -> str:
    """Return a row for each end of each way, beside the big network and the front; positive: growing is ahead."""
    rows = []
    for name, way in compared.results["ways"].items():
        for goal in compared.goals(GROWN, name):
            mine = {seed: result for seed, (_, result) in compared.runs(goal).items()}
            flops = statistics.fmean(f for f, _ in compared.runs(goal).values())
            same = compared.goals(FRONT, way["last"], budget=goal[BUDGET]) if goal["equal"] == "updates" else []
            share, beside = "", ""
            if same:
                big = compared.runs(same[0])
                share = f"{flops / statistics.fmean(f for f, _ in big.values()):.2f}"
                beside = mean(compared.ahead(mine, {s: r for s, (_, r) in big.items()}), sign="+")
            best = compared.best(flops)
            rows.append([name, f"equal {goal['equal']}", f"{goal['updates']:,}", quantity(flops, "FLOP"),
                         mean(list(mine.values())), share, beside,
                         mean(compared.ahead(mine, compared.beside(goal, way["last"])), sign="+"),
                         mean(compared.ahead(mine, compared.beside(goal, best[0])), sign="+") if best else "",
                         best[0] if best else ""])
    return _table(WAYS, rows)


def reach_table(compared: Compared) -> str:
    """Return for each way the share of a budget that it takes to the front's result there."""
    rows = []
    for name in compared.results["ways"]:
        goals = compared.goals(GROWN, name)
        if not goals:
            continue
        budget = compared.budgets[max(g[BUDGET] for g in goals)]
        best = compared.best(budget)
        if best is None:
            continue
        level = statistics.fmean(best[1].values())
        flops = compared.reached(name, level)
        rows.append([name, quantity(budget, "FLOP"), f"{level:.3f} ({best[0]})",
                     "not reached" if flops is None else f"{quantity(flops, 'FLOP')} ({flops / budget:.2f} x)"])
    return _table(["way", "budget", "the front's result", "reached for"], rows)


def sentences(results: Results) -> list[str]:
    """Return the tables."""
    compared = Compared(results)
    unit = compared.metric.unit or compared.metric.label
    return [f"From scratch ({unit}):", "", front_table(compared), "",
            "Grown (ahead: better by so much, at equal seeds):", "", ways_table(compared), "",
            "The FLOPs to what the front has at a budget:", "", reach_table(compared), "",
            "Rates, on other seeds:", "", rates_table(compared)]


def figures(results: Results, out: Path) -> list[str]:
    """Draw results against FLOPs, and the distance to the front; return the files' names."""
    compared = Compared(results)
    label, name = compared.metric.unit or compared.metric.label, results["experiment"]
    shown = {n: compared.points(group, n) for group, names in ((FRONT, "sizes"), (GROWN, "ways")) for n in results[names]}
    plain = {n: [[{"flops": f, label: y} for f, y in ps] for ps in points.values()] for n, points in shown.items() if points}
    curves(plain, out / f"{name}.png", y=label, title=results["title"], log_x=True, growths=False)
    gap = f"{label} ahead of the front"
    gaps: dict[str, list[list[dict[str, float]]]] = {}
    for n, points in shown.items():
        for seed, ps in points.items():
            line = []
            for f, y in ps:
                best = compared.best(f)
                if best is not None and seed in best[1]:
                    line.append({"flops": f, gap: compared.sign * (y - best[1][seed])})
            gaps.setdefault(n, []).append(line)
    lowest = -DEPTH * max((row[gap] for n in results["ways"] for line in gaps.get(n, ()) for row in line), default=0.0)
    near = {n: [end for line in lines if (end := line[_behind(line, gap, lowest):])] for n, lines in gaps.items()}
    near = {n: lines for n, lines in near.items() if lines}
    curves(near, out / f"{name}-front.png", y=gap, title=results["title"], log_x=True, growths=False)
    return [f"{name}-front.png", f"{name}.png"]


def _behind(line: Sequence[Mapping[str, float]], gap: str, lowest: float) -> int:
    """Return where a line begins behind its last point that is lower than the figure shows."""
    return max((i + 1 for i, row in enumerate(line) if row[gap] < lowest < 0), default=0)


def write(results: Results, out: Path) -> dict[str, Any]:
    """Write `results.json`, `table.md` and the figures; return what the command reports."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "results.json") as file:
        file.write(json.dumps(results, indent=1).encode())
    lines = sentences(results)
    with atomic_write(out / "table.md") as file:
        file.write("\n".join([f"# {results['title']}", "", results["source"], "", "Made by", "", f"    {results['command']}",
                              "", *lines, ""]).encode())
    head = {k: results[k] for k in ("experiment", "title", "source", "scale", "data", "seeds", "command")}
    return {**head, "summary": [], "conclusions": lines, "figures": figures(results, out)}
