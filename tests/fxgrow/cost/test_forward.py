"""A counter of many networks gives for each what `count_flops` gives, in whatever order it sees them."""
import random

import pytest
import torch
from random_nets import RandomNet, random_pass
from support import shake
from torch import nn

import fxgrow
from fxgrow.cost import ForwardCounter
from fxgrow.errors import CaptureError, FxgrowError


@pytest.mark.parametrize("seed", range(4))
def test_children_of_a_network_are_counted_as_alone(seed):
    rng, counter = random.Random(seed), ForwardCounter()
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 8, 8)
    networks = [fxgrow.capture(shake(RandomNet(seed), seed), x)]
    for step in [random_pass(rng, networks[0]) for _ in range(4)]:
        try:
            networks.append(fxgrow.transform(networks[0], x, step).model)
        except FxgrowError:
            continue
    for gm in networks * 2:
        for inputs in (x[:1], x):
            assert counter.count(gm, inputs) == fxgrow.count_flops(gm, inputs).forward > 0


class Odd(nn.Module):
    """A layer whose code is not torch's: what it costs follows from more than its class and sizes."""

    def __init__(self, times: int):
        super().__init__()
        self.times = [times]
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        for _ in range(self.times[0]):
            x = x @ self.weight
        return x


def test_layers_types_and_calls_that_differ_are_told_apart():
    counter, x = ForwardCounter(), torch.randn(2, 4)
    for net in (Odd(1), Odd(3), nn.MultiheadAttention(4, 2), nn.Linear(4, 2), nn.Linear(4, 2, bias=False), nn.LSTM(4, 2),
                nn.LSTM(4, 2, 2), nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.Linear(4, 4))):
        inputs = (x, x, x) if isinstance(net, nn.MultiheadAttention) else (x,)
        for mode in (True, False):
            gm = fxgrow.capture(net.train(mode), inputs)
            assert counter.count(gm, inputs) == fxgrow.count_flops(gm, inputs).forward
            gm = fxgrow.capture(nn.Sequential(net, nn.Identity()) if len(inputs) == 1 else net, inputs)
            assert counter.count(gm, inputs) == fxgrow.count_flops(gm, inputs).forward


def test_nothing_is_watched_behind_a_network_that_does_not_run():
    x = torch.randn(2, 4)
    gm = fxgrow.capture(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), x)
    counter, expected = ForwardCounter(), fxgrow.count_flops(gm, x).forward
    assert counter.count(gm, x) == expected
    wrong = fxgrow.transform(gm, x, []).model
    wrong.get_submodule("0").weight = nn.Parameter(torch.randn(5, 4))  # so that the last layer does not fit
    wrong.get_submodule("0").bias = None
    hooks = nn.modules.module._global_forward_hooks
    before = torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), len(hooks)
    with pytest.raises(CaptureError, match="cannot run"):
        counter.count(wrong, x)
    assert (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), len(hooks)) == before
    assert torch._C._len_torch_function_stack() == 0
    assert torch._C._len_torch_dispatch_stack() == 0 and counter.count(gm, x) == expected
