"""`fxgrow train`."""
from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training import perceptron

import fxgrow
from fxgrow.cli.main import main
from fxgrow.experiments.train import Trainer, sources

MLP = "zoo:mlp:hidden=(16,) --data digits --limit 200 --lr 0.1 "


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: str, code: int = 0):
    result = CliRunner().invoke(main, ["train", *shlex.split(words)])
    assert result.exit_code == code, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return result


def test_trains_grows_and_tells(here):
    shown = run(MLP + "--epochs 4 --grow 'epoch=2: widen factor=2 method=r2r' -o runs/x").stdout
    assert "What it will cost" in shown and "grown at step 6: epoch=2: widen factor=2 method=r2r" in shown
    assert "equal: max relative error" in shown and "test        accuracy 0." in shown and "model.pt" in shown
    report = json.loads((here / "runs/x/report.json").read_text())
    assert report["flops"]["spent"] == report["flops"]["planned"] > 0
    assert report["parameters"]["after"] > report["parameters"]["before"] == 64 * 16 + 16 + 16 * 10 + 10
    assert report["test"]["accuracy"] > 0.5 and report["growths"][0]["step"] == 6
    assert fxgrow.load("runs/x/model.pt").meta["growth"]["record"].lineage
    assert "holds a run already" in run(MLP + "-o runs/x", 1).stderr


def test_a_trained_model_is_trained_further():
    run(MLP + "--epochs 2 --grow 'epoch=1: widen by=4' -o first")
    report = json.loads(run("first/model.pt --limit 200 --epochs 2 --grow 'epoch=1: widen by=2' -o second --json").stdout)
    assert report["growths"][0]["preserving"] and report["parameters"]["before"] == 20 * 75 + 10
    record = fxgrow.load("second/model.pt").meta["growth"]["record"]
    assert [step["by"] for step in record.lineage] == [4, 2]
    assert sum(p.numel() for p in record.shrink(fxgrow.load("second/model.pt")).parameters()) == 16 * 75 + 10


def test_json_and_options_over_toml(here):
    (here / "run.toml").write_text('model = "zoo:mlp:hidden=(16,)"\ndata = "digits"\nlimit = 100\nepochs = 9\nlr = 0.2\n'
                                   'grow = ["fraction=0.5: widen factor=2"]\n')
    report = json.loads(run("run.toml --epochs 2 --json -o x").stdout)
    assert (report["model"], report["steps"], report["stopped"]) == ("zoo:mlp:hidden=(16,)", 2, "")
    assert [g["entry"] for g in report["growths"]] == ["fraction=0.5: widen factor=2"]
    assert set(report["files"]) >= {"model.pt", "history.csv", "checkpoint.zip"}


def test_resumes(here, monkeypatch):
    words = MLP + "--epochs 4 --checkpoint-every 2 --grow 'step=5: widen factor=2'"
    whole = json.loads(run(f"{words} --json -o whole").stdout)
    honest = Trainer.train_step

    def stops(self, x, y):
        if self.step == 7:
            raise RuntimeError("pulled the plug")
        honest(self, x, y)

    monkeypatch.setattr(Trainer, "train_step", stops)
    assert "pulled the plug" in run(f"{words} -o half", 1).stderr
    monkeypatch.undo()
    monkeypatch.chdir(here)
    again = json.loads(run("--resume half --json").stdout)
    assert again["test"] == whole["test"] and again["validation"] == whole["validation"]
    assert again["flops"]["spent"] == whole["flops"]["spent"] and again["flops"]["planned"] < whole["flops"]["planned"]
    files = {p: p.read_bytes() for p in Path("half").iterdir() if p.is_file()}
    done = json.loads(run("--resume half --json").stdout)
    assert {p: p.read_bytes() for p in Path("half").iterdir() if p.is_file()} == files  # they are looked at, no more
    assert done["test"] == whole["test"] and done["flops"]["planned"] == 0
    assert "the run has ended at step" in run("--resume half").stdout
    run("--resume half --lr 1", 2)
    run("zoo:mlp --resume half", 2)
    assert "there is no checkpoint" in run("--resume nowhere", 1).stderr


def test_dry_run_writes_nothing(here):
    shown = run(MLP + "--steps 100 --grow 'step=50: widen by=4' --grow 'plateau=3: widen by=2' --dry-run -o x").stdout
    assert "50 - 100" in shown and "not counted plateau=3: widen by=2" in shown
    plan = json.loads(run(MLP + "--steps 100 --dry-run --json").stdout)["plan"]
    assert plan["segments"][0]["end"] == 100 and plan["flops"] == 100 * plan["segments"][0]["flops"]
    assert list(here.iterdir()) == []


def test_zoo_models_fit_the_data_and_what_is_said_counts(monkeypatch):
    from fxgrow.experiments.data import load_data
    data = load_data("digits", limit=50)
    for spec, channels in (("zoo:cifar_resnet10:r=2**-3", 1), ("zoo:cifar_resnet10", 1)):
        model = sources.load_run_model(sources.Run(model=spec), data)
        assert model.fc.out_features == 10 and next(model.parameters()).shape[1] == channels
    assert "gives 7 outputs and the data have 10 classes" in run("zoo:mlp:num_classes=7 --limit 50", 1).stderr


def test_a_model_in_a_file_and_data_in_an_npz(here):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.savez("d.npz", images=(labels[:, None, None] * 60 + rng.integers(0, 20, (60, 2, 3))).astype(np.uint8), labels=labels)
    (here / "mine.py").write_text("from torch import nn\ndef net():\n"
                                  "    return nn.Sequential(nn.Flatten(), nn.Linear(6, 3))\n")
    report = json.loads(run("mine:net --data d.npz --epochs 30 --lr 0.1 --batch-size 8 --json").stdout)
    assert report["test"]["accuracy"] == 1.0 and report["files"] == {}
    fxgrow.save(perceptron(), "m.pt", example_inputs=torch.zeros(2, 6))
    assert "m.pt (on digits) does not run on the input 2,1,8,8" in run("m.pt", 1).stderr


@pytest.mark.parametrize("words, said", [
    ("", "say what to train"), ("zoo:mlp --lr fast", "not a valid float"), ("zoo:mlp --batch-size 0", "at least 1"),
    ("zoo:mlp --grow 'epok=1: widen by=2'", "did you mean epoch"), ("zoo:mlp --optimiser sgd", "--optimizer"),
    ("bad.toml", "did you mean epochs"), ("none.toml", "cannot be read")])
def test_wrong_usage(here, words, said):
    (here / "bad.toml").write_text('model = "zoo:mlp"\nepoch = 3\n')
    assert said in run(words, 1 if words == "none.toml" else 2).stderr


def test_errors_of_the_work_itself():
    assert "no data set" in run("zoo:mlp --data digit", 1).stderr
    assert "the zoo has no model" in run("zoo:mpl", 1).stderr
    nowhere = run("zoo:mlp --limit 50 --steps 9 --grow 'step=3: widen where=q by=2'", 1).stderr
    assert "no layer that produces a growable axis is called 'q'" in nowhere
    assert "due at step 50" in run("zoo:mlp --steps 5 --limit 50 --grow 'step=50: widen by=2'", 1).stderr


def test_help_lists_every_setting():
    shown = run("--help").stdout
    for field in sources.Run.__dataclass_fields__:
        assert field == "model" or f"--{field.replace('_', '-')}" in shown, field
    assert "plateau=P" in shown and "fxgrow train --resume" in shown


def test_the_way_on_from_a_loss_that_is_not_finite_leads_on(here):
    words = MLP.replace("--lr 0.1", "--lr 1e12 --steps 40")
    told = run(f"{words} -o runs/x", 1).stderr
    way = re.search(r"go on from step 0 with fxgrow train (--resume runs/x --lr \S+), or (--clip 1)", told)
    assert "1e+11" in way[1]
    assert "besides --clip, --device, --lr, --workers it takes no others" in run("--resume runs/x --epochs 3", 2).stderr
    run(way[1], 1)  # a tenth of much too much is too much
    assert "test        accuracy" in run("--resume runs/x --lr 0.05 --clip 1").stdout
    assert "leads there at once, so start anew" in run(f"{words} --checkpoint-every 1 -o runs/y", 1).stderr


def test_several_seeds_are_whole_runs_and_go_on(here):
    words = MLP + "--epochs 2 --seed 3 --seeds 2 --json -o many"
    found = json.loads(run(words).stdout)
    alone = json.loads(run(MLP + "--epochs 2 --seed 4 --json").stdout)
    assert [r["seed"] for r in found["runs"]] == [3, 4] and found["runs"][1]["test"] == alone["test"]
    values = [r["test"]["accuracy"] for r in found["runs"]]
    assert found["test"]["accuracy"] == {"mean": pytest.approx(sum(values) / 2), "sd": pytest.approx(np.std(values, ddof=1))}
    assert json.loads((here / "many/seeds.json").read_text()) == found
    before = (here / "many/seed-3/report.json").stat().st_mtime_ns
    (here / "many/seed-4/report.json").unlink()                   # as if it had been cut off
    assert json.loads(run(words).stdout)["test"] == found["test"]
    assert (here / "many/seed-3/report.json").stat().st_mtime_ns == before
    assert "seed 3: many/seed-3 holds a run with another lr" in run(words.replace("--lr 0.1", "--lr 0.2"), 1).stderr
    assert "leave out --resume" in run("--resume many/seed-3 --seeds 2", 2).stderr
    (here / "many/seed-4/checkpoint.zip").unlink()
    again = json.loads(run(words + " --stacked").stdout)          # one of them is left
    assert again["runs"][1]["test"] == pytest.approx(alone["test"], rel=1e-4)
    assert "say how many by --seeds" in run(MLP + "--stacked", 2).stderr
    assert "leave out --jobs" in run(words + " --stacked --jobs 2", 2).stderr


@pytest.mark.sweep
def test_stacked_seeds_get_what_they_get_alone(here):
    words = MLP + "--epochs 2 --seeds 2 --json "
    for one, other in zip(*(json.loads(run(words + way).stdout)["runs"] for way in ("--stacked", ""))):
        assert one["test"] == pytest.approx(other["test"], rel=1e-4) and one["flops"] == other["flops"]


@pytest.mark.sweep
def test_seeds_side_by_side_get_what_they_get_alone(here):
    side = json.loads(run(MLP + "--epochs 2 --seeds 2 --jobs 2 --json").stdout)
    assert side["test"] == json.loads(run(MLP + "--epochs 2 --seeds 2 --json").stdout)["test"]
