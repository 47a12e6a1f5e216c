"""Forwards that read a number out of a tensor, a length that is a size too or a draw that decides nothing; ints of sizes."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import CaptureError, OtherInputs
from fxgrow.passes import Widen

X, LENGTHS = torch.randn(3, 6, 4).double(), torch.tensor([6, 4, 5])
OTHERS = [(torch.randn(2, 9, 4).double(), torch.tensor([7, 9])), (torch.randn(4, 2, 4).double(), torch.tensor([1, 2, 2, 1]))]


def item(lengths):
    return lengths.max().item()


def whole(lengths):
    return int(torch.max(lengths).item())


def made_whole(lengths):
    return int(torch.max(lengths))


def one_less(lengths):
    """Return the length by way of another number that is none of a size."""
    return (lengths - 1).max().clamp(min=0).item() + 1


class Padded(nn.Module):
    """Hides what lies behind the length of each row."""

    def __init__(self, length):
        super().__init__()
        self.first, self.inner, self.last, self.length = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), length

    def forward(self, x, lengths):
        h = F.relu(self.first(x))
        places = torch.arange(lengths.max()) if self.length is None else torch.arange(self.length(lengths))
        return self.last(F.relu(self.inner(h.masked_fill((places[None] >= lengths[:, None])[..., None], 0))))


def equal(one, two, *inputs):
    with torch.no_grad():
        expected = one(*inputs)
        return bool((two(*inputs) - expected).abs().max() <= 1e-9 * expected.abs().max())


@pytest.mark.parametrize("length", [item, whole, made_whole, None])
def test_a_length_in_the_data_is_a_size_for_inputs_of_any_length(length, tmp_path):
    model = Padded(length).double()
    graph = fxgrow.capture(model, (X, LENGTHS))
    assert not graph.meta["leaves"]
    grown = fxgrow.transform(graph, (X, LENGTHS), [Widen(factor=2, seed=0)])
    assert grown.model.inner.weight.shape == (16, 16)
    fxgrow.save(grown, tmp_path / "grown.fxgrow")
    loaded = fxgrow.load(tmp_path / "grown.fxgrow")
    for inputs in [(X, LENGTHS), *OTHERS]:
        assert equal(model, graph, *inputs) and equal(model, grown.model, *inputs) and equal(model, loaded, *inputs)
    with pytest.raises(OtherInputs, match=r"the number at .*test_telling.py:\d+ was x.shape\[1\]"):
        graph(X, torch.tensor([3, 5, 4]))


def test_a_number_that_is_no_size_is_as_unknown_as_ever():
    with pytest.raises(CaptureError, match=r"depends on the data of a tensor \(item\) at .*test_telling.py"):
        fxgrow.capture(Padded(one_less).double(), (X, torch.tensor([6, 4, 5])))
    with pytest.raises(CaptureError, match=r"depends on the data of a tensor \(item\)"):  # shorter than the axis is long
        fxgrow.capture(Padded(lambda lengths: lengths.sum().item()).double(), (X, LENGTHS))


@pytest.mark.parametrize("batch, lengths", [(6, [7, 6, 6, 6, 6, 6]), (4, [4, 2, 4, 1])])
def test_the_batch_is_not_taken_for_the_length(batch, lengths):
    model = Padded(item).double()
    graph = fxgrow.capture(model, (torch.randn(batch, max(lengths), 4).double(), torch.tensor(lengths)))
    assert all(equal(model, graph, *inputs) for inputs in OTHERS)


class LayerDrop(nn.Module):
    def __init__(self, skips):
        super().__init__()
        self.first, self.inner, self.last, self.skips = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), skips

    def forward(self, x):
        h = F.relu(self.first(x))
        if not (self.training and self.skips()):
            h = h + F.relu(self.inner(h))
        return self.last(F.dropout(h, 0.5, self.training))


@pytest.mark.parametrize("skips", [
    lambda: torch.rand(1).item() <= 0.0, lambda: torch.rand([]) < 0.0, lambda: 1.0 <= torch.rand(()).item(),
    lambda: not torch.rand(1)[0] < 1])
def test_a_draw_that_never_decides_is_drawn_and_decides_nothing(skips):
    model, x = LayerDrop(skips).double(), X[0]
    grown = fxgrow.transform(model, x, [Widen("inner", by=4, seed=0), Widen("first", by=4, seed=0)]).model
    for training in (False, True):
        results = []
        for m in (model, fxgrow.capture(model, x)):
            torch.manual_seed(3)
            results.append(m.train(training)(x))
        assert torch.equal(*results)  # the same numbers are left out, so as many were drawn before
    assert equal(model.eval(), grown.eval(), x)


@pytest.mark.parametrize("skips", [
    lambda: torch.rand(1).item() <= 0.1, lambda: torch.rand([]) < 0.5, lambda: torch.rand(1).item() * 2 > 2.0,
    lambda: torch.rand(2)[0].item() == 0.0, lambda: bool(torch.rand(1).item())])
def test_a_draw_that_decides_is_refused(skips):
    with pytest.raises(CaptureError, match=r"drawn|data of a tensor"):
        fxgrow.capture(LayerDrop(skips).double(), X[0])


class Scaled(nn.Module):
    """Makes a picture half as high again, in plain numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        size = [int(s * 1.5) for s in x.shape[-2:]]
        assert all(isinstance(s, int) for s in size) and int("7", 8) == 7 and issubclass(bool, int)
        assert np.zeros(1, dtype=int).dtype == np.int64 == np.ones(1).astype(int).dtype
        return self.last(F.interpolate(F.relu(self.first(x)), size=size))


def test_what_is_made_whole_of_a_size_remembers_it():
    model = Scaled().double()
    graph = fxgrow.capture(model, torch.randn(2, 3, 8, 8).double())
    assert graph.code.count("insist") == 0
    for side in (6, 8, 13):
        assert equal(model, graph, torch.randn(3, 3, side, side + 1).double())
