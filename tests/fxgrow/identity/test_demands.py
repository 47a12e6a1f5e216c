"""The walk back from a block's output: what it asks of parameters, what is in its way, and the ranges that it rests on."""
from __future__ import annotations

import inspect
import sys
from math import inf

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from torch import nn

import fxgrow
from fxgrow.common import Refusal
from fxgrow.identity import Demand, Trace

X = (2, 4, 6, 6)


class Block(nn.Module):
    """`forward(self, x)` is a function of the module, which has a layer or two."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.conv2, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.1))
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def start_of(forward, low: float = -inf, paired=None):
    """The start by which a block is the identity on inputs of at least `low`."""
    gm = fxgrow.capture(Block(forward), torch.randn(X))
    trace = Trace.of(gm, {"x": (low, inf)})
    out = next(iter(gm.graph.find_nodes(op="output"))).args[0]
    return Demand(trace.gives["x"], lambda name: True, paired).identity(trace.gives[out.name])


def windows(x):
    """Windows of three by three and back again."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // 3, 3, w // 3, 3).permute(0, 2, 4, 3, 5, 1)
    return y.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


IDENTITIES = {
    "a sum": (lambda m, x: x + m.conv(x), {"conv.weight", "conv.bias"}),
    "weighed": (lambda m, x: torch.add(x, m.conv(x), alpha=2), {"conv.weight", "conv.bias"}),
    "the other way round": (lambda m, x: m.conv(x) + x, {"conv.weight", "conv.bias"}),
    "in place": (lambda m, x: m.conv(x).add_(x), {"conv.weight", "conv.bias"}),
    "two": (lambda m, x: (y := x + m.conv(x)) + m.conv2(torch.relu(y)), {"conv.weight", "conv.bias", "conv2.weight",
                                                                         "conv2.bias"}),
    "a norm": (lambda m, x: x + m.norm(m.conv(x)), {"norm.weight", "norm.bias"}),
    "a layer scale": (lambda m, x: x + m.scale * m.conv(x), {"conv.weight", "conv.bias"}),
    "a layer scale behind an activation": (lambda m, x: x + m.scale * torch.sigmoid(m.conv(x)), {"scale"}),
    "windows": (lambda m, x: windows(x + m.conv(x)), {"conv.weight", "conv.bias"}),
    "windows within": (lambda m, x: x + windows(m.conv(x)), {"conv.weight", "conv.bias"}),
    "padded and cut": (lambda m, x: F.pad(x, (1, 1))[..., 1:-1] + m.conv(x), {"conv.weight", "conv.bias"}),
    "a clamp around zero": (lambda m, x: x + F.hardtanh(m.conv(x)), {"conv.weight", "conv.bias"}),
    "an activation": (lambda m, x: x + F.gelu(m.conv(x)), {"conv.weight", "conv.bias"}),
    "pooled": (lambda m, x: x + F.adaptive_avg_pool2d(m.conv(x), 1), {"conv.weight", "conv.bias"}),
    "joined": (lambda m, x: x + torch.cat([m.conv(x)[:, :2], m.conv2(x)[:, 2:]], 1), {"conv.weight", "conv.bias",
                                                                                      "conv2.weight", "conv2.bias"}),
    "a weight that is computed": (lambda m, x: x + F.conv2d(x, m.conv2.weight * x.mean(), m.norm.bias),
                                  {"conv2.weight", "norm.bias"}),
    "products and a sum": (lambda m, x: x + torch.baddbmm(
        m.norm.bias.view(1, 1, 4), m.conv(x).flatten(2).mT, m.conv2.weight.view(1, 4, 4).expand(len(x), -1, -1)
    ).mT.view_as(x), {"norm.bias", "conv.weight", "conv.bias"}),
    "squeezed": (lambda m, x: x + m.conv(x) * torch.sigmoid(m.conv2(x)), {"conv.weight", "conv.bias"}),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("case", IDENTITIES)
def test_what_is_asked_of_parameters_makes_it_the_identity(case):
    """The parameters that are asked to be zero, and with them the block gives back its input to the last bit."""
    forward, zeros = IDENTITIES[case]
    assert start_of(forward).zeros == zeros
    block, x = Block(forward), torch.randn(X)
    with torch.no_grad():
        for name in zeros:
            block.get_parameter(name).zero_()
        assert torch.equal(block.eval()(x), x)


OBSTACLES = {
    "nothing to skip": (lambda m, x: m.conv(x), "convolution"),
    "its double": (lambda m, x: x + x, "adds its input to itself"),
    "turned": (lambda m, x: x.flip(2) + m.conv(x), "another order"),
    "transposed": (lambda m, x: x.transpose(2, 3) + m.conv(x), "another order"),
    "moved": (lambda m, x: torch.roll(x, 1, 3) + m.conv(x), "another order"),
    "scaled": (lambda m, x: 2 * x + m.conv(x), "mul"),
    "weighed": (lambda m, x: torch.add(m.conv(x), x, alpha=2), "add"),
    "an activation on the way": (lambda m, x: F.gelu(x) + m.conv(x), "gelu"),
    "a relu of what may be negative": (lambda m, x: torch.relu(x + m.conv(x)), "relu"),
    "a constant": (lambda m, x: x + (m.conv(x) + 1), "add"),
    "not zero at zero": (lambda m, x: x + torch.sigmoid(m.conv(x)), "sigmoid"),
    "no slope at zero": (lambda m, x: x + torch.relu(m.conv(x)), "would never learn"),
    "written over": (lambda m, x: x + m.conv(x.mul_(2)), "mul"),
    "written over by a view": (lambda m, x: x + (x.view(-1).mul_(2).view_as(x) + m.conv(x)), "mul"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_is_in_the_way_is_named(case):
    forward, message = OBSTACLES[case]
    with pytest.raises(Refusal, match=message):
        start_of(forward)


def test_an_activation_that_leaves_the_range_alone_is_no_obstacle():
    forward = IDENTITIES["a norm"][0]
    for f in (torch.relu, F.leaky_relu, torch.abs, F.elu, F.celu):
        assert start_of(lambda m, x, f=f: f(forward(m, x)), low=0.0).zeros == {"norm.weight", "norm.bias"}
        with pytest.raises(Refusal):
            start_of(lambda m, x, f=f: f(forward(m, x)), low=-1e-9)
    for f in (F.relu6, F.hardtanh):  # what may be larger than they let through
        with pytest.raises(Refusal):
            start_of(lambda m, x, f=f: f(forward(m, x)), low=0.0)


def test_pairs_go_through_norms_with_slope_one():
    start = start_of(IDENTITIES["a norm"][0], paired=lambda name: True)
    assert start.pairs == {"conv.weight"} and start.zeros == {"conv.bias", "norm.bias", "norm.running_mean"}
    assert start.slopes == {"norm.weight": pytest.approx(1e-5 ** 0.5)}
    without = start_of(IDENTITIES["a norm"][0], paired=lambda name: False)
    assert without.zeros == {"norm.weight", "norm.bias"} and not without.pairs


def flat(m):
    """The rows of a weight, and their lengths."""
    rows = m.conv2.weight.flatten(1)
    return rows, rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("weight", [
    lambda m: torch._weight_norm(flat(m)[0], m.scale[:, 0]), lambda m: flat(m)[0] * m.scale[:, 0] / flat(m)[1],
    lambda m: flat(m)[0] * (m.scale[:, 0] / flat(m)[1]),
    lambda m: flat(m)[0] * flat(m)[0].square().sum(1, keepdim=True).rsqrt() * m.scale[:, 0]])
def test_the_gain_of_a_weight_is_zero_where_its_length_divides(weight):
    start = start_of(lambda m, x: x + F.conv2d(x, weight(m)[:, :, None, None], m.conv2.bias))
    assert start.zeros == {"scale", "conv2.bias"}


def test_a_weight_that_its_length_divides_is_never_zero():
    with pytest.raises(Refusal, match="conv2.weight is divided by its own length"):
        start_of(lambda m, x: x + F.conv2d(x, (flat(m)[0] / flat(m)[1])[:, :, None, None]))


def test_parameters_of_others_stay():
    gm = fxgrow.capture(Block(lambda m, x: x + m.conv(x)), torch.randn(X))
    trace = Trace.of(gm)
    out = next(iter(gm.graph.find_nodes(op="output"))).args[0]
    with pytest.raises(Refusal, match="used elsewhere"):
        Demand(trace.gives["x"], lambda name: name != "conv.bias").identity(trace.gives[out.name])


STEPS = [torch.relu, F.relu6, torch.sigmoid, torch.tanh, torch.abs, torch.square, lambda x: F.hardtanh(x, -2.0, 0.5), F.gelu,
         lambda x: F.max_pool2d(x, 2, 1, 1), lambda x: F.avg_pool2d(x, 3, 1, 1), lambda x: F.pad(x, (0, 1), value=-3.0),
         lambda x: x + x.abs(), lambda x: x * torch.sigmoid(x), lambda x: torch.cat([x, torch.sigmoid(x)], 1), lambda x: -x,
         lambda x: x.permute(0, 1, 3, 2), lambda x: torch.softmax(x, 1), lambda x: x.clamp(min=0.25), lambda x: 3 * x - 1,
         lambda x: x.clamp(-1, 4), lambda x: x.mean((2, 3), keepdim=True), lambda x: x.exp().clamp(max=50.0)]


@given(st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=6), st.integers(0, 99))
@proves(60)
def test_ranges_hold_every_number(steps, seed):
    class Chain(nn.Module):
        def forward(self, x):
            for step in steps:
                x = STEPS[step](x)
            return x

    x = torch.randn(X, generator=torch.Generator().manual_seed(seed)) * 3
    gm = fxgrow.capture(Chain(), x)
    low, high = Trace.of(gm).gives[next(iter(gm.graph.find_nodes(op="output"))).args[0].name].range
    out = gm(x)
    assert low <= float(out.min()) + 1e-6 and float(out.max()) <= high + 1e-6


def test_a_way_of_many_blocks_takes_no_deeper_stack():
    """Each block adds to what comes in; the walk back through all of them has a few frames."""
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(40))

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(torch.relu(x))
            return x

    gm = fxgrow.capture(Blocks(), torch.randn(2, 2))
    trace = Trace.of(gm)
    demand = Demand(trace.gives["x"], lambda name: True)
    out = trace.gives[next(iter(gm.graph.find_nodes(op="output"))).args[0].name]
    depth, limit = len(inspect.stack(0)), sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 40)
    try:
        start = demand.identity(out)
    finally:
        sys.setrecursionlimit(limit)
    assert start.zeros == {f"layers.{i}.{name}" for i in range(40) for name in ("weight", "bias")}
