"""What a child has in common with its parent is taken from there, and is what running the child alone gives, bit for bit."""
import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from random_nets import RandomNet, random_pass
from support import shake
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.graph import Again, Layers, Outputs, compiled_later, evaluating, is_compiled, same_form, without_fast_path
from fxgrow.passes import Branch, Deepen, Kernel, Skip, SqueezeExcite, Widen


def ran(monkeypatch) -> list[str]:
    """Return a list to which the names of the nodes that are run are added."""
    names: list[str] = []
    run = Again.run_anew

    def noted(self, node):
        names.append(node.name)
        return run(self, node)

    monkeypatch.setattr(Again, "run_anew", noted)
    return names


def alone(gm, x) -> torch.Tensor:
    was = gm.training
    with torch.no_grad(), without_fast_path():
        value = gm.eval()(x.clone())
    gm.train(was)
    return value


@pytest.mark.parametrize("seed", range(4))
def test_children_give_what_they_give_alone(seed):
    rng, x = random.Random(seed), torch.randn(2, 3, 8, 8)
    torch.manual_seed(seed)
    parent = fxgrow.capture(shake(RandomNet(seed), seed).train(seed % 2 == 0), x)
    outputs = Outputs(Layers(parent), x)
    assert torch.equal(outputs.own, alone(parent, x))
    for _ in range(3):
        try:
            child = fxgrow.transform(parent, x, random_pass(rng, parent)).model
        except FxgrowError:
            continue
        with torch.no_grad():
            for p in (*child.parameters(),)[rng.randrange(3)::3] if rng.random() < 0.5 else ():
                p.mul_(1.5)  # as if it were not equal to its parent
        assert torch.equal(outputs.of(child), alone(child, x))
        assert child.training == parent.training == (seed % 2 == 0)


class Net(nn.Module):
    """Writes to values in place, and reads one twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        y = self.second(x)
        y.add_(x)
        F.relu_(y[:, 1:])
        return self.last((y * y).mean((2, 3)))


@pytest.mark.parametrize("step", [Widen("first", by=4, seed=0), Widen("second", by=4, seed=0), Kernel("first", size=5),
                                  Deepen("second", method="netmorph", seed=0), Branch("second", seed=0),
                                  Skip("second"), SqueezeExcite("second", reduction=4, seed=0)])
def test_what_is_written_to_later_is_made_anew(step):
    x = torch.randn(2, 3, 8, 8)
    parent = fxgrow.capture(shake(Net()), x)
    outputs = Outputs(Layers(parent), x)
    child = fxgrow.transform(parent, x, step).model
    for _ in range(2):  # nothing of the parent's was written to
        assert torch.equal(outputs.of(child), alone(child, x)) and torch.equal(outputs.of(parent), outputs.own)


def test_a_child_that_writes_to_its_parents_values_is_run_alone():
    x = torch.randn(2, 4)
    parent = fxgrow.capture(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), x)
    outputs = Outputs(Layers(parent), x)
    child = fxgrow.transform(parent, x, []).model
    tanh = next(n for n in child.graph.nodes if n.name == "_1")
    with child.graph.inserting_before(tanh):
        child.graph.call_method("mul_", (tanh.args[0], 2.0))
    child.recompile()
    for _ in range(2):
        assert torch.equal(outputs.of(child), alone(child, x)) and torch.equal(outputs.own, alone(parent, x))
        assert not torch.equal(outputs.of(child), outputs.own)


def test_only_what_is_something_else_is_run(monkeypatch):
    x = torch.randn(2, 4)
    parent = fxgrow.capture(nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(4, 4), nn.Tanh())]), x)
    outputs, names = Outputs(Layers(parent), x), ran(monkeypatch)
    assert torch.equal(outputs.of(parent), outputs.own) and not names
    child = fxgrow.transform(parent, x, []).model  # whose tensors are its parent's
    child.get_submodule("6").bias = nn.Parameter(torch.ones(4))
    assert torch.equal(outputs.of(child), alone(child, x)) and names == ["_6", "_7"]


def test_arguments_are_told_apart():
    class Two(nn.Module):
        def forward(self, x):
            a, b = torch.sin(x), torch.cos(x)
            return torch.sub(a, b, alpha=2) + torch.sub(a, a)

    x = torch.randn(3, 5)
    parent = fxgrow.capture(Two(), x)
    outputs = Outputs(Layers(parent), x)
    changes = [lambda n: n["sub"].update_kwarg("alpha", 3), lambda n: n["sub_1"].update_arg(1, n["cos"]),
               lambda n: n["sub_1"].update_arg(0, n["cos"]), lambda n: setattr(n["sin"], "target", torch.tan)]
    for change in changes:
        child = fxgrow.transform(parent, x, []).model
        change({n.name: n for n in child.graph.nodes})
        child.recompile()
        assert torch.equal(outputs.of(child), alone(child, x)) and not torch.equal(outputs.of(child), outputs.own)


def test_code_is_made_when_it_is_run():
    x = torch.randn(2, 4)
    parent = fxgrow.capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), x)
    step = [Widen("0", by=2, seed=0), Deepen("0", method="netmorph", seed=0)]
    whole = fxgrow.transform(parent, x, step).model
    with compiled_later():
        late = fxgrow.transform(parent, x, step).model
    assert is_compiled(whole) and not is_compiled(late)
    assert late.code == whole.code
    with compiled_later():
        late = fxgrow.transform(parent, x, step).model
    assert torch.equal(late(x), whole(x)) and is_compiled(late)
    assert fxgrow.verify(parent, late, x).ok


def test_each_module_is_in_its_mode_behind_a_run():
    gm = fxgrow.capture(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()), torch.randn(2, 4))
    for modes in itertools.product([True, False], repeat=3):
        gm.train(modes[0])
        for name, mode in zip(("1", "2"), modes[1:]):
            gm.get_submodule(name).train(mode)
        before = [m.training for m in gm.modules()]
        with evaluating(gm):
            assert not any(m.training for m in gm.modules())
        assert [m.training for m in gm.modules()] == before


def test_sparse_tensors_are_not_taken_for_the_same():
    dense = torch.eye(3)
    assert same_form(dense, dense.clone()) and not same_form(dense.to_sparse(), dense.to_sparse())
