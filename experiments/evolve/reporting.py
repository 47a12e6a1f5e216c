"""One page about a search: who descends from whom, what each step did, what is best, what led to nothing.

What lives here: the page's data, of a search that has ended, runs or was cut off. What does not: how it looks and moves
(page/, with the parts of fxgrow/page/), what a search was at each time (history.py).
"""
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.fx import GraphModule

import fxgrow
from fxgrow.common import atomic_write, mixed, quantity
from fxgrow.cost import count_flops
from fxgrow.diagram import VIRIDIS, diagram_data
from fxgrow.errors import DrawError, FxgrowError
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.ensembles import ENSEMBLES
from fxgrow.experiments.evolve.history import SearchHistory, read_search
from fxgrow.experiments.evolve.member import Member, Scored, ancestry
from fxgrow.experiments.evolve.selection import last_states
from fxgrow.experiments.evolve.store import Store, opened
from fxgrow.graph import Captured
from fxgrow.page import PARTS, STYLES, page
from fxgrow.record import describe_step

HERE = Path(__file__).parent / "page"
SCRIPTS = (*PARTS, *(HERE / name for name in ("lineage.js", "lineage_view.js", "charts.js", "members.js", "evolve.js")))
EXAMPLES = 3  # of discarded mutations with one reason

Compared = Literal["all", "line", "none"]
OnProgress = Callable[[int, int], None]


def report(folder: str | os.PathLike, path: str | os.PathLike, *, title: str = "", changes: Compared = "all",
           thorough: bool = False, progress: OnProgress = lambda done, all: None) -> dict[str, Any]:
    """Write a page about the search in a folder, which may go on meanwhile, into an .html file, and return its data.

    Args:
        title: the page's heading; the folder's name without it.
        changes: whose layers are compared with their parents': those of all members, of the best one and its ancestors, or
            nobody's. A comparison reads one file and takes about a tenth of a second for a small network.
        thorough: check the stored networks by putting each together, and not by the checksums of their files alone.
        progress: called with how many comparisons are done, and of how many.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise DrawError(f"{target}: a report is one .html file")
    data = page_data(folder, title=title, changes=changes, thorough=thorough, progress=progress)
    content = page(data, scripts=SCRIPTS, styles=(*STYLES, HERE / "evolve.css"))
    with atomic_write(target) as file:
        file.write(content)
    return data


def page_data(folder: str | os.PathLike, *, title: str = "", changes: Compared = "all", thorough: bool = False,
              progress: OnProgress = lambda done, all: None) -> dict[str, Any]:
    """Return everything that the page shows; arguments and errors are those of `report`."""
    h = read_search(folder)
    with opened(folder) as store:
        damaged = store.check(thorough)
        line = ancestry(h.members, h.best.number) if h.best is not None else [0]
        wanted = {"all": h.members, "line": line, "none": ()}[changes]
        layers = _changes(store, h, [n for n in wanted if h.members[n].parent is not None], progress)
        lost = [{"number": s.number, "round": s.round, "reason": damaged[s.archive]}
                for s in h.scored if s.archive in damaged]
        return {"title": title or Path(folder).resolve().name, "heat": VIRIDIS, "facts": _facts(h, damaged),
                "finished": h.finished, "state": _state(h), "best": None if h.best is None else h.best.number, "line": line,
                "columns": "generation" if h.config.mode == "steady" else "round",
                "members": [_member(h, m, damaged, layers) for m in h.members.values()], "curves": _curves(h),
                "damaged": lost, "discarded": grouped(h.discarded), "settings": _settings(h.config),
                "seed": h.config.seed, "resume": f"fxgrow evolve --resume {folder}", **_network(store, h),
                **_ensembles(Path(folder) / ENSEMBLES)}


def _state(h: SearchHistory) -> str:
    if h.finished:
        return "finished"
    last = h.stages[-1].label if h.stages else "0"
    unit = "that of child" if h.config.mode == "steady" else "in round"
    return (f"not finished: it runs or was cut off. {len(h.scored)} trainings are done, the last {unit} {last}; "
            f"{len(h.waiting)} networks wait for theirs")


def _facts(h: SearchHistory, damaged: Mapping[str, str]) -> dict[str, str]:
    """Return what stands at the top of the page."""
    config, base = h.config, h.members.get(0)
    counts = f"{len(h.members):,}, {len(h.scored):,} trainings, {len(h.discarded):,} mutations discarded"
    selection = "a selection of your own" if "selection" in config.given else config.selection
    facts = {"search": f"{selection}, weights {config.weights}, {config.mode}", "base network": config.model,
             "data": config.data, "networks": counts, "FLOPs spent in training": quantity(sum(s.spent for s in h.scored)),
             "time of training": _duration(sum(s.seconds for s in h.scored))}
    first = h.of(0)
    if h.best is not None and base is not None and first:
        m, steps = h.best.member, len(ancestry(h.members, h.best.number)) - 1
        facts |= {"best network": f"#{m.number}, {steps} step{'' if steps == 1 else 's'} from the base network",
                  "its accuracy": f"{h.best.accuracy:.4f}; base {first[0].accuracy:.4f} after its first training",
                  "its parameters": f"{m.parameters:,}; base {base.parameters:,}",
                  "its FLOPs forward": f"{quantity(m.flops)}; base {quantity(base.flops)}"}
        if h.best.fitness is not None:
            facts["its fitness"] = f"{h.best.fitness:.6g}; base {first[0].fitness:.6g}"
        top = max(last_states(h.scored), key=lambda s: s.accuracy)
        if top.accuracy > h.best.accuracy:
            facts["highest accuracy of all"] = f"{top.accuracy:.4f}, #{top.number}"
    if damaged:
        facts["damaged networks"] = f"{len(damaged)}"
    return facts


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _member(h: SearchHistory, m: Member, damaged: Mapping[str, str], layers: Mapping[int, Any]) -> dict[str, Any]:
    """Return a member with its trainings; its accuracy is that after the last one that ended well."""
    ended = h.of(m.number)
    last = next((s for s in reversed(ended) if s.archive), None)
    state = "waiting" if not ended else "failed"
    step = m.step or {}
    return {"number": m.number, "round": m.round, "parent": m.parent, "pass": step.get("pass", "base network"),
            "step": describe_step(step) if step else "the base network", "where": _words(step.get("where", "")),
            "parameters": m.parameters, "flops": m.flops, "latency": m.latency, "graph": m.graph,
            "options": {k: _words(v) for k, v in step.items() if k not in ("pass", "where") and v is not None},
            "accuracy": last.accuracy if last else None, "loss": last.loss if last else None,
            "alive": m.number in h.alive, "state": "trained" if last else state,
            "damaged": damaged.get(last.archive) if last else None, "layers": layers.get(m.number),
            "trainings": [[s.round, s.accuracy if s.archive else None, s.loss, s.steps, s.spent, s.seconds, _seed(h, s)]
                          for s in ended]}


def _seed(h: SearchHistory, s: Scored) -> int:
    """Return the seed of a training, as searching.py draws it."""
    shared = h.config.weights == "share" and 0 < s.round <= h.config.rounds
    numbers = [s.round] if shared else [s.round, s.number]
    return mixed(h.config.seed, *numbers) % 2 ** 31


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _curves(h: SearchHistory) -> dict[str, Any]:
    """Return the best and mean accuracy after each round (each training, where there are no rounds)."""
    points: list[dict[str, Any]] = []
    highest = 0.0
    for stage in h.stages:
        accuracies = [s.accuracy for s in stage.population]
        if accuracies:
            highest = max(highest, *accuracies)
            points.append({"at": len(points), "label": stage.label, "spent": stage.spent, "best": max(accuracies),
                           "mean": None if stage.final else sum(accuracies) / len(accuracies), "highest": highest})
    return {"unit": "training" if h.config.mode == "steady" else "round", "points": points}


def grouped(discarded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mutations that led to nothing by pass and reason (places and numbers aside), the most frequent first."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for d in discarded:
        places = d["step"].get("where") or []
        reason = d["reason"]
        for place in sorted([places] if isinstance(places, str) else places, key=len, reverse=True):
            reason = reason.replace(place, "…")
        reason = re.sub(r"(?<![\w.])[-+]?\d[\d,.]*(e[-+]?\d+)?", "…", reason)
        name = d["step"]["pass"]
        group = groups.setdefault((name, reason), {"pass": name, "count": 0, "reason": reason,
                                                   "rounds": [d["round"], d["round"]], "examples": []})
        group["count"] += 1
        group["rounds"][1] = d["round"]
        if len(group["examples"]) < EXAMPLES:
            group["examples"].append({"parent": d["parent"], "step": describe_step(d["step"]), "reason": d["reason"]})
    return sorted(groups.values(), key=lambda g: -g["count"])


def _settings(config: SearchConfig) -> list[dict[str, str]]:
    """Return each setting and its default, those that differ first."""
    usual = SearchConfig().to_json()
    rows = [{"name": name, "value": _shown(value), "usual": _shown(usual[name])} for name, value in config.to_json().items()]
    return sorted(rows, key=lambda row: row["value"] == row["usual"])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ensembles(path: Path) -> dict[str, Any]:
    """Return a table from the file of ensembles: a list of rows, or an object that holds one; nothing without the file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"ensembles": [], "ensembles_about": "", "ensembles_problem": f"{path.name} cannot be read: {error}"}
    if isinstance(content, list):
        content = {"rows": content}
    elif not isinstance(content, dict):
        content = {}
    rows = [{str(k): v if isinstance(v, (int, float, str)) else _shown(v) for k, v in row.items()}
            for row in next((v for v in content.values() if isinstance(v, list)), []) if isinstance(row, dict)]
    about = ", ".join(f"{k} {v}" for k, v in content.items() if isinstance(v, (int, float, str)))
    return {"ensembles": rows, "ensembles_about": about,
            "ensembles_problem": "" if rows else f"{path.name} holds no list of ensembles"}


def _structure(store: Store, trainings: Iterable[Scored]) -> GraphModule:
    """Return a member's network, its numbers aside, from the last of its files that can be read, or raise FxgrowError."""
    problem = "it was not trained so far"
    for s in reversed([s for s in trainings if s.archive]):
        try:
            return store.structure(s.archive)
        except FxgrowError as error:
            problem = str(error)
    raise FxgrowError(problem)


def _changes(store: Store, h: SearchHistory, numbers: Sequence[int], progress: OnProgress) -> dict[int, Any]:
    """Return what each member's step did to the layers of its parent, or a sentence why that is not known."""
    changes: dict[int, Any] = {}
    for done, number in enumerate(numbers):
        progress(done, len(numbers))
        try:
            layers = fxgrow.diff(_structure(store, h.of(number))).layers
            changes[number] = [vars(c) for c in layers if c.status != "same"]
        except FxgrowError as error:
            changes[number] = str(error)
    progress(len(numbers), len(numbers))
    return changes


def _network(store: Store, h: SearchHistory) -> dict[str, Any]:
    """Return the best network's diagram, and what became of the base network's layers."""
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
    costs = count_flops(model, Captured(model).inputs).by_node()
    data: dict[str, Any] = {"diagram": diagram_data(model, model, costs, difference), "diagram_problem": problem}
    if difference is not None:
        data["changes"] = [vars(c) for c in difference.layers]
    return data
