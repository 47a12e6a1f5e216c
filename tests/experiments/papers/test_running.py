"""The papers' experiments: each runs through, finished runs are kept, the same seed gives the same table."""
from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError
from fxgrow.experiments import papers
from fxgrow.experiments.cli.experiment import run_all
from fxgrow.experiments.papers import (
    Arm,
    Experiment,
    ExperimentError,
    Network,
    Scale,
    Setup,
    cells,
    cost,
    costs,
    declaration,
    finished,
)
from fxgrow.experiments.papers.results import markdown, reaching, spread, summary
from fxgrow.experiments.papers.running import redrawn, run, untrained
from fxgrow.experiments.train import Interrupted, Trainer, Watcher, count_parameters
from fxgrow.passes import Widen
from fxgrow.passes.equalise import Equalise, ratios
from fxgrow.record import record_in
from fxgrow.zoo import create_model, options_for, parse_options

NAMES = [experiment.name for experiment in papers.list_experiments() if not getattr(experiment, "setup", "")]
LONG = ("convergence-deepen", "convergence-widen", "dividend", "grow-into", "growth-time", "inception", "multiple-growth",
        "overfitted-teacher", "scale-and-rate")
STEPS, BATCH, FEATURES, HIDDEN, CLASSES = 6, 8, 64, 4, 3


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Blobs of 8 x 8 pixels: a bright quarter, whose place is the class."""
    draw, labels = np.random.default_rng(0), np.arange(120) % CLASSES
    x = draw.integers(0, 60, (120, 8, 8))
    for i, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        x[i, 4 * row:4 * row + 4, 4 * column:4 * column + 4] += 120
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, images=x.astype(np.uint8), labels=labels)
    return str(path)


@pytest.fixture
def tiny(monkeypatch):
    """A perceptron with a teacher, its wider student, one that grows on the way, and the wide one from scratch."""
    scale = Scale({"net": Network("mlp:hidden=(4,)", "mlp:hidden=(4,)")},
                  {"steps": STEPS, "batch_size": BATCH, "eval_every": 3, "lr": 0.05}, student={"steps": 4},
                  words={"factor": 2}, validation=0.25)
    arms = (Arm("teacher", "net"), Arm("student", "net", ("step=0: widen factor={factor}",), "teacher"),
            Arm("midway", "net", ("fraction=0.5: widen factor={factor}",)),
            Arm("scratch", "net", ("step=0: widen factor={factor}",), fresh=True))
    found = Experiment("tiny", "A perceptron", "no paper", arms, {"smoke": scale, "small": scale})
    monkeypatch.setitem(declaration._EXPERIMENTS, "tiny", found)
    monkeypatch.setattr(papers.reports, "draw_figures", lambda *_: [])
    return found


def invoke(*words):
    return CliRunner().invoke(main, ["experiment", *map(str, words)])


def table(folder):
    return (folder / "table.md").read_text()


def step_flops(hidden):
    """A multiply-add is two; backward is twice forward, but for the gradient of the input."""
    return BATCH * (2 * FEATURES * hidden * 2 + 2 * hidden * CLASSES * 3)


# --- every experiment ----------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.sweep) if name in LONG else name for name in NAMES])
def test_each_runs_through(name, images, tmp_path, monkeypatch):
    if name not in ("filters", "convergence-widen"):  # figures and times of the others are no different
        monkeypatch.setattr(papers.reports, "draw_figures", lambda *_: [])
        monkeypatch.setattr(cost, "_measured", lambda trainer, data: (count_parameters(trainer.model), 1.0, 1.0))
    done = invoke(name, "--scale", "smoke", "--seeds", 1, "--data", images, "--out", tmp_path / "r", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    declared = papers.get_experiment(name)
    assert [row["arm"] for row in report["summary"]] == [arm.key for arm in declared.arms]
    assert all(row["flops"] > 0 and row["steps"] > 0 for row in report["summary"])
    assert {row["arm"] for row in report["summary"] if row["flops_with_teacher"] > row["flops"]} == {
        arm.key for arm in declared.arms if arm.teacher}
    for group in declared.groups:  # scratch is the very network that r2r ends with; others round odd sizes differently
        sizes = {arm.name: row["parameters"] for arm, row in zip(declared.arms, report["summary"]) if arm.group == group}
        assert {size for label, size in sizes.items() if label.startswith("r2r")} <= {sizes["scratch"]}
        assert all(abs(size / sizes["scratch"] - 1) < 0.1 for label, size in sizes.items() if label.startswith("random"))
    assert all((tmp_path / "r" / figure).read_bytes().startswith(b"\x89PNG") for figure in report["figures"])
    assert len(report["figures"]) in (0, 2 * len(declared.groups) + declared.filters)
    kept = json.loads((tmp_path / "r" / "results.json").read_text())
    assert kept["runs"].keys() == {arm.key for arm in declared.arms}
    assert all(f"| {cells(row)[0]} |" in table(tmp_path / "r") for row in report["summary"])
    assert not (tmp_path / "r" / "running").exists()


@pytest.mark.parametrize("name", NAMES)
def test_each_has_its_baselines_and_scales(name):
    declared = papers.get_experiment(name)
    assert list(declared.scales) == ["smoke", "small", "paper"] and declared.scales["paper"].data == "cifar10"
    for group in declared.groups:
        names = [arm.name for arm in declared.arms if arm.group == group]
        assert "scratch" in names and any(label.startswith("random padding") for label in names)


def test_large_images_may_get_another_network():
    network = Network("mlp:hidden=(2,)", "resnet1d", large="mlp:hidden=(3,)")
    sides = {side: network.on((1, side, side))[0] for side in (8, 16, 17, 28)}
    assert sides == {8: network.image, 16: network.image, 17: network.large, 28: network.large}
    assert network.on((1, 8, 20))[0] == network.large and network.on((1, 40))[0] == "resnet1d"
    assert Network("mlp").on((1, 28, 28))[0] == "mlp"


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "grow-into"])  # two networks of stock, for images
def test_every_scale_has_networks_for_images_and_for_sequences(name):
    for scale in papers.get_experiment(name).scales.values():
        for network, shape in itertools.product(scale.networks.values(), ((1, 28, 28), (2, 40))):
            model, _, options = network.on(shape)[0].partition(":")
            with torch.device("meta"):
                built = create_model(model, **options_for(model, shape, 7) | parse_options(options))
                assert built(torch.zeros(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("length", [{"steps": 6, "eval_every": 3}, {"epochs": 6}])
def test_an_arm_may_get_a_share_of_the_training(tiny, images, tmp_path, monkeypatch, length):
    scale = replace(tiny.scales["small"], settings={"batch_size": BATCH, "lr": 0.05, **length})
    arms = (*tiny.arms, Arm("half", "net", share=0.5), Arm("hardly", "net", share=0.01))
    monkeypatch.setitem(declaration._EXPERIMENTS, "tiny", replace(tiny, arms=arms, scales={"small": scale}))
    setup = Setup("tiny", "small", tmp_path, images)
    configs = [setup.config(setup.declared.arm(arm), setup.load(0), 0) for arm in ("scratch", "half", "hardly")]
    assert [getattr(config, next(iter(length))) for config in configs] == [6, 3, 1]


# --- runs are kept ----------------------------------------


def test_finished_runs_are_not_run_again(tiny, images, tmp_path, monkeypatch):
    words = ("tiny", "--data", images, "--seeds", 2, "--out", tmp_path / "r")
    assert invoke(*words).exit_code == 0
    first, files = table(tmp_path / "r"), sorted((tmp_path / "r" / "runs").iterdir())
    assert len(files) == 8
    times = [file.stat().st_mtime_ns for file in files]
    planned = json.loads(invoke(*words, "--dry-run", "--json").stdout)["costs"]
    assert [cost["todo"] for cost in planned] == [[]] * 4
    again = invoke(*words)
    assert "0 runs" in again.output and [file.stat().st_mtime_ns for file in files] == times
    assert table(tmp_path / "r") == first
    files[0].unlink()
    assert "1 runs" in invoke(*words).output
    assert table(tmp_path / "r") == first, "the same seed gives the same table"


def test_the_same_seeds_give_the_same_table_elsewhere(tiny, images, tmp_path):
    for folder in ("a", "b"):
        assert invoke("tiny", "--data", images, "--seeds", 2, "--out", tmp_path / folder).exit_code == 0
    assert table(tmp_path / "a") == table(tmp_path / "b")
    one, two = (json.loads((tmp_path / f / "runs" / "student-0.json").read_text()) for f in ("a", "b"))
    for found in (one, two):
        del found["seconds"]
        for row in [*found["rows"], *found["growths"]]:
            del row["seconds"]
    assert one == two
    other = json.loads((tmp_path / "a" / "runs" / "student-1.json").read_text())
    assert other["rows"][-1]["train_loss"] != one["rows"][-1]["train_loss"]


@pytest.mark.sweep
def test_processes_change_nothing(images, tmp_path, monkeypatch):
    """Of a real experiment, which other processes know as well."""
    monkeypatch.setattr(papers.reports, "draw_figures", lambda *_: [])
    for jobs in (1, 2):
        done = invoke("filters", "--scale", "smoke", "--data", images, "--seeds", 1, "--jobs", jobs, "--out",
                      tmp_path / str(jobs))
        assert done.exit_code == 0, done.output
    assert table(tmp_path / "1") == table(tmp_path / "2")


def test_an_interruption_leaves_what_is_finished(tiny, images, tmp_path, monkeypatch):
    fit, calls = Trainer.fit, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 4:  # two of them find out how long a step takes
            raise Interrupted("interrupted at step 2 of 6")
        return fit(self)

    words = ("tiny", "--data", images, "--seeds", 2, "--out", tmp_path / "r")
    monkeypatch.setattr(Trainer, "fit", interrupted)
    done = invoke(*words)
    assert done.exit_code == 1 and "the same command goes on" in done.output
    assert [file.name for file in (tmp_path / "r" / "runs").iterdir()] == ["teacher-0.json"]
    monkeypatch.setattr(Trainer, "fit", fit)
    assert "7 runs" in invoke(*words).output
    assert invoke("tiny", "--data", images, "--seeds", 2, "--out", tmp_path / "whole").exit_code == 0
    assert table(tmp_path / "r") == table(tmp_path / "whole")


class Stop(Watcher):
    def stepped(self, trainer, loss):
        trainer.asked_to_stop = trainer.step == 3


def test_a_scale_with_checkpoints_goes_on_within_a_run(tiny, images, tmp_path):
    scale = replace(tiny.scales["small"], checkpoints=True)
    tiny.scales["small"] = scale
    arm, setups = tiny.arm("midway"), [Setup("tiny", "small", tmp_path / f, images) for f in ("a", "b")]
    with pytest.raises(Interrupted):
        run(setups[0], arm, 0, [Stop()])
    assert (tmp_path / "a" / "running" / "midway-0" / "checkpoint.zip").exists()
    steps = []

    class Steps(Watcher):
        def stepped(self, trainer, loss):
            steps.append(trainer.step)

    one, two = run(setups[0], arm, 0, [Steps()]), run(setups[1], arm, 0)
    assert steps[0] == 4 and one["test"] == two["test"] and not list((tmp_path / "a" / "running").iterdir())
    assert [row["val_loss"] for row in one["rows"]] == [row["val_loss"] for row in two["rows"]]


def test_a_file_with_other_settings_is_not_taken_for_this_one(tiny, images, tmp_path):
    setup = Setup("tiny", "small", tmp_path, images)
    run(setup, tiny.arm("teacher"), 0)
    tiny.scales["small"] = replace(tiny.scales["small"], settings={**tiny.scales["small"].settings, "lr": 0.01})
    with pytest.raises(ExperimentError, match="other settings: choose another folder"):
        finished(setup, tiny.arm("teacher"), 0)
    setup.file(tiny.arm("teacher"), 0).write_text("{")
    with pytest.raises(ExperimentError, match="damaged"):
        finished(setup, tiny.arm("teacher"), 0)


def test_a_student_of_a_retrained_teacher_is_another_run(tiny, images, tmp_path):
    setup = Setup("tiny", "small", tmp_path, images)
    before = setup.identity(tiny.arm("student"), 0)
    tiny.scales["small"] = replace(tiny.scales["small"], settings={**tiny.scales["small"].settings, "batch_size": 4},
                                   student={"steps": 4, "batch_size": BATCH})
    after = setup.identity(tiny.arm("student"), 0)
    assert before["config"] == after["config"] and before != after


# --- what is counted ----------------------------------------


def test_flops_by_hand(tiny, images, tmp_path):
    setup = Setup("tiny", "small", tmp_path, images)
    planned = costs(setup, [0])
    by_hand = {"teacher": STEPS * step_flops(HIDDEN), "student": 4 * step_flops(2 * HIDDEN),
               "midway": STEPS // 2 * (step_flops(HIDDEN) + step_flops(2 * HIDDEN)),
               "scratch": STEPS * step_flops(2 * HIDDEN)}
    assert {cost.arm.key: cost.flops for cost in planned} == by_hand
    assert all(cost.seconds > 0 for cost in planned)
    run_all(setup, planned, 1)
    runs = {arm.key: [finished(setup, arm, 0)] for arm in tiny.arms}
    rows = {row["arm"]: row for row in summary(setup, runs)}
    assert {key: row["flops"] for key, row in rows.items()} == by_hand
    assert rows["student"]["flops_with_teacher"] == by_hand["student"] + by_hand["teacher"]
    assert all(rows[key]["flops_with_teacher"] == by_hand[key] for key in ("teacher", "midway", "scratch"))


def test_the_student_starts_where_its_teacher_ended(tiny, images, tmp_path):
    setup = Setup("tiny", "small", tmp_path, images)
    teacher, student = (run(setup, tiny.arm(key), 0) for key in ("teacher", "student"))
    before, grown = student["rows"][:2]
    assert before["val_loss"] == teacher["rows"][-1]["val_loss"]
    assert grown["val_loss"] == pytest.approx(before["val_loss"], rel=1e-5) and grown["parameters"] > before["parameters"]


def test_what_reaches_the_reference():
    def made(*points, teacher=0):
        return {"rows": [{"step": s, "flops": f, "val_accuracy": a} for s, f, a in points], "teacher_flops": teacher}

    runs = [made((0, 0, 0.1), (5, 50, 0.6), (9, 90, 0.9), teacher=7),
            made((0, 0, 0.3), (5, 70, 0.8), (9, 110, 0.9), teacher=9)]
    assert reaching(runs, 0.7) == {"step": 5, "flops": 68}
    assert reaching(runs, 0.2)["step"] == 0 and reaching(runs, 0.95) is None
    assert reaching([made((0, 0, 0.9), (0, 0, 0.2), (5, 50, 0.8))], 0.7)["step"] == 5, "what it was before growing is past"
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": math.sqrt(2)} and spread([4.0]) == {"mean": 4.0, "sd": None}
    assert spread([None, 2.0]) == {"mean": 2.0, "sd": None} and spread([None]) == {"mean": None, "sd": None}


def test_an_arm_that_diverges_is_a_result(tiny, images, tmp_path):
    wild = Arm("wild", "net", settings={"lr": 1e30})
    object.__setattr__(tiny, "arms", (*tiny.arms, wild))
    setup = Setup("tiny", "small", tmp_path, images)
    for arm in tiny.arms:
        run(setup, arm, 0)
    runs = {arm.key: [finished(setup, arm, 0)] for arm in tiny.arms}
    row = next(row for row in summary(setup, runs) if row["arm"] == "wild")
    assert row["diverged"] == 1 and row["steps"] < STEPS and row["test_loss"]["mean"] is None
    assert "| wild (1 of 1 diverged) |" in markdown([row])


def test_from_scratch_is_the_grown_network_drawn_anew(tiny, images, tmp_path):
    setup = Setup("tiny", "small", tmp_path, images)
    scratch, grown = untrained(setup, "scratch", 0), untrained(setup, "student", 0)
    assert scratch.get_parameter("fc.weight").shape == (CLASSES, 2 * HIDDEN) and record_in(scratch) is None
    assert grown.get_parameter("fc.weight").shape == (CLASSES, HIDDEN)
    pair = untrained(setup, "scratch", 0).get_parameter("hidden.0.0.weight")
    assert not any(torch.equal(a, b) for i, a in enumerate(pair) for b in pair[:i]), "pairs of equal rows are gone"


def test_what_cannot_be_drawn_anew_is_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.fc = nn.Parameter(torch.ones(4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x * self.scale)

    with pytest.raises(ExperimentError, match="cannot be drawn anew"):
        redrawn(fxgrow.capture(Scaled(), torch.zeros(2, 4)), 0)


# --- what is told ----------------------------------------


def test_unknown_names_and_options_are_told(tiny, images, tmp_path):
    for words, expected in (
            (["convergence-wide"], "did you mean convergence-widen"), ([], "name an experiment"),
            (["tiny", "--scale", "huge"], "huge"), (["tiny", "--seeds", "0"], "0"), (["tiny", "--jobs", "0"], "0"),
            (["tiny", "--sheds", "2"], "--seeds")):
        done = invoke(*words)
        assert done.exit_code == 2 and expected in done.output, done.output
    for words, expected in ((["tiny", "--scale", "paper"], "has no scale 'paper'"), (["tiny", "--data", "digit"], "digits"),
                            (["tiny", "--data", "npz:none.npz"], "none.npz")):
        done = invoke(*words, "--out", tmp_path / "none")
        assert done.exit_code == 1 and expected in done.output and done.output.startswith("error: "), done.output
    with pytest.raises(ExperimentError, match="no network for inputs of shape"):
        Network("net2net_conv").on((1, 40))
    (tmp_path / "file").write_text("")
    done = invoke("tiny", "--data", images, "--out", tmp_path / "file")
    assert done.exit_code == 1 and "choose another with --out" in done.output
    assert not (tmp_path / "none").exists()


def test_the_list_and_the_cost_write_nothing(tiny, images, tmp_path):
    assert all(name in invoke("--list").output for name in NAMES)
    listed = [e["name"] for e in json.loads(invoke("--list", "--json").stdout)["experiments"]]
    assert listed == sorted(listed) and {*NAMES, "tiny"} <= {*listed}
    done = invoke("tiny", "--data", images, "--out", tmp_path / "r", "--seeds", 3, "--dry-run")
    assert done.exit_code == 0 and "12 runs" in done.output and not (tmp_path / "r").exists()


@pytest.mark.parametrize("arms, words", [
    ((Arm("a", "net"), Arm("a", "net"), Arm("scratch", "net")), "two arms 'a'"),
    ((Arm("a", "net", teacher="b"), Arm("b", "net"), Arm("scratch", "net")), "starts from 'b', which is no arm before it"),
    ((Arm("scratch", "other"),), "no network 'other'"), ((Arm("a", "net"),), "no arm 'scratch'")])
def test_a_declaration_that_makes_no_sense_is_refused(arms, words):
    with pytest.raises(ExperimentError, match=words):
        papers.register(Experiment("new", "", "", arms, {"small": Scale({"net": Network("mlp")}, {})}))
    with pytest.raises(ExperimentError, match="already"):
        papers.register(papers.get_experiment("filters"))


# --- equalise ----------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name, options, shape", [
    ("mlp", {"hidden": (12, 12), "input_shape": (1, 20)}, (1, 20)),
    ("net2net_conv", {"in_channels": 1, "size": 8, "r": 0.125}, (1, 8, 8)),
    ("cifar_resnet10", {"in_channels": 1, "size": 8, "r": 2 ** -4, "stem": 3}, (1, 8, 8))])
@pytest.mark.parametrize("init", ["match_std", 0.3])
def test_equalise_makes_first_gradients_alike_and_changes_no_output(name, options, shape, init):
    torch.manual_seed(0)
    model, x = create_model(name, **options).double(), torch.randn(16, *shape, dtype=torch.float64)
    widen = Widen(factor=2, seed=0, init=init)
    before, after = (fxgrow.transform(model, x, passes) for passes in ([widen], [widen, Equalise(seed=1)]))
    assert max(abs(math.log(r)) for r in ratios(before.model, before.record, 1)) > 0.01
    assert ratios(after.model, after.record, 1) == pytest.approx((1, 1), rel=1e-6)
    assert fxgrow.verify(model, after.model, x).ok
    assert [step["pass"] for step in after.record.lineage] == ["widen", "equalise"]
    old = dict(model.named_parameters())
    assert all(torch.equal(p, old[n]) for n, p in after.record.shrink(after.model).named_parameters()), "old ones stay"


def test_equalise_says_where_it_cannot():
    model, x = create_model("mlp", hidden=(6,), input_shape=(1, 5)), torch.randn(4, 1, 5)
    for passes, words in (([Equalise()], "put it behind widen"), ([Widen(factor=2, method="net2net"), Equalise()], "r2r")):
        with pytest.raises(GrowthError, match=words):
            fxgrow.transform(model, x, passes)
