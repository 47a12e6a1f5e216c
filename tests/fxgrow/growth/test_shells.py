"""Models that no graph holds whole: passes that name different parts, what passes put beside a part, copies that grow."""
from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support import shake
from torch import nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Deepen, Subnet, Widen


class Body(nn.Module):
    """A part with a constant that its code makes."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.down(torch.relu(self.up(x))) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype)


class Shell(nn.Module):
    """Its own code asks for a number."""

    def __init__(self):
        super().__init__()
        self.one, self.inner, self.meta = Body(), nn.Sequential(Body(), nn.Tanh()), "the user's"
        self.last, self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)), nn.Linear(4, 3)

    def forward(self, x):
        x = self.one(x)
        return self.head(self.last(self.inner(x * 2 if x.sum().item() > 0 else x)))


def shell():
    torch.manual_seed(0)
    return shake(Shell().double()), torch.randn(5, 4, dtype=torch.float64)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_knows_its_growth(copied):
    model, x = shell()
    first = fxgrow.transform(model, x, Widen("one.up", by=2, seed=0))
    for path in ("one.up", "inner.0.up"):
        again = fxgrow.transform(copied(first.model), x, Widen(path, by=2, seed=1))
        assert [len(r.lineage) for r in (again.record, again.step)] == [2, 1]
        assert same(again.record.shrink(again.model), model) and same(again.step.shrink(again.model), first.model)
        back = fxgrow.transform(again.step.shrink(again.model), x, Widen("one.up", by=2, seed=1))
        assert len(back.record.lineage) == 1  # what was shrunk is not what has grown


def test_passes_that_name_different_parts():
    model, x = shell()
    passes = [Widen("one.up", by=2, seed=0), Deepen("inner.0.up", seed=0), Subnet("one.down", seed=1)]
    grown = fxgrow.transform(model, x, passes)
    assert fxgrow.verify(model, grown.model, x).ok and [o.method for o in grown.outcomes] == ["r2r"] * 3
    assert [step["pass"] for step in grown.step.lineage] == ["widen", "deepen", "subnet"]
    assert same(grown.step.shrink(grown.model), model)
    with pytest.raises(SelectionError, match="'two"):
        fxgrow.transform(model, x, [*passes, Widen("two.up", by=2)])


@pytest.mark.parametrize("step", [Deepen("last", seed=0), Subnet("last", seed=0)])
def test_what_is_put_beside_a_part_is_put_into_it(step):
    model, x = shell()
    grown = fxgrow.transform(model, x, step)
    assert fxgrow.verify(model, grown.model, x).ok
    new = [n for n, p in grown.model.named_parameters() if grown.step.new_mask(n, p).all()]
    assert new and all(n.startswith("last.last_") for n in new)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert len(grown.step.migrate_optimizer(optimizer, grown.model, model).param_groups[0]["params"]) == len(
        list(grown.model.parameters()))
    assert same(grown.step.shrink(grown.model), model)


def test_a_part_grows_on_when_its_layers_have_moved():
    model, x = shell()
    grown = fxgrow.transform(model, x, [Deepen("last.0", seed=0), Widen("last.0", by=2, seed=0), Deepen("last.0", seed=1)])
    assert fxgrow.verify(model, grown.model, x).ok and same(grown.step.shrink(grown.model), model)


class Written(Body):
    """A part whose code has a size in it, which its graph can change."""

    def forward(self, x):
        return self.down(torch.relu(self.up(x)).view(-1, 6))


class Dropping(nn.Module):
    """Leaves layers out at random while it trains (LayerDrop), which no graph does."""

    def __init__(self):
        super().__init__()
        self.layers, self.drop = nn.ModuleList(Written() for _ in range(2)), 0.1

    def forward(self, x):
        for layer in self.layers:
            if not (self.training and torch.rand(1).item() < self.drop):
                x = x + layer(x)
        return x


def test_where_a_leaf_holds_most_numbers_its_parts_grow_instead():
    x = torch.randn(5, 4, dtype=torch.float64)
    model = shake(nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)), Dropping()).double())
    assert list(fxgrow.capture(model, x).meta["leaves"]) == ["1"]
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    assert [grown.model.get_submodule(name).out_features for name in ("0.0", "1.layers.0.up")] == [7, 12]
    assert fxgrow.verify(model, grown.model, x).ok
    named = fxgrow.transform(model, x, Widen("0.0", factor=2, seed=0)).model  # as one graph, since nothing else is asked for
    assert isinstance(named, torch.fx.GraphModule) and named.get_submodule("0.0").out_features == 7


class Attends(Shell):
    """Calls a layer that has layers inside."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return super().forward(x + self.attend(x, x, x, need_weights=False)[0])


def test_a_layer_with_layers_inside_stays_a_layer():
    torch.manual_seed(0)
    model, x = shake(Attends().double()), torch.randn(5, 3, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    assert not any("stops" in o.reason for o in grown.outcomes) and fxgrow.verify(model, grown.model, x).ok
    assert type(grown.model.attend) is nn.MultiheadAttention
    with pytest.raises(SelectionError, match="no layer .* is called 'attend.*'"):
        fxgrow.transform(model, x, Widen("attend*", factor=2, seed=0))
