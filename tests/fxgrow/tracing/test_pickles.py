"""`torch.save` of captured and grown networks: the graph comes back as it was, with all that a second trace would lose."""
import io
import math

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.passes import Widen


class Steep(torch.autograd.Function):
    """Doubles, with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 5


class Habits(nn.Module):
    """Asks for sizes, computes with them, draws numbers, switches gradients off, and has a function of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x, scale=None):
        if x.shape[1] > 3:
            x = x / math.sqrt(x.shape[1])
        h = Steep.apply(self.first(x)) if scale is None else self.first(x) * scale
        with torch.no_grad():
            mean = h.mean()
        h = torch.relu(h) - mean
        if self.training:
            h = h + torch.randn(1)
        return {"out": self.last(torch.ops.aten.tanh.default(h))}


class Outer(nn.Module):
    """Cannot be captured itself."""

    def __init__(self):
        super().__init__()
        self.part = Habits()

    def forward(self, x):
        return self.part(x)["out"] * float(x.detach().sum() > 0)


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def run(model, x):
    torch.manual_seed(0)
    out = model(x)
    out = out["out"] if isinstance(out, dict) else out
    return out, torch.autograd.grad(out.square().sum(), list(model.parameters()))


@pytest.mark.parametrize("model", [Habits, Outer])
@pytest.mark.parametrize("mode", [True, False])
def test_a_pickle_holds_the_graph(model, mode):
    x = torch.randn(3, 4)
    grown = fxgrow.transform(model(), x, Widen(factor=2, seed=0)).model.train(mode)
    again = saved(saved(grown))
    assert type(again).__name__ == type(grown).__name__ and again.training == mode
    for other in (x, torch.randn(5, 4).abs()):
        for found, wanted in zip(run(again, other), run(grown, other)):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    further = fxgrow.transform(again, x, Widen(factor=2, seed=0)).model
    assert sum(p.numel() for p in further.parameters()) > sum(p.numel() for p in grown.parameters())


def test_checks_of_sizes_come_back():
    again = saved(fxgrow.capture(Habits(), torch.randn(3, 4)))
    with pytest.raises(fxgrow.OtherInputs, match="captured where"):
        again(torch.randn(3, 2))
