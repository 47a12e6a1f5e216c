"""One page about a search: who descends from whom, what each step did, what is best, what led to nothing.

What lives here: what the page is told of a search that has ended, runs or was cut off. What does not: how it looks and moves
(experiments/evolve/page/, with the parts of fxgrow/page/), what a search was at each time (history.py).
"""
from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.fx import GraphModule

import fxgrow
from fxgrow.common import atomic_write, quantity
from fxgrow.cost import count_flops
from fxgrow.diagram import VIRIDIS, diagram_data
from fxgrow.errors import DrawError, FxgrowError
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.history import History, history
from fxgrow.experiments.evolve.member import Member, Scored
from fxgrow.experiments.evolve.store import Store
from fxgrow.experiments.seeds import mixed
from fxgrow.page import PARTS, STYLES, page
from fxgrow.record import describe_step

HERE = Path(__file__).parent / "page"
SCRIPTS = (*PARTS, *(HERE / name for name in ("lineage.js", "lineage_view.js", "charts.js", "members.js", "evolve.js")))
ENSEMBLES = "ensembles.json"
EXAMPLES = 3  # of discarded mutations with one reason

Changes = Literal["all", "line", "none"]
Progress = Callable[[int, int], None]


def report(folder: str | os.PathLike, path: str | os.PathLike, *, title: str = "", changes: Changes = "all",
           thorough: bool = False, progress: Progress = lambda done, all: None) -> dict[str, Any]:
    """Writes a page about the search in a folder, which may go on meanwhile, and gives what it is told.

    Args:
        path: an .html file.
        title: the page's heading; the folder's name without it.
        changes: whose layers are compared with their parents': those of all members, of the best one and its ancestors, or
            nobody's. A comparison reads one file and takes about a tenth of a second for a small network.
        thorough: check the stored networks by putting each together, and not by the checksums of their files alone.
        progress: called with how many comparisons are done, and of how many.

    Raises:
        DrawError: `path` is no .html file.
        TrainError: there is no search in the folder.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise DrawError(f"{target}: a report is one .html file")
    told = tell(folder, title=title, changes=changes, thorough=thorough, progress=progress)
    content = page(told, scripts=SCRIPTS, styles=(*STYLES, HERE / "evolve.css"))
    with atomic_write(target) as file:
        file.write(content)
    return told


def tell(folder: str | os.PathLike, *, title: str = "", changes: Changes = "all", thorough: bool = False,
         progress: Progress = lambda done, all: None) -> dict[str, Any]:
    """Everything that the page shows; arguments and errors are those of `report`."""
    h = history(folder)
    store = Store(Path(folder))
    try:
        damaged = store.check(thorough)
        line = h.line(h.best.number) if h.best is not None else [0]
        wanted = {"all": h.members, "line": line, "none": ()}[changes]
        layers = _changes(store, h, [n for n in wanted if h.members[n].parent is not None], progress)
        told = {"title": title or Path(folder).resolve().name, "heat": VIRIDIS, "facts": _facts(h, damaged),
                "finished": h.finished, "state": _state(h), "best": None if h.best is None else h.best.number, "line": line,
                "columns": "generation" if h.config.mode == "steady" else "round",
                "members": [_member(h, m, damaged, layers) for m in h.members.values()], "curves": _curves(h),
                "damaged": _damaged(h, damaged), "discarded": grouped(h.discarded), "settings": _settings(h.config),
                "seed": h.config.seed, "resume": f"fxgrow evolve --resume {folder}", **_network(store, h),
                **_ensembles(Path(folder) / ENSEMBLES)}
    finally:
        store.close()
    return told


def _state(h: History) -> str:
    last = h.stages[-1].label if h.stages else "0"
    if h.finished:
        return "finished"
    unit = "that of child" if h.config.mode == "steady" else "in round"
    return (f"not finished: it runs or was cut off. {len(h.scored)} trainings are done, the last {unit} {last}; "
            f"{len(h.waiting)} networks wait for theirs")


def _facts(h: History, damaged: Mapping[str, str]) -> dict[str, str]:
    """What stands at the top of the page."""
    config, base = h.config, h.members.get(0)
    counts = f"{len(h.members):,}, {len(h.scored):,} trainings, {len(h.discarded):,} mutations discarded"
    facts = {"search": f"{config.selection}, weights {config.weights}, {config.mode}", "base network": config.model,
             "data": config.data, "networks": counts, "FLOPs spent in training": quantity(sum(s.spent for s in h.scored)),
             "time of training": _duration(sum(s.seconds for s in h.scored))}
    first = h.of(0)
    if h.best is not None and base is not None and first:
        m, steps = h.best.member, len(h.line(h.best.number)) - 1
        facts |= {"best network": f"#{m.number}, {steps} step{'s' * (steps != 1)} from the base network",
                  "its accuracy": f"{h.best.accuracy:.4f}; base {first[0].accuracy:.4f} after its first training",
                  "its parameters": f"{m.parameters:,}; base {base.parameters:,}",
                  "its FLOPs forward": f"{quantity(m.flops)}; base {quantity(base.flops)}"}
        top = max((good[-1] for n in h.members if (good := [s for s in h.of(n) if s.archive])), key=lambda s: s.accuracy)
        if top.accuracy > h.best.accuracy:
            facts["highest accuracy of all"] = f"{top.accuracy:.4f}, #{top.number}"
    return facts | ({"damaged networks": f"{len(damaged)}"} if damaged else {})


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _member(h: History, m: Member, damaged: Mapping[str, str], layers: Mapping[int, Any]) -> dict[str, Any]:
    """A member with its trainings. accuracy: after the last one that ended well."""
    ended = h.of(m.number)
    good = [s for s in ended if s.archive]
    step = m.step or {}
    return {"number": m.number, "round": m.round, "parent": m.parent, "pass": step.get("pass", "base network"),
            "step": describe_step(step) if step else "the base network", "where": _words(step.get("where", "")),
            "parameters": m.parameters, "flops": m.flops, "latency": m.latency, "graph": m.graph,
            "options": {k: _words(v) for k, v in step.items() if k not in ("pass", "where") and v is not None},
            "accuracy": good[-1].accuracy if good else None, "loss": good[-1].loss if good else None,
            "alive": m.number in h.alive, "state": "trained" if good else "failed" if ended else "waiting",
            "damaged": damaged.get(good[-1].archive) if good else None, "layers": layers.get(m.number),
            "trainings": [[s.round, s.accuracy if s.archive else None, s.loss, s.steps, s.spent, s.seconds, _seed(h, s)]
                          for s in ended]}


def _seed(h: History, s: Scored) -> int:
    """Of a training, as searching.py draws it."""
    shared = h.config.weights == "share" and 0 < s.round <= h.config.rounds
    return mixed(h.config.seed, s.round, *(() if shared else (s.number,))) % 2 ** 31


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _curves(h: History) -> dict[str, Any]:
    """Of the population after each round (each training, where there are no rounds): its best and mean accuracy."""
    points: list[dict[str, Any]] = []
    highest = 0.0
    for stage in h.stages:
        found = [s.accuracy for s in stage.population]
        if found:
            highest = max(highest, *found)
            points.append({"at": len(points), "label": stage.label, "spent": stage.spent, "best": max(found),
                           "mean": None if stage.final else sum(found) / len(found), "highest": highest})
    return {"unit": "training" if h.config.mode == "steady" else "round", "points": points}


def _damaged(h: History, damaged: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"number": s.number, "round": s.round, "reason": damaged[s.archive]} for s in h.scored if s.archive in damaged]


def grouped(discarded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mutations that led to nothing, by pass and reason (its places and numbers aside), the most frequent first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for d in discarded:
        places = d["step"].get("where") or []
        reason = d["reason"]
        for place in sorted([places] if isinstance(places, str) else places, key=len, reverse=True):
            reason = reason.replace(place, "…")
        reason = re.sub(r"(?<![\w.])[-+]?\d[\d,.]*(e[-+]?\d+)?", "…", reason)
        group = found.setdefault((d["step"]["pass"], reason), {"pass": d["step"]["pass"], "count": 0, "reason": reason,
                                                               "rounds": [d["round"], d["round"]], "examples": []})
        group["count"] += 1
        group["rounds"][1] = d["round"]
        if len(group["examples"]) < EXAMPLES:
            group["examples"].append({"parent": d["parent"], "step": describe_step(d["step"]), "reason": d["reason"]})
    return sorted(found.values(), key=lambda g: -g["count"])


def _settings(config: SearchConfig) -> list[dict[str, str]]:
    """Each setting and its default, those that differ first."""
    usual = SearchConfig()
    told = [{"name": f.name, "value": _shown(getattr(config, f.name)), "usual": _shown(getattr(usual, f.name))}
            for f in dataclasses.fields(config)]
    return sorted(told, key=lambda s: s["value"] == s["usual"])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ensembles(path: Path) -> dict[str, Any]:
    """A table out of the file of ensembles: a list of tables, or a table that holds one. Nothing without the file."""
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"ensembles": [], "ensembles_about": "", "ensembles_problem": f"{path.name} cannot be read: {error}"}
    told = {"rows": held} if isinstance(held, list) else held if isinstance(held, dict) else {}
    rows = [{str(k): v if isinstance(v, (int, float, str)) else _shown(v) for k, v in row.items()}
            for row in next((v for v in told.values() if isinstance(v, list)), []) if isinstance(row, dict)]
    about = ", ".join(f"{k} {v}" for k, v in told.items() if isinstance(v, (int, float, str)))
    return {"ensembles": rows, "ensembles_about": about,
            "ensembles_problem": "" if rows else f"{path.name} holds no list of ensembles"}


def _structure(store: Store, trainings: Iterable[Scored]) -> GraphModule:
    """A member's network, its numbers aside, from the last of its files that can be read.

    Raises:
        FxgrowError: there is none.
    """
    problem = "it was not trained so far"
    for s in reversed([s for s in trainings if s.archive]):
        try:
            return store.structure(s.archive)
        except FxgrowError as error:
            problem = str(error)
    raise FxgrowError(problem)


def _changes(store: Store, h: History, numbers: Sequence[int], progress: Progress) -> dict[int, Any]:
    """What the step of each of these members did to the layers of its parent, or a sentence why that is not known."""
    found: dict[int, Any] = {}
    for done, number in enumerate(numbers):
        progress(done, len(numbers))
        try:
            found[number] = [vars(c) for c in fxgrow.diff(_structure(store, h.of(number))).layers if c.status != "same"]
        except FxgrowError as error:
            found[number] = str(error)
    progress(len(numbers), len(numbers))
    return found


def _network(store: Store, h: History) -> dict[str, Any]:
    """The best network's diagram, and what became of the base network's layers."""
    if h.best is None:
        return {"missing": "no network has been trained so far"}
    try:
        model = _structure(store, h.of(h.best.number))
    except FxgrowError as error:
        return {"missing": str(error)}
    difference, problem = None, ""
    if h.best.member.parent is not None:
        try:
            difference = fxgrow.diff(_structure(store, h.of(0)), model)
        except FxgrowError as error:
            problem = f"not compared with the base network: {error}"
    costs = count_flops(model, model.meta["example_inputs"]).by_node()
    told = {"diagram": diagram_data(model, model, costs, difference), "diagram_problem": problem}
    return told if difference is None else {**told, "changes": [vars(c) for c in difference.layers]}
