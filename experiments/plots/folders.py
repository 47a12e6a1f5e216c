"""Runs out of folders, those of `fxgrow train -o` and TensorBoard's own, grouped by what they are about.

What lives here: finding, reading and grouping. What does not: what is made of the rows (numbers.py).
"""
import fnmatch
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxgrow.common import did_you_mean
from fxgrow.experiments.plots.numbers import PlotError
from fxgrow.experiments.settings import optional

HISTORY, EVENTS = "history.jsonl", "events.out.tfevents.*"
TAG = re.compile(r"(\w+)/(train|validation)")  # what fxgrow's own watcher calls the columns of the history
GROWTH = "growth/text_summary"
# settings that do not change what a run is about
ASIDE = {"seed", "out", "device", "workers", "root", "download", "tensorboard", "checkpoint_every"}
SEED = re.compile(r"(^|[-_./ =]+)(seed|s)?[-_./ =]*\d*$")  # what is left of a seed at the end of a common beginning


@dataclass
class StoredRun:
    """A run on the disk, from `source` history or tensorboard; its settings are empty where they are not known."""
    name: str
    folder: Path
    source: str
    rows: list[dict[str, Any]]
    settings: dict[str, Any]


def read_runs(paths: Sequence[str | os.PathLike]) -> list[StoredRun]:
    """Read the runs in folders and below them, each once, named by what tells their paths apart.

    Raises PlotError if there is no such folder, no run in it, or no TensorBoard; it or ArchiveError if a file is damaged.
    """
    folders: dict[str, Path] = {}
    for path in paths:
        if not Path(path).is_dir():
            what = "a file" if Path(path).exists() else "not there"
            raise PlotError(f"{os.fspath(path)} is {what}: name a folder of runs")
        below = list(_runs_below(os.path.normpath(Path(path).absolute())))
        if not below:
            raise PlotError(f"{os.fspath(path)}: there is no run in it: neither {HISTORY}, which `fxgrow train -o` writes, "
                            "nor TensorBoard's event files")
        folders |= {os.path.realpath(folder): folder for folder in below}
    if not folders:
        raise PlotError("there are no runs to plot: name at least one folder")
    common = os.path.commonpath([folder.parent for folder in folders.values()])
    return [_read(folder, os.path.relpath(folder, common)) for folder in folders.values()]


def _runs_below(path: str) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        if HISTORY in files:
            subfolders.clear()  # TensorBoard's files of the same run
        if HISTORY in files or fnmatch.filter(files, EVENTS):
            yield Path(folder)


def _read(folder: Path, name: str) -> StoredRun:
    from fxgrow.experiments.train import CHECKPOINT_NAME, checkpoint_settings
    if not (folder / HISTORY).exists():
        return StoredRun(name, folder, "tensorboard", read_events(folder), {})
    file = folder / CHECKPOINT_NAME
    settings = checkpoint_settings(file) if file.exists() else {}
    return StoredRun(name, folder, "history", read_history(folder / HISTORY), settings)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a `history.jsonl`; a last line without an end, of a run that goes on, is not one yet."""
    rows = []
    for i, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise PlotError(f"{path} is damaged in line {i}: mend it, or go on with the run, which writes it anew")
        rows.append(row)
    return rows


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read a row for each step: its scalars by tag, `step`, `seconds` since the first, `event` from fxgrow's own text.

    A tag that was written twice at one step (before and after a growth) makes two rows.
    """
    reader = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = optional(reader, "TensorBoard's files cannot be read", "plots", PlotError)
    from tensorboard.util.tensor_util import make_ndarray
    kept = {"scalars": 0, "tensors": 0, "histograms": 1, "compressedHistograms": 1, "images": 1, "audio": 1}  # 0: all
    log = accumulator.EventAccumulator(str(folder), size_guidance=kept).Reload()
    tags = log.Tags()
    series = {tag: [(e.step, e.wall_time, e.value) for e in log.Scalars(tag)] for tag in tags["scalars"]}
    series |= {tag: [(e.step, e.wall_time, make_ndarray(e.tensor_proto).item()) for e in log.Tensors(tag)]
               for tag in tags["tensors"] if log.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"}
    steps: dict[int, list[dict[str, Any]]] = {}
    began = min((time for events in series.values() for _, time, _ in events), default=0.0)
    for tag, events in series.items():
        seen: dict[int, int] = {}
        for step, time, value in events:
            at, i = steps.setdefault(step, []), seen.get(step, 0)
            seen[step] = i + 1
            if i == len(at):
                at.append({"step": step, "seconds": time - began, "event": ""})
            at[i] |= {tag: value, _column(tag): value}
    if GROWTH in tags["tensors"]:
        _mark(steps, [(e.step, make_ndarray(e.tensor_proto).item()) for e in log.Tensors(GROWTH)])
    return [row for step in sorted(steps) for row in steps[step]]


def _column(tag: str) -> str:
    """Return the column of the history that a tag is of: `loss/train` is train_loss, `accuracy/validation` val_accuracy."""
    found = TAG.fullmatch(tag)
    return f"{found[2].removesuffix('idation')}_{found[1]}" if found else tag


def _mark(steps: dict[int, list[dict[str, Any]]], texts: Sequence[tuple[int, bytes]]) -> None:
    """Mark the rows that were written behind a growth, the last ones of its step, with what grew."""
    for step in {step for step, _ in texts}:
        words = [text.decode(errors="replace").split("\n")[0] for at, text in texts if at == step]
        rows = steps.setdefault(step, [])
        rows += [{"step": step} for _ in words[len(rows):]]
        for row, event in zip(rows[-len(words):], words):
            row["event"] = event


def group_runs(runs: Sequence[StoredRun], group: str | None = None) -> dict[str, list[StoredRun]]:
    """Return, by label, the runs that are drawn together.

    Without `group`: runs whose settings differ in the seed alone; a run whose settings are not known is alone. With it:
    runs with the same value of the setting of that name, or the same match of a regular expression in their name (of its
    groups, if it has some); PlotError if it is neither, or does not say where a run belongs.
    """
    groups: defaultdict[str, list[StoredRun]] = defaultdict(list)
    by_setting = any(group in run.settings for run in runs)
    for run in runs:
        if group is None:
            groups[_about(run)].append(run)
        else:
            groups[_value(run, group) if by_setting else _match(run, group, runs)].append(run)
    return dict(groups) if group is not None else dict(zip(_labels(list(groups.values())), groups.values()))


def _about(run: StoredRun) -> str:
    if not {"model", "data"} <= run.settings.keys():
        return f"run {run.name}"
    return json.dumps({name: value for name, value in run.settings.items() if name not in ASIDE}, sort_keys=True)


def _labels(groups: Sequence[Sequence[StoredRun]]) -> list[str]:
    """Return what the names of a group begin with, if that tells the groups apart; else their first names."""
    first = [group[0].name for group in groups]
    common = [SEED.sub("", os.path.commonprefix([run.name for run in group])) for group in groups]
    labels = [name if len(group) == 1 else beginning for group, name, beginning in zip(groups, first, common)]
    return labels if len({*labels, ""}) > len(labels) else first


def _value(run: StoredRun, setting: str) -> str:
    if setting not in run.settings:
        raise PlotError(f"{run.name} does not say what its {setting} is: leave it out, or group by a part of the names")
    value = run.settings[setting]
    if isinstance(value, list):
        value = "; ".join(map(str, value)) or "none"
    return f"{setting} {value}"


def _match(run: StoredRun, pattern: str, runs: Sequence[StoredRun]) -> str:
    try:
        match = re.search(pattern, run.name)
    except re.error as error:
        raise PlotError(f"--group {pattern}: {error}; give a setting or a regular expression") from error
    if match is None:
        settings = sorted({name for other in runs for name in other.settings})
        raise PlotError(f"--group {pattern}: neither a setting{did_you_mean(pattern, settings)} nor found in the name "
                        f"{run.name}")
    return " ".join(part for part in match.groups() if part) or match[0]
