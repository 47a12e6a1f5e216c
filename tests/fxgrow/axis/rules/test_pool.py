"""Rules of spatial ops: pooling, resampling, padding, blocks moved between channels and space."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import grow, size
from torch import nn

from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def between(space: int, *inner, width: int = 8, after: int = 8):
    """convolution -> the ops -> convolution, on images of one to three dimensions; and an input."""
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[space]
    inner = [op if isinstance(op, nn.Module) else Call(op) for op in inner]
    return nn.Sequential(convolution(3, width, 1), *inner, convolution(after, 2, 1)), torch.randn(2, 3, *[4] * space)


def widened(case, method: str) -> dict[int, str]:
    model, x = case
    grown = grow(model, x, Widen(factor=2, method=method, seed=0))
    return {o.before: o.method for o in grown.outcomes if o.method}


def warp(x):
    """Samples an affine grid of fixed coefficients."""
    theta = x.new_ones(2, 2, 3) * 0.4
    return F.grid_sample(x, F.affine_grid(theta, [2, 1, 3, 3], align_corners=False), align_corners=False)


CHANNELS_STAY = {
    "avg_pool1d": (1, nn.AvgPool1d(2)),
    "avg_pool2d": (2, nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)),
    "avg_pool3d": (3, nn.AvgPool3d(2)),
    "max_pool2d": (2, nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)),
    "max_pool3d": (3, nn.MaxPool3d(2, dilation=1)),
    "max_pool2d with indices": (2, lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "lp_pool1d": (1, nn.LPPool1d(2, 2)),
    "lp_pool2d": (2, nn.LPPool2d(2.0, (2, 1), ceil_mode=True)),
    "adaptive_avg_pool1d": (1, nn.AdaptiveAvgPool1d(2)),
    "adaptive_avg_pool2d": (2, nn.AdaptiveAvgPool2d((3, 1))),
    "adaptive_avg_pool3d": (3, nn.AdaptiveAvgPool3d(2)),
    "max_pool1d": (1, nn.MaxPool1d(2)),
    "adaptive_max_pool1d": (1, nn.AdaptiveMaxPool1d(3)),
    "adaptive_max_pool2d": (2, nn.AdaptiveMaxPool2d(2)),
    "adaptive_max_pool3d": (3, nn.AdaptiveMaxPool3d(2)),
    "nearest": (2, nn.Upsample(scale_factor=2)),
    "nearest in one dimension": (1, nn.Upsample(size=7)),
    "nearest in three": (3, nn.Upsample(scale_factor=2)),
    "nearest-exact": (2, lambda x: F.interpolate(x, size=(5, 3), mode="nearest-exact")),
    "linear": (1, lambda x: F.interpolate(x, size=7, mode="linear")),
    "bilinear": (2, lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True)),
    "bilinear, antialiased": (2, lambda x: F.interpolate(x, size=(2, 3), mode="bilinear", antialias=True)),
    "to the size of another": (2, lambda x: x + F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")),
    "bicubic": (2, lambda x: F.interpolate(x, size=(7, 5), mode="bicubic")),
    "trilinear": (3, lambda x: F.interpolate(x, size=(3, 5, 4), mode="trilinear")),
    "area": (2, lambda x: F.interpolate(x, size=(2, 2), mode="area")),
    "zeros around": (2, nn.ZeroPad2d((1, 2, 0, 1))),
    "a constant around": (1, nn.ConstantPad1d(2, 0.7)),
    "cropped": (2, lambda x: F.pad(x, (-1, 0, 0, -1))),
    "reflected": (2, nn.ReflectionPad2d(1)),
    "reflected in one dimension": (1, nn.ReflectionPad1d(2)),
    "reflected in three": (3, nn.ReflectionPad3d(1)),
    "replicated": (2, nn.ReplicationPad2d((1, 0, 2, 1))),
    "replicated in one dimension": (1, nn.ReplicationPad1d(1)),
    "replicated in three": (3, nn.ReplicationPad3d(1)),
    "unpooled": (2, lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    "around the circle": (1, lambda x: F.pad(x, (1, 1), mode="circular")),
    "around the circle, in two": (2, nn.CircularPad2d((1, 0, 2, 1))),
    "sampled from a grid": (2, warp),
    "the mean of space": (2, lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "windows": (2, lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))),
    "unfolded and folded": (2, lambda x: F.fold(F.unfold(x, 2, stride=2), (4, 4), 2, stride=2)),
    "into space and back": (2, lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)),
    "out of space and back": (2, lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)),
}
INNER = {"into space and back": 2}  # only whole blocks grow


@pytest.mark.thinned(8)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CHANNELS_STAY)
def test_channels_are_treated_alike(case, method):
    """Every method is exact through every op on space."""
    space, op = CHANNELS_STAY[case]
    assert widened(between(space, op), method) == {INNER.get(case, 8): method}


CHANNELS_CHANGE = {
    "pixel_shuffle": (lambda: between(2, nn.PixelShuffle(2), after=2), 2),
    "pixel_unshuffle": (lambda: between(2, nn.PixelUnshuffle(2), after=32), 8),
    "channel_shuffle": (lambda: between(2, nn.ChannelShuffle(2)), 4),
    "unfolded to a product": (lambda: (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Unfold(2), nn.Conv1d(32, 2, 1)),
                                       torch.randn(2, 3, 4, 4)), 8),
    "flattened": (lambda: (nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 2)),
                           torch.randn(2, 3, 4, 4)), 8),
    "padded channels": (lambda: between(1, lambda x: F.pad(x, (0, 0, 1, 2)), after=11), 8),
    "padded with a constant": (lambda: between(1, lambda x: F.pad(x, (0, 0, 1, 2), value=0.5), after=11), 8),
    "padded to a stream": (lambda: between(2, lambda x: F.avg_pool2d(F.pad(x, (0, 0, 0, 0, 4, 4)), 2), after=16), 8),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CHANNELS_CHANGE)
def test_channels_that_are_moved_or_joined(case, method):
    """The class that is left of the channels grows, and its consumer follows."""
    build, growing = CHANNELS_CHANGE[case]
    assert widened(build(), method) == {growing: method}


SPACE = {
    "pooled": lambda x: F.avg_pool1d(x, 2),
    "pooled by maxima": lambda x: F.max_pool1d(x, 2),
    "interpolated": lambda x: F.interpolate(x, size=6, mode="linear"),
    "reflected": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "convolved in steps": nn.Conv1d(5, 5, 3, padding=1, stride=2),
    "convolved to fewer": nn.Conv1d(5, 5, 3),
    "cut into windows": lambda x: x.unfold(2, 2, 2).mean(3),
}


@pytest.mark.parametrize("case", SPACE)
def test_space_never_grows(case):
    """A class made the last dimension, which the op takes for space, is left alone."""
    torch.manual_seed(0)
    op = SPACE[case] if isinstance(SPACE[case], nn.Module) else Call(SPACE[case])
    after = op(torch.zeros(2, 5, 6)).shape[-1]
    model = nn.Sequential(nn.Linear(3, 6), op, nn.Linear(after, 2))
    with pytest.raises(SelectionError, match="it is spatial|cut into windows"):
        grow(model, torch.randn(2, 5, 3), Widen(factor=2, seed=0))


def test_a_grid_that_is_computed_keeps_its_size():
    """The last dimension of a sampling grid is made of coordinates: the localisation layer must not grow it."""
    class Warp(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.theta = nn.Linear(48, 5), nn.Linear(5, 6)
            self.head = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            theta = self.theta(F.relu(self.hidden(x.flatten(1)))).view(-1, 2, 3)
            return self.head(F.grid_sample(x, F.affine_grid(theta, [2, 3, 4, 4], align_corners=False), align_corners=False))

    torch.manual_seed(0)
    for method in METHODS:
        assert widened((Warp(), torch.randn(2, 3, 4, 4)), method) == {5: method}


# --- random feature pyramids -----------------------------------------------------------------------------------------

STEPS = {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "nearest": nn.Upsample(scale_factor=2),
         "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"), "pad": nn.ReflectionPad2d(1), "relu": nn.ReLU(),
         "zeros": nn.ConstantPad2d((1, 0, 0, 1), -0.5), "norms": nn.LPPool2d(2, 2, ceil_mode=True), "tanh": nn.Tanh()}
CHANGES = {"shuffle": (nn.PixelShuffle(2), 0.25), "unshuffle": (nn.PixelUnshuffle(2), 4), "mixed": (nn.ChannelShuffle(2), 1),
           "convolve": (None, 1), "grouped": (None, 1)}


class Pyramid(nn.Module):
    """Random spatial ops in a row; the end is averaged."""

    def __init__(self, names: list[str]):
        super().__init__()
        self.names, width, space = [], 8, 4
        self.layers = nn.ModuleList([nn.Conv2d(3, width, 1)])
        for name in names:
            op, scale = CHANGES.get(name, (STEPS.get(name), 1))
            if name in ("convolve", "grouped"):
                op = nn.Conv2d(width, width, 1, groups=2 if name == "grouped" else 1)
            fits = self._fits(name, width, space) and not (name == "mixed" and "mixed" in self.names)
            after = op(torch.zeros(1, width, space, space)) if fits else None
            if after is not None and after.shape[2] == after.shape[3]:
                self.layers.append(op)
                self.names.append(name)
                width, space = after.shape[1:3]
        self.head = nn.Linear(width, 2)

    @staticmethod
    def _fits(name, width, space):
        if name == "shuffle":
            return width >= 8 and space <= 8
        if name == "mixed" and width < 4:
            return False
        if name in ("unshuffle", "max", "average", "norms"):
            return space % 2 == 0 and space >= 2 and width <= 32
        return space <= 8 and (name != "pad" or space > 1)

    def __repr__(self):
        return f"Pyramid({self.names})"

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


@proves(50)
@given(st.lists(st.sampled_from(sorted({**STEPS, **CHANGES})), min_size=1, max_size=6), st.sampled_from(METHODS),
       st.sampled_from([2, 1.5]))
def test_random_pyramids(names, method, factor):
    """Whatever is done to space, channels grow exactly."""
    torch.manual_seed(0)
    model = Pyramid(names)
    grown = grow(model, torch.randn(2, 3, 4, 4), Widen(factor=factor, method=method, seed=0))
    assert size(grown.model) > size(model)
