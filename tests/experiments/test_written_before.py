"""Runs, searches and experiments that fxgrow 0.1.0 began and that were cut off: they go on to where it got.

The folders, packed, and what the old code reached when it went on are in tests/data/written_before; its README.md says how
they were made. Training is the same bit by bit on one machine; on others sums are rounded otherwise, so that losses are
compared to a relative error of 1e-4.
"""
from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fxgrow

DATA = Path(__file__).parents[1] / "data" / "written_before"
KNOWN = json.loads((DATA / "runs.json").read_text(encoding="utf-8"))
# Absolute: one sample more or less; the end of an iteration; biases in front of a norm, whose gradients are rounding alone,
# of which Adam makes steps, and the means that they move.
LOOSE = {"accuracy": 0.05, "weights": 0.01, **dict.fromkeys(("running_mean", ".0.bias", ".3.bias", ".6.bias"), 0.005)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unpack(name: str) -> str:
    """The folder, as it was when the old code was stopped."""
    shutil.unpack_archive(DATA / f"{name}.zip")
    return name


def run(words: str) -> Any:
    """What a command of `fxgrow` reports; it is found as the installed script finds it."""
    main = next(iter(entry_points(group="console_scripts", name="fxgrow"))).load()
    result = CliRunner().invoke(main, shlex.split(words))
    assert result.exit_code == 0, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return json.loads(result.stdout)


def assert_as_told(found: Any, told: Any, where: str = "", loose: float | None = None) -> None:
    """Words and whole numbers exactly, other numbers closely; what is not told of is not looked at."""
    if isinstance(told, dict):
        for key, value in told.items():
            near = next((size for word, size in LOOSE.items() if word in key), loose)
            assert_as_told(found[key], value, f"{where}.{key}", near)
    elif isinstance(told, list):
        assert len(found) == len(told), f"{where}: {found} and {told}"
        for i, (a, b) in enumerate(zip(found, told)):
            assert_as_told(a, b, f"{where}[{i}]", loose)
    elif isinstance(told, float):
        close = pytest.approx(told, rel=1e-4, abs=1e-6) if loose is None else pytest.approx(told, abs=loose)
        assert found == close, where
    else:
        assert found == told, f"{where}: {found!r} and {told!r}"


# --- training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN["train"])
def test_a_run_goes_on_to_where_it_got(name):
    told, folder = KNOWN["train"][name], unpack(name)
    report = run(f"train --resume {folder} --json")
    assert_as_told(report, told["report"])
    assert_as_told(report["growths"], told["growths"])
    rows = [json.loads(line) for line in Path(folder, "history.jsonl").read_text().splitlines()]
    assert_as_told(rows, told["rows"])
    model = fxgrow.load(f"{folder}/model.pt")
    assert_as_told({n: float(t.double().norm()) for n, t in model.state_dict().items()}, told["norms"])
    record = model.meta["growth"]["record"]
    assert record.lineage == told["lineage"]
    small = record.shrink(model)
    assert {n: list(t.shape) for n, t in small.state_dict().items()} == told["small"]


@pytest.mark.parametrize("name", KNOWN["train"])
def test_a_run_that_was_cut_off_can_be_plotted(name):
    curves = run(f"plot {unpack(name)} -x step -y val_loss --json")["curves"]
    assert_as_told(curves, KNOWN["train"][name]["plot"])


# --- searches -----------------------------------------------------------------------------------------------------------


def evaluations(folder: str) -> list[tuple]:
    db = sqlite3.connect(Path(folder, "search.sqlite"))
    try:
        return db.execute("SELECT * FROM evaluations ORDER BY rowid").fetchall()
    finally:
        db.close()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", KNOWN["evolve"])
def test_a_search_goes_on_to_where_it_got(name):
    told, folder = KNOWN["evolve"][name], unpack(name)
    before = evaluations(folder)
    assert len(before) == told["before"]
    report = run(f"evolve --resume {folder} --json")
    assert_as_told(report, told["report"])
    assert evaluations(folder)[:len(before)] == before  # nothing is trained twice
    best = fxgrow.load(f"{folder}/best.pt")
    assert {n: list(t.shape) for n, t in best.state_dict().items()} == told["best"]
    assert_as_told(run(f"ensemble {folder} --members 2 --json"), told["ensemble"])


@pytest.mark.parametrize("name", KNOWN["evolve"])
def test_every_network_of_a_search_is_still_the_one_that_its_name_is_the_hash_of(name):
    """A file that holds a difference is put together and written again, which must give the bytes that it was named by."""
    page = run(f"evolve-report {unpack(name)} -o page.html --thorough --json")
    assert page["damaged"] == [] and Path("page.html").exists()
    kinds = {file.read_bytes()[:4] for file in Path(name, "networks").iterdir()}
    assert kinds == {b"fxw1", b"fxd1"}  # whole networks, and differences


# --- experiments --------------------------------------------------------------------------------------------------------


def test_an_experiment_goes_on_with_the_runs_that_it_has():
    """Two of seven runs were left out: the one from scratch, and one that starts from the teacher's archive."""
    folder = Path(unpack("experiment"))
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*/*")}
    report = run("experiment overfitted-teacher --scale smoke --seeds 1 --device cpu --json --out experiment")
    assert_as_told(report["summary"], KNOWN["experiment"])
    assert all(file.stat().st_mtime_ns == at for file, at in kept.items())  # none was made again
    assert len(list((folder / "runs").iterdir())) == 7 and (folder / "results.json").exists()
