"""Entries of the growth schedule: their text, when they are due, and what a growth does."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from training import clusters, perceptron, trainer

import fxgrow
from fxgrow.errors import GrowthError, SelectionError, TrainError
from fxgrow.loops import OPTIONS, grow_by_entry, parse_growth, seed_for, stalled
from fxgrow.passes import Deepen, Widen

# --- text ----------------------------------------


def test_an_entry_in_full():
    entry = parse_growth("epoch=10 lr=ratio freeze=5 noise=0.01: widen where='a.*' where=b factor=2 method=net2net + "
                         "deepen where=layer2 times=2; widen by=3")
    assert (entry.trigger, entry.value) == ("epoch", 10)
    assert entry.options == {**{n: d for n, (_, d) in OPTIONS.items()}, "lr": "ratio", "freeze": 5, "noise": 0.01}
    assert entry.passes == ((Widen, {"where": ["a.*", "b"], "factor": 2.0, "method": "net2net"}),
                            (Deepen, {"where": ["layer2"], "times": 2}), (Widen, {"by": 3}))
    assert entry.at(per_epoch=7, total=100) == 70
    assert parse_growth("step=9: widen by=2").at(7, 100) == 9
    assert parse_growth("fraction=0.25: widen by=2").at(7, 100) == 25
    assert parse_growth("plateau=3: widen by=2").at(7, 100) is None


def test_seeds_differ_between_entries_and_passes_unless_given():
    entry = parse_growth("step=1: widen by=2 + widen by=3 + widen by=4 seed=5")
    first, again = (entry.instances(seed_for(1, 0)) for _ in range(2))
    other = entry.instances(seed_for(1, 1))
    assert [p.seed for p in first] == [p.seed for p in again] and first[2].seed == 5
    assert len({p.seed for p in [*first, *other]}) == 5


@pytest.mark.parametrize("text, said", [
    ("epoch=10", "separated by a colon"),
    (": widen by=2", "separated by a colon"),
    ("epoch=1:", "separated by a colon"),
    ("epok=1: widen by=2", "did you mean epoch"),
    ("epoch=x: widen by=2", "'x' is no whole number"),
    ("epoch=1.5: widen by=2", "'1.5' is no whole number"),
    ("fraction=1.5: widen by=2", "out of range"),
    ("plateau=0: widen by=2", "out of range"),
    ("slope=-1: widen by=2", "out of range"),
    ("epoch=1 lr=rato: widen by=2", "choose one of constant, ratio"),
    ("epoch=1 frieze=2: widen by=2", "did you mean freeze"),
    ("epoch=1 freeze=-2: widen by=2", "out of range"),
    ("epoch=1 noise=nan: widen by=2", "out of range"),
    ("epoch=1 window=0: widen by=2", "out of range"),
    ("epoch=1 lr=parts: widen by=2", "lr=parts and new=FACTOR or old=FACTOR go together"),
    ("epoch=1 new=2: widen by=2", "go together"),
    ("epoch=1 decay=parts new=2 lr=parts: widen by=2", "decay=parts and decay_new"),
    ("epoch=1 freeze: widen by=2", "no NAME=VALUE"),
    ("epoch=1: widne by=2", "did you mean widen"),
    ("epoch=1: widen wheer=a by=2", "did you mean where"),
    ("epoch=1: widen by=two", "not a valid integer"),
    ("epoch=1: widen method=r3r by=2", "r3r"),
    ("epoch=1: widen factor=2 by=2", "exactly one of"),
    ("epoch=1: widen", "exactly one of"),
    ("epoch=1: widen by=2 + ", "a pass is missing"),
    ("epoch=1: widen where='a by=2", "quotation"),
])
def test_what_is_not_understood(text, said):
    with pytest.raises(TrainError, match="growth .*") as error:
        parse_growth(text)
    assert said in str(error.value)


# --- when ----------------------------------------


def row(val=None, train=None, flops=0):
    return {"val_loss": val, "train_loss": train, "flops": flops}


def test_plateau():
    assert not stalled([3, 2], 2) and not stalled([3, 2, 1], 2) and not stalled([1, 2, 0.9], 2)
    assert stalled([1, 1, 1], 2) and stalled([1, 2, 3], 2) and not stalled([1, 2], 2) and not stalled([], 1)
    assert stalled([1, 0.95, 0.91], 2, min_delta=0.1) and not stalled([1, 0.95, 0.89], 2, min_delta=0.1)
    due = parse_growth("plateau=2: widen by=2").due
    assert due([row(v) for v in (5, 4, 4.1, 4.2)]) and not due([row(v) for v in (5, 4, 4.1, 3.9)])


def test_slope():
    due = parse_growth("slope=0.01 window=2: widen by=2").due
    losses = [row(train=None), row(train=5.0, flops=0), row(train=4.0, flops=100), row(train=3.0, flops=200)]
    assert not due(losses[:3]) and not due(losses)  # too few rows; exactly 0.01 for each FLOP
    assert due([*losses, row(train=2.9, flops=300)])  # 1.1 / 200
    assert parse_growth("slope=0.01 window=1: widen by=2").due([*losses[2:], row(train=3.5, flops=300)])


def test_slope_of_a_run_decides_when_it_grows():
    """The threshold lies between two slopes of a run that does not grow: the same run must grow there, and not before."""
    def run(*grow):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        made = trainer(*grow, model=model, eval_every=10, steps=80, lr=0.02, schedule="constant")
        made.fit()
        return made.history

    rows = [r for r in run().rows if r["train_loss"] is not None]
    slopes = [(a["train_loss"] - b["train_loss"]) / (b["flops"] - a["flops"]) for a, b in zip(rows, rows[2:])]
    assert slopes == sorted(slopes, reverse=True) and slopes[3] > 0  # it falls ever more slowly
    growths = run(f"slope={(slopes[2] + slopes[3]) / 2} window=2: widen by=2 method=netmorph").growths
    assert [g["step"] for g in growths] == [rows[5]["step"]] == [60]


def test_adaptive_entries_wait_for_each_other_and_count_anew():
    run = trainer("plateau=1 min_delta=10: widen by=2 method=netmorph", "plateau=2 min_delta=10: widen by=4 method=netmorph",
                  "step=8: widen by=6 method=netmorph", eval_every=4, steps=28)
    run.fit()
    # 4: due; 8: timed, which starts the count anew; 16: two evaluations behind it
    assert [(g["step"], g["parameters"][1] - g["parameters"][0]) for g in run.history.growths] == \
        [(4, 2 * 12), (8, 6 * 12), (16, 4 * 12)]
    assert run.fired == [0, 2, 1]


def test_at_the_first_step_and_never():
    run = trainer("step=0: widen by=2", steps=3)
    run.fit()
    assert [(r["step"], r["parameters"]) for r in run.history.rows][:2] == [(0, 99), (0, 123)]
    with pytest.raises(TrainError, match="due at step 30, and training ends at step 30"):
        trainer("epoch=3: widen by=2")
    data = clusters()
    data.validation = []
    with pytest.raises(TrainError, match="needs validation data"):
        trainer("plateau=3: widen by=2", data=data)


# --- the growth itself ----------------------------------------


def captured():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    return fxgrow.capture(perceptron(), x), x


def test_its_record_is_of_this_growth_alone_and_the_models_of_all():
    model, x = captured()
    once = grow_by_entry(model, x, parse_growth("step=1: widen factor=2"), 0)
    twice = grow_by_entry(once.grown.model, x, parse_growth("step=1: widen by=4 method=netmorph + deepen where=4"), 1)
    assert [s["pass"] for s in twice.record.lineage] == ["widen", "deepen"]
    assert [s["pass"] for s in twice.grown.model.meta["growth"]["record"].lineage] == ["widen", "widen", "deepen"]
    assert twice.record.parameters["0.weight"].fresh[0].sum() == 4
    assert twice.grown.record.parameters["0.weight"].fresh[0].sum() == 12
    assert len(once.grown.model.meta["growth"]["record"].lineage) == 1  # as it was
    assert twice.checked.ok and not twice.inexact


def test_random_and_noise_are_told_of_and_not_refused():
    model, x = captured()
    found = grow_by_entry(model, x, parse_growth("step=1: widen by=2 method=random"), 0)
    assert not found.checked.ok and found.inexact == ["widen by random"]
    found = grow_by_entry(model, x, parse_growth("step=1: widen factor=2 method=net2net noise=0.1"), 0)
    assert not found.checked.ok and found.inexact == ["widen by noise"]


def test_what_is_not_exact_is_refused_by_name(monkeypatch):
    model, x = captured()
    honest = fxgrow.transform

    def broken(*args):
        grown = honest(*args)
        grown.model.get_parameter("4.bias").data += 1
        return grown

    monkeypatch.setattr(fxgrow, "transform", broken)
    with pytest.raises(GrowthError, match=r"growth 'step=1: widen by=2': the grown network does not compute the same"):
        grow_by_entry(model, x, parse_growth("step=1: widen by=2"), 0)
    with pytest.raises(SelectionError):
        grow_by_entry(model, x, parse_growth("step=1: widen where=nothing by=2"), 0)


def test_noise_moves_new_numbers_only():
    model, x = captured()
    plain, noisy = (grow_by_entry(model, x, parse_growth(f"step=1 noise={n}: widen by=2 seed=1"), 0) for n in (0, 0.1))
    assert plain.checked.ok and not plain.inexact and noisy.inexact == ["noise 0.1 on new numbers"]
    moved = 0
    for name, p in noisy.grown.model.named_parameters():
        q, new = plain.grown.model.get_parameter(name), noisy.record.new_mask(name, p)
        assert torch.equal(p[~new], q[~new])
        moved += int((p != q).sum())
    assert moved > 10
    pair = noisy.grown.model.get_parameter("0.weight")[-2:]
    assert not torch.equal(pair[0], pair[1])  # the symmetry is broken


def test_a_pass_in_training_is_r2r_whatever_the_type():
    """Equal copies would learn alike."""
    widen, deepen = parse_growth("step=0: widen factor=2 + deepen method=netmorph").instances(0)
    assert (widen.method, deepen.method) == ("r2r", "netmorph")
