"""Classes that a reshape takes apart by a size of the inputs: what holds for the example alone never grows."""
import pytest
import torch
from support import grow, size
from torch import nn

import fxgrow
from fxgrow.axis import analyse
from fxgrow.passes import Widen


class Tokens(nn.Module):
    """A picture whose positions and channels change places in a reshape, for pictures of any size."""

    def __init__(self, back, channels):
        super().__init__()
        self.free = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Tanh(), nn.Conv2d(5, 3, 1))
        self.stem, self.inner = nn.Conv2d(3, channels, 1), nn.Conv2d(3, channels, 1)
        self.back, self.channels, self.out = back, channels, nn.Conv2d(channels, 2, 1)

    def forward(self, x):
        h = torch.tanh(self.stem(self.free(x)))
        tokens = self.inner(x).tanh().flatten(2).transpose(1, 2)
        return self.out(h + self.back(tokens, self.channels, *x.shape[2:]))


MIXED = {"channels, then sizes": lambda t, c, h, w: t.reshape(t.shape[0], c, h, w),
         "the rest, then sizes": lambda t, c, h, w: t.reshape(t.shape[0], -1, h, w),
         "a number, then the rest": lambda t, c, h, w: t.reshape(t.shape[0], c, -1).unflatten(2, (h, w)),
         "all in one": lambda t, c, h, w: t.flatten().view(t.shape[0], c, h, w)}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (3, 5)])
@pytest.mark.parametrize("back", MIXED)
def test_what_is_mixed_with_positions_does_not_grow(back, shape):
    x = torch.randn(2, 3, *shape)
    grown = grow(Tokens(MIXED[back], 24), x, Widen(factor=2, seed=0))
    assert grown.model.get_submodule("out").weight.shape[1] == 24
    assert grown.model.get_submodule("free.0").weight.shape[0] > 5


def test_what_is_frozen_so_is_part_of_the_analysis():
    tape = analyse(fxgrow.capture(Tokens(MIXED["channels, then sizes"], 24), torch.randn(2, 3, 2, 2)))
    assert tape.suspects and tape.as_found()


@pytest.mark.parametrize("shape", [(2, 2), (4, 6)])
def test_what_changes_places_whole_grows(shape):
    model = Tokens(lambda t, c, h, w: t.transpose(1, 2).reshape(t.shape[0], c, h, w), 24)
    assert size(grow(model, torch.randn(2, 3, *shape), Widen(factor=2, seed=0)).model) > 1.8 * size(model)


class Heads(nn.Module):
    """Heads that become rows beside those of the batch, and are columns again behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x):
        batch, length, _ = x.shape
        h = self.first(x).view(batch, length, 4, -1).transpose(1, 2).reshape(batch * 4, length, -1)
        h = torch.softmax(h @ h.transpose(1, 2), -1) @ h
        return self.last(h.view(batch, 4, length, -1).transpose(1, 2).flatten(2))


def test_heads_beside_the_batch_grow():
    model = Heads()
    assert size(grow(model, torch.randn(4, 6, 5), Widen(factor=2, seed=0)).model) > 1.5 * size(model)


class Recurrent(nn.Module):
    """A recurrent layer over every second column of a sequence; `step` is the length that makes it see one."""

    def __init__(self, layer, **options):
        super().__init__()
        self.columns = nn.Conv1d(4, 8, 2, stride=2)
        self.inner, self.out = layer(8, 8, batch_first=True, **options), nn.LazyLinear(3)

    def forward(self, x):
        return self.out(self.inner(self.columns(x).transpose(1, 2))[0])


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("layer, options", [(nn.GRU, {}), (nn.LSTM, {"bidirectional": True}), (nn.RNN, {"num_layers": 2}),
                                            (nn.LSTM, {"proj_size": 5})])
def test_an_example_of_one_step_says_what_a_state_is_multiplied_by(layer, options, method):
    model = Recurrent(layer, **options)
    model(torch.randn(2, 4, 2))
    model = model.double().eval()
    grown = fxgrow.transform(model, torch.randn(2, 4, 2, dtype=torch.float64), Widen(factor=2, method=method, seed=0))
    assert grown.model.inner.weight_hh_l0.shape[1] > model.inner.weight_hh_l0.shape[1]
    for length in (2, 3, 9):
        x = torch.randn(3, 4, length, dtype=torch.float64)
        torch.testing.assert_close(grown.model(x), model(x), rtol=1e-9, atol=1e-12)
