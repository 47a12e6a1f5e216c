"""The hypernetwork: which numbers of a child are free, that giving them keeps the function, and what it learns."""
from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.experiments.evolve import grow
from fxgrow.experiments.evolve.hypernetwork import Hypernetwork, cells, free_numbers
from fxgrow.experiments.evolve.store import from_bytes, to_bytes

X = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0, scale: float = 1.0) -> GraphModule:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1),
                          nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    with torch.no_grad():
        for p in (*model[1].parameters(), model[1].running_mean, model[1].running_var):
            p.uniform_(0.5, 2.0)
        model[3].weight.mul_(scale)
    return fxgrow.capture(model.eval(), X)


@functools.cache
def hypernetwork() -> Hypernetwork:
    return Hypernetwork([net(0), net(1)], 0)


STEPS = [{"pass": "widen", "where": "0", "by": 4, "method": "r2r", "seed": 1},
         {"pass": "widen", "where": "0", "by": 2, "method": "netmorph", "seed": 1},
         {"pass": "deepen", "where": "3", "method": "r2r", "seed": 1},
         {"pass": "se", "where": "3", "seed": 1},
         {"pass": "branch", "where": "3", "join": "sum", "method": "r2r", "seed": 1}]


@pytest.mark.parametrize("step", STEPS, ids=lambda s: f"{s['pass']}-{s.get('method')}")
def test_given_numbers_keep_the_function_in_double_precision(step):
    parent = net()
    child = grow(parent, X, step).model
    drawn = {name: t.clone() for name, t in child.state_dict().items()}
    assert hypernetwork().give(child, parent, X, step)
    changed = [name for name, t in child.state_dict().items() if not torch.equal(t, drawn[name])]
    assert changed
    before, after = copy.deepcopy(parent).double(), copy.deepcopy(child).double()
    others = 3 * torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 1
    for training in (False, True):
        a, b = before.train(training)(others), after.train(training)(others)
        assert float(((a - b).abs().max() / a.abs().max()).detach()) <= 1e-9
    assert torch.allclose(net()(X), child.eval()(X), rtol=1e-4, atol=1e-5)
    assert fxgrow.tie(parent, child, child.meta["growth"]["record"]) is not None


def test_old_numbers_stay_and_draws_are_told_apart():
    parent, step = net(), STEPS[0]
    child = grow(parent, X, step).model
    free = free_numbers(child, parent, X, step)
    assert set(free) == {"0.weight", "3.weight"}  # norms and biases take means
    at, group, sign = free["0.weight"]
    assert sorted(at.tolist()) == list(range(4 * 9, 8 * 9))
    assert int(group.max()) + 1 == 2 * 9 and (group.bincount() == 2).all()
    at, group, sign = free["3.weight"]
    assert int(group.max()) + 1 == 6 * 2 * 9 and all(sign[group == g].sum() == 0 for g in range(5))
    hypernetwork().give(child, parent, X, step)
    assert torch.equal(child.get_parameter("0.weight")[:4], parent.get_parameter("0.weight"))


@pytest.mark.parametrize("step", [{"pass": "widen", "where": "0", "to": 7, "method": "net2net-unequal", "seed": 3},
                                  {"pass": "kernel", "where": "0", "size": 5},
                                  {"pass": "deepen", "where": "3", "method": "netmorph", "seed": 1}],
                         ids=["net2net", "nothing", "identity"])
def test_a_child_whose_numbers_cannot_be_given_is_left_as_it_is(step):
    parent = net()
    child = grow(parent, X, step).model
    drawn = {name: t.clone() for name, t in child.state_dict().items()}
    assert not hypernetwork().give(child, parent, X, step)
    assert all(torch.equal(t, drawn[name]) for name, t in child.state_dict().items())


def test_what_members_have_is_learned():
    small, large = (Hypernetwork([net(s, scale) for s in (0, 1)], 0) for scale in (1.0, 8.0))
    ratio = {}
    for name in ("0.weight", "3.weight"):
        known = cells(net(2))
        said = [h.laws(known.graph, known.node, known.what)[1][known.names[name]].exp().mean() for h in (small, large)]
        ratio[name] = float(said[1] / said[0])
    assert 0.6 < ratio["0.weight"] < 1.7 and 5 < ratio["3.weight"] < 12
    parent, step = net(3, 8.0), STEPS[0]
    spread = []
    for h in (small, large):
        child = grow(parent, X, step).model
        h.give(child, parent, X, step)
        spread.append(float(child.get_parameter("3.weight")[:, 4:].detach().std()))
    assert spread[1] > 4 * spread[0]


def test_the_same_members_give_the_same_numbers_also_from_files():
    parent, step = net(), STEPS[2]
    given = []
    for members in ([net(0), net(1)], [from_bytes(to_bytes(net(s))) for s in (0, 1)]):
        child = grow(parent, X, step).model
        Hypernetwork(members, 0).give(child, parent, X, step)
        given.append(child.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(given[0].values(), given[1].values()))
