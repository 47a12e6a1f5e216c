"""Copies that are made when something is written to: neither of two networks that share memory ever changes the other."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_nets import RandomNet, random_pass
from support import shake
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.graph import copied_when_written, copy_of, is_same_memory
from fxgrow.passes import Deepen, Experts, Widen
from fxgrow.passes.equalise import Equalise
from fxgrow.passes.into.as_pass import GrowInto
from fxgrow.zoo import create_model

MADE = {  # a tensor, and whether a copy of it can wait: where torch has all of its memory for it
    "plain": lambda: (torch.randn(4, 3), True),
    "parameter": lambda: (nn.Parameter(torch.randn(4, 3)), True),
    "channels last": lambda: (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), True),
    "half": lambda: (torch.randn(4, 3).half(), True),
    "number": lambda: (torch.tensor(3), True),
    "part": lambda: (torch.randn(4, 3)[1:3], False),
    "expanded": lambda: (torch.randn(1).expand(4), False),
    "numpy": lambda: (torch.from_numpy(np.ones((4, 3))), False),
    "shared": lambda: (torch.ones(4, 3).share_memory_(), False)}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("first", ["original", "copy", "a copy of the copy"])
def test_what_is_written_to_changes_nothing_else(kind, first):
    tensor, waits = MADE[kind]()
    expected = tensor.detach().clone()
    with copied_when_written():
        copy = copy_of(tensor)
        again = copy_of(copy)
    assert (copy.dtype, copy.stride(), copy.requires_grad) == (expected.dtype, expected.stride(), False)
    assert is_same_memory(tensor, copy) == is_same_memory(tensor, again) == waits
    one = {"original": tensor, "copy": copy, "a copy of the copy": again}[first]
    if kind == "expanded" and one is tensor:
        tensor = one = one[:1]  # all of its numbers are one
        expected = expected[:1]
    with torch.no_grad():
        one.add_(1)
    assert torch.equal(one, expected + 1)
    for other in (tensor, copy, again):
        assert other is one or torch.equal(other[:len(expected)] if other.ndim else other, expected)


def test_copies_are_made_at_once_elsewhere():
    tensor = torch.randn(3)
    with copied_when_written():
        pass
    assert not is_same_memory(tensor, copy_of(tensor))
    assert not is_same_memory(tensor.to("meta"), copy_of(tensor.to("meta")))
    with copied_when_written():
        assert not is_same_memory(tensor.to_sparse(), copy_of(tensor.to_sparse()))  # no storage


class Perceptron(nn.Module):
    """`x + f(norm(x))`."""

    def __init__(self):
        super().__init__()
        self.norm, self.first, self.last = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.gelu(self.first(self.norm(x))))


class Behind(nn.Module):
    """`norm(x + f(x))`, whose norm hands on what it has to that of a new block."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.last(F.relu(self.first(x))))


def halved(gm) -> None:
    """Write to the numbers of a network, as a pass of one's own may."""
    with torch.no_grad():
        for p in gm.parameters():
            p.mul_(0.5)


PASSES = {  # beside the random ones
    "experts": (lambda: nn.Sequential(nn.Linear(8, 8), Perceptron(), nn.Linear(8, 3)), (2, 5, 8),
                lambda: Experts(experts=4, top_k=2, noise=0.1, seed=0)),
    "hands on": (lambda: nn.Sequential(nn.Linear(8, 8), Behind(), Behind(), nn.Linear(8, 3)), (2, 5, 8),
                 lambda: Deepen("2", times=2, seed=0)),
    "equalise": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), (4, 8),
                 lambda: [Widen("0", factor=2, seed=0), Equalise(seed=0)]),
    "into": (lambda: create_model("mlp", hidden=(8, 8)), (2, 1, 28, 28),
             lambda: GrowInto("zoo:mlp:hidden=(12,12,12)", seed=0)),
    "one's own": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), (4, 8), lambda: halved),
    "several": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), (4, 8),
                lambda: [Widen("0", by=4, seed=0), Deepen("0", seed=0), halved])}


def bits(model: nn.Module) -> dict[str, tuple]:
    """Return all numbers of a model, without touching its memory."""
    return {name: (t.shape, t.detach().clone().numpy().tobytes()) for name, t in model.state_dict().items()}


def learn(model: nn.Module, x: Tensor) -> None:
    """Do one step of training, in which numbers of any kind change."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()


def insist_apart(parent, x: Tensor, step) -> bool:
    """Insist that a child is the one that has memory of its own, and that neither changes the other; is there one?"""
    before = bits(parent)
    try:
        expected = bits(fxgrow.transform(parent, x, step()).model)
    except FxgrowError:
        return False
    with copied_when_written():
        child = fxgrow.transform(parent, x, step()).model
    assert bits(parent) == before and bits(child) == expected
    learn(child, x)
    assert bits(child) != expected and bits(parent) == before
    trained = bits(child)
    learn(parent, x)
    assert bits(child) == trained and bits(parent) != before
    return True


@pytest.mark.parametrize("name", PASSES)
def test_passes_leave_the_parent_as_it_is(name):
    torch.manual_seed(0)
    make, shape, step = PASSES[name]
    x = torch.randn(*shape)
    assert insist_apart(fxgrow.capture(shake(make()), x), x, step)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("seed", range(6))
def test_random_passes_leave_the_parent_as_it_is(seed):
    rng, x = random.Random(seed), torch.randn(2, 3, 8, 8)
    torch.manual_seed(seed)
    parent = fxgrow.capture(shake(RandomNet(seed), seed), x)
    steps = [random_pass(rng, parent) for _ in range(6)]
    assert sum(insist_apart(parent, x, lambda step=step: step) for step in steps)
