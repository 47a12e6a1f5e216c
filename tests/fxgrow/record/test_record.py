"""The record itself: which numbers are new, and how growths in a row become one."""
from __future__ import annotations

import pytest
import torch
from small_nets import made
from torch import nn

import fxgrow
from fxgrow import GrowthRecord, ParameterRecord
from fxgrow.passes import Widen


def size(parameters):
    return sum(p.numel() for p in parameters)


def positions(*numbers):
    return torch.tensor(numbers)


def test_a_record_over_two_growths():
    first = ParameterRecord("w", [positions(0, 1, -1, 0)], [positions(0, 0, 1, 1).bool()],
                            [torch.tensor([0.5, 1, 1, 0.5], dtype=torch.float64)], 2.0)
    later = ParameterRecord("v", [positions(3, 2, 0, -1, 1)], [positions(0, 0, 0, 1, 0).bool()],
                            [torch.tensor([1, 1, 0.5, 1, 1], dtype=torch.float64)], 3.0)
    both = first.then(later)
    assert both.source == "w" and both.scale == 6.0
    assert both.index[0].tolist() == [0, -1, 0, -1, 1]
    assert both.fresh[0].tolist() == [True, True, False, True, False]
    assert both.shares[0].tolist() == [0.5, 1, 0.25, 1, 1]
    assert first.then(ParameterRecord.new(1)).source is None and ParameterRecord.same("w", 1).then(later).scale == 3.0


def test_names_over_two_growths():
    one = GrowthRecord({"b": ParameterRecord.same("a", 1), "new": ParameterRecord.new(1)}, [{"pass": "x"}], {"a", "gone"})
    two = GrowthRecord({"c": ParameterRecord.same("b", 1), "gone": ParameterRecord.new(1),
                        "d": ParameterRecord.same("new", 1)}, [{"pass": "y"}], {"b", "new"})
    both = one.then(two)
    assert {n: p.source for n, p in both.parameters.items()} == {"c": "a", "gone": None, "d": None}
    assert [s["pass"] for s in both.lineage] == ["x", "y"] and both.removed == {"a", "b", "new"}


def test_which_numbers_are_new():
    record = GrowthRecord({"w": ParameterRecord("w", [positions(0, 1, -1), None], [positions(0, 0, 1).bool(), None])})
    assert record.new_mask("w", torch.ones(3, 2)).tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert not record.new_mask("other", torch.ones(2)).any()
    record.parameters["other"] = ParameterRecord.new(1)
    assert record.new_mask("other", torch.ones(2)).all()


def test_the_origin_is_that_of_the_first_growth():
    model, x = made("residual")
    once = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    twice = fxgrow.transform(once.model, x, Widen("block1.conv1", by=2, seed=0))
    origin = twice.record.origin[""]
    assert {n: p.shape for n, p in origin.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(t.is_meta for t in [*origin.parameters(), *origin.buffers()])


def test_a_model_that_is_not_the_records():
    model, x = made("residual")
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    for use in (grown.record.shrink, grown.record.freeze_old, grown.record.lr_scales):
        with pytest.raises(fxgrow.GrowthError, match="does not fit its growth record"):
            use(model)


def test_tied_weights_are_one_tensor_under_any_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.head(torch.tanh(self.a(x)) * self.b(x.square()))

    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(2, 3, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("a", by=2, method="netmorph", seed=0))
    tensors = dict(grown.model.named_parameters(remove_duplicate=False))
    assert len(tensors) == 6 and len(grown.record.located(tensors)) == 5
    small = grown.record.shrink(grown.model)
    assert small.a.weight is small.b.weight and fxgrow.verify(model, small, x).max_abs_error == 0
    moved = grown.record.migrate_tensors(model.state_dict(), like=grown.model.state_dict())
    assert all(torch.equal(moved[n], t) for n, t in grown.model.state_dict().items())
    child = fxgrow.tie(model, grown)
    assert child.a.parametrizations.weight[0].parent is model.b.weight
    assert size({*model.parameters(), *child.parameters()}) == size(grown.model.parameters())
    assert fxgrow.verify(model, child, x).ok and fxgrow.untie(child).a.weight.shape == (6, 3)
    assert size(fxgrow.untie(child).parameters()) == size(grown.model.parameters())


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_parameters_are_in_one_order_in_every_process(method):
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    found = fxgrow.transform(model, torch.randn(2, 4), Widen(factor=2, method=method, seed=0)).record.parameters
    assert list(found) == [name for name in model.state_dict() if name in found]
