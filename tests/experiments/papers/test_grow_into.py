"""The experiment grow-into: its networks, what students start as, and what each arm costs."""
from __future__ import annotations

import pytest
import torch

import fxgrow
from fxgrow.experiments.papers import ExperimentError, Setup, get_experiment
from fxgrow.experiments.papers.grow_into import SHARE
from fxgrow.experiments.papers.running import model_word, run, untrained
from fxgrow.passes.into.as_pass import GrowInto
from fxgrow.zoo import create_model, parse_options

SEED = 1


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup("grow-into", "smoke", tmp_path_factory.mktemp("runs"), "digits")


@pytest.fixture(scope="module")
def runs(setup):
    return {arm.key: run(setup, arm, SEED) for arm in setup.declared.arms}


def stock(setup, which):
    word = model_word(setup.preset.networks[which], setup.load(SEED))
    _, name, options = word.split(":")
    return create_model(name, **parse_options(options))


def test_the_big_network_is_twice_as_wide_and_deeper(setup):
    small, big = stock(setup, "small"), stock(setup, "big")
    assert big.fc.in_features == 2 * small.fc.in_features and big.conv1.out_channels == 2 * small.conv1.out_channels
    assert [len(stage) for stage in big.stages] == [2 * len(stage) for stage in small.stages]
    assert small.conv1.in_channels == big.conv1.in_channels == 1, "fitted to the data"


@pytest.mark.sweep
def test_students_are_the_stock_class_and_start_as_their_teacher(setup, runs):
    data = setup.load(SEED)
    x = torch.stack([data.test[i][0] for i in range(8)])
    teacher = fxgrow.load(setup.model_file(setup.declared.arm("teacher"), SEED))
    for method in ("r2r", "net2net", "netmorph"):
        first, second = runs[method]["rows"][:2]
        assert first["step"] == second["step"] == 0 and second["event"].startswith("step=0: into model=zoo:cifar_resnet18:")
        assert second["val_accuracy"] == first["val_accuracy"] == runs["teacher"]["rows"][-1]["val_accuracy"]
        assert second["val_loss"] == pytest.approx(runs["teacher"]["rows"][-1]["val_loss"], rel=1e-4)
        growth, = runs[method]["growths"]
        assert growth["preserving"] and growth["max_rel_error"] < 1e-4
        text, = setup.growths(setup.declared.arm(method), data)
        spec = text.partition("model=")[2].split()[0]
        grown = fxgrow.transform(teacher, x, GrowInto(spec, method=method, seed=0)).model
        stock(setup, "big").load_state_dict(grown.state_dict(), strict=True)
    padded = runs["random padding"]["growths"][0]
    assert not padded["preserving"] and runs["random padding"]["rows"][1]["val_loss"] != pytest.approx(
        runs["random padding"]["rows"][0]["val_loss"], rel=1e-2)


@pytest.mark.sweep
def test_all_end_with_the_same_architecture_and_pay_for_it(setup, runs):
    size = sum(p.numel() for p in stock(setup, "big").parameters())
    assert {key: found["parameters"] for key, found in runs.items() if key != "teacher"} == dict.fromkeys(
        [arm.key for arm in setup.declared.arms[1:]], size)
    steps = {key: found["rows"][-1]["step"] for key, found in runs.items()}
    step = runs["scratch"]["flops"] / steps["scratch"]
    assert all(runs[k]["flops"] == step * steps[k] for k in ("r2r", "net2net", "netmorph", "random padding"))
    assert runs["r2r"]["teacher_flops"] == runs["teacher"]["flops"] < runs["scratch"]["flops"] == 4 * step


def test_scratch_with_fewer_updates_costs_what_teacher_and_student_do(tmp_path):
    """At the small scale: half as many updates of the big network, and the teacher's."""
    setup = Setup("grow-into", "small", tmp_path, "digits")
    data = setup.load(0)
    arms = {arm.key: arm for arm in setup.declared.arms}
    cost = {}
    for key in ("teacher", "scratch"):
        batch = torch.empty(setup.config(arms[key], data, 0).batch_size, *data.input_shape)
        cost[key] = fxgrow.count_flops(untrained(setup, key, 0).train(), batch).total
    steps = {key: setup.config(arm, data, 0).steps for key, arm in arms.items()}
    short = steps[f"scratch, {SHARE} of the updates"]
    both = steps["teacher"] * cost["teacher"] + steps["r2r"] * cost["scratch"]
    assert short * cost["scratch"] == pytest.approx(both, rel=0.02) and short == round(SHARE * steps["scratch"])


def test_sequences_are_refused():
    declared = get_experiment("grow-into")
    with pytest.raises(ExperimentError, match="no network for inputs of shape"):
        declared.scale("small").networks["small"].on((1, 40))
