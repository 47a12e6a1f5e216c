"""Factors on weights that make up for other constants."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.common import Refusal
from fxgrow.identity import Trace, factors, results


class Stream(nn.Module):
    """Written to by two layers, read by a norm and, if asked for, by a layer without one."""

    def __init__(self, bare=False, act=F.gelu):
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 6)
        self.norm, self.out, self.act = nn.LayerNorm(6), nn.Linear(6, 3), act
        self.bare = nn.Linear(6, 3) if bare else None

    def forward(self, x):
        x = self.one(x)
        x = x + self.act(self.two(x)) * 0.7 if self.act is torch.tanh else x + self.two(self.act(self.norm(x)))
        y = self.out(self.norm(x))
        return y if self.bare is None else y + self.bare(x)


def folded(model, x, eps):
    """The model with another eps, and weights that make up for it."""
    gm = fxgrow.capture(model, x)
    trace = Trace.of(gm)
    ops = [v for made in trace.made.values() for v in made]
    change = 0.5 * math.log(eps / model.norm.eps)
    logs = factors(trace, ops, [], results(trace, next(iter(gm.graph.find_nodes(op="output")))),
                   lambda v: change if v.name == "native_layer_norm" else 0.0)
    model.norm.eps = eps
    with torch.no_grad():
        for name, (log, shift) in logs.items():
            assert not shift
            model.get_parameter(name).mul_(math.exp(log))
    return logs


@pytest.mark.parametrize("bare", [False, True])
def test_another_eps_is_made_up_for(bare):
    torch.manual_seed(0)
    model, x = Stream(bare).double(), torch.randn(5, 4, dtype=torch.float64)
    model.norm.eps = 0.5
    before = model(x)
    logs = folded(model, x, 0.02)
    assert torch.allclose(model(x), before, rtol=1e-10, atol=1e-12)
    assert {"one.weight", "one.bias", "two.weight", "two.bias"} <= logs.keys() and "norm.weight" not in logs
    assert ("bare.weight" in logs) == bare and "bare.bias" not in logs


def test_equations_that_contradict_each_other_are_told():
    """A tanh takes the stream as it is, so it cannot be scaled."""
    torch.manual_seed(0)

    class Fixed(Stream):
        def forward(self, x):
            x = torch.tanh(self.one(x))
            return self.out(self.norm(x))

    model, x = Fixed().double(), torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(Refusal, match="two scales"):
        folded(model, x, 0.5)
