"""Graphs that switch gradients off and back: the grad mode is never left switched."""
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import OtherInputs
from fxgrow.passes import Widen


class Frozen(nn.Module):
    """Insists on a length where gradients are off."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        with torch.no_grad():
            if x.shape[0] % 2:
                x = x[1:]
            h = self.a(x)
        return self.b(torch.relu(h))


def test_a_check_that_fails_leaves_the_grad_mode_as_it_was(tmp_path):
    model, x = Frozen().double(), torch.randn(3, 4).double()
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    fxgrow.save(grown, tmp_path / "a.fxg")
    for graph in (fxgrow.capture(model, x), grown.model, fxgrow.load(tmp_path / "a.fxg")):
        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                with pytest.raises(OtherInputs):
                    graph(torch.randn(4, 4).double())
                assert torch.is_grad_enabled() is enabled
        graph(x).sum().backward()
        assert graph.a.weight.grad is None and graph.b.weight.grad is not None


class Asking(Frozen):
    def forward(self, x):
        h = 2 * x
        if self.training:
            h.requires_grad = True  # for a checkpoint around what follows
        return self.b(torch.relu(self.a(h)))


def test_gradients_that_train_mode_asks_for_are_asked_for_there_alone(tmp_path):
    model, x = Asking().double(), torch.randn(3, 4).double()
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    fxgrow.save(grown, tmp_path / "a.fxg")
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
    for graph in (fxgrow.capture(model, x), grown.model, fxgrow.load(tmp_path / "a.fxg")):
        asked = []
        graph.a.register_forward_pre_hook(lambda layer, given, asked=asked: asked.append(given[0].requires_grad))
        graph.train()(x), graph.eval()(x)
        assert asked == [True, False]
