"""`fxgrow evolve`: settings, report, and a search whose process is killed."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import run

import fxgrow
from fxgrow.experiments.evolve import Store, resumed

TOML = """
model = "zoo:mlp:hidden=(8,8)"
data = "digits"
limit = 60
rounds = 2
keep = 2
children = 2
first_steps = 4
steps = 8
final_steps = 2
[train]
batch_size = 20
lr = 0.05
[[mutations]]
pass = "widen"
factor = [1.5, 2.0]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.toml").write_text(TOML)
    return tmp_path


def test_a_search_from_a_file_and_options(here):
    shown = run("evolve search.toml --seed 3 --rounds 1 -o run --tensorboard").stdout
    assert "round 0   network 0" in shown and "The last population" in shown and "on the test part" in shown
    assert "mutations led to nothing" in shown
    config = resumed("run")
    assert (config.seed, config.rounds, config.children) == (3, 1, 2)
    report = json.loads(run("evolve --resume run --json").stdout)  # it has ended: the same is told, nothing is trained
    assert report["trainings"] == len(Store("run").evaluations()) and 0 <= report["test"]["accuracy"] <= 1
    assert fxgrow.load("run/best.pt").meta["growth"] is not None
    assert list((here / "run" / "tensorboard").iterdir())


def test_presets(here):
    from fxgrow.experiments.cli.evolve import settings_of
    assert settings_of(None, "x", None, "report", {})[0].steps == 5000
    assert settings_of("search.toml", "x", None, "cpu", {"keep": 1})[0].keep == 1
    assert settings_of(None, "x", None, "cpu", {})[0].rounds == 4


@pytest.mark.parametrize("words, code, said", [
    ("evolve search.toml", 2, "-o"), ("evolve --resume nothing", 1, "holds no search"),
    ("evolve search.toml --resume x", 2, "takes no others"), ("evolve missing.toml -o x", 1, "cannot be read"),
    ("evolve search.toml -o x --gpus 0.5", 1, "gpus is for engine ray"),
    ("evolve wrong.toml -o x", 2, "did you mean rounds"), ("evolve search.toml --selection worst -o x", 2, "worst"),
    ("evolve search.toml --model zoo:nothing -o x", 1, "nothing")])
def test_what_is_wrong_is_told(here, words, code, said):
    (here / "wrong.toml").write_text("round = 3")
    assert said in run(words, code).stderr


@pytest.mark.sweep
def test_a_killed_search_goes_on_to_the_same_end(here):
    """The process is killed (-9) as soon as there are so many evaluations; nothing is lost and nothing trained twice."""
    run("evolve search.toml -o whole --json")
    facts = [(s.number, s.round, s.archive, s.accuracy) for s in Store("whole").evaluations()]
    for least in (1, 4):
        process = subprocess.Popen([sys.executable, "-c", "from fxgrow.cli.main import main; main()", "evolve",
                                    "search.toml", "-o", f"run{least}"],
                                   env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        ends = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < ends:
            if (here / f"run{least}" / "search.sqlite").exists() and len(Store(f"run{least}").evaluations()) >= least:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
        process.wait(10)
        before = [(s.number, s.round, s.archive, s.accuracy) for s in Store(f"run{least}").evaluations()]
        assert len(before) >= least and before == facts[:len(before)]
        run(f"evolve --resume run{least} --json")
        assert [(s.number, s.round, s.archive, s.accuracy) for s in Store(f"run{least}").evaluations()] == facts
