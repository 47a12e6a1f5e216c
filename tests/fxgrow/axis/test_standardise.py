"""Weights whose rows are standardised before they are used, by torch's norms or by hand, grow like plain ones."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import grow, shake
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fxgrow.errors import SelectionError
from fxgrow.passes import Widen
from fxgrow.passes.into import grow_into

ROW = (1, 2, 3)
METHODS = ["r2r", "net2net", "netmorph"]


def batch_norm(w, gain):
    return F.batch_norm(w.reshape(1, w.shape[0], -1), None, None, gain.view(-1), training=True, eps=0.1).reshape_as(w)


def batch_norm_alone(w, gain):
    return F.batch_norm(w.reshape(1, w.shape[0], -1), None, None, training=True, eps=0.1).reshape_as(w)


def layer_norm(w, gain):
    return F.layer_norm(w, w.shape[1:], eps=0.1) * (2 * gain)


def mean_of_means(w, gain):
    w = w - w.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
    return w / (w.view(w.size(0), -1).std(1).view(-1, 1, 1, 1) + 0.1).expand_as(w)


def mean_and_variance(w, gain):
    variance, mean = torch.var_mean(w, ROW, keepdim=True, unbiased=False)
    return gain * (w - mean) / torch.sqrt(variance + 0.1)


def scale_and_shift(w, gain):
    mean, variance = w.mean(ROW, keepdim=True), w.var(ROW, keepdim=True, unbiased=False)
    scale = torch.rsqrt(torch.clamp(variance * w.shape[1:].numel(), min=0.1)) * gain
    return w * scale - mean * scale


def flat(w, gain):
    deviation, mean = torch.std_mean(w.flatten(1), 1, keepdim=True)
    return ((w.flatten(1) - mean) / (deviation + 0.1)).view_as(w)


def by_column(w, gain):
    return w - w.mean((1, 2), keepdim=True)


class Standardised(nn.Conv2d):
    """A convolution with standardised rows."""

    def __init__(self, form, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.form, self.gain = form, nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        return self._conv_forward(x, self.form(self.weight, self.gain), self.bias)


def image(form):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Standardised(form, 6, 8, 3), nn.GELU(),
                         Standardised(form, 8, 6, 1), nn.SiLU(), nn.Conv2d(6, 2, 1)), torch.randn(2, 3, 7, 7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [batch_norm, layer_norm])
def test_a_gain_takes_the_factor_that_new_columns_leave(form, method):
    grown = grow(*image(form), Widen(factor=2, method=method, seed=0))
    assert grown.model.get_parameter("2.weight").shape == (16, 12, 3, 3)
    assert [o.method for o in grown.outcomes if o.method] == [method] * 3
    factor = {"r2r": 1, "net2net": 0.5, "netmorph": 0.5 ** 0.5}[method]
    assert grown.record.parameters["2.gain"].scale == pytest.approx(factor)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [batch_norm_alone, mean_of_means, mean_and_variance, scale_and_shift, flat,
                                  by_column])
def test_pairs_keep_the_statistics_of_each_row(form, method):
    """There is no gain that could take a factor, or it is not found: pairs need none."""
    grown = grow(*image(form), Widen(factor=2, method=method, seed=0))
    assert [o.before for o in grown.outcomes if "equal pairs" in o.certificate][:2] == [6, 8]
    assert grown.model.get_parameter("4.weight").shape == (12, 16, 1, 1)


def test_columns_are_spread_as_their_row_is():
    model, x = image(batch_norm_alone)
    grown = grow(model, x, Widen("2", factor=2, seed=0))
    old, new = model[4].weight, grown.model.get_parameter("4.weight")
    assert torch.equal(new[:, :8], old)
    torch.testing.assert_close(new.mean((1, 2, 3)), old.mean((1, 2, 3)))
    torch.testing.assert_close(new.var((1, 2, 3), correction=0), old.var((1, 2, 3), correction=0))
    assert len(new[:, 8:].flatten().unique()) == new[:, 8:].numel()


@pytest.mark.parametrize("form", [lambda w, gain: w - 2 * w.mean(ROW, keepdim=True),
                                  lambda w, gain: torch.sub(w, w.mean(ROW, keepdim=True), alpha=3),
                                  lambda w, gain: (w - w.mean(ROW, keepdim=True)) * w.sum(ROW, keepdim=True),
                                  lambda w, gain: w - w.var(ROW, keepdim=True, correction=3)])
def test_what_only_looks_like_it_is_left_alone(form):
    model, x = image(form)
    grown = grow(model, x, Widen(factor=2, seed=0))
    assert grown.model.get_parameter("2.weight").shape[1] == 6
    assert all(o.reason for o in grown.outcomes if o.name == "0")


@pytest.mark.parametrize("norm, method", [(nn.LayerNorm(6), "average"), (nn.RMSNorm(6), "zero")])
def test_behind_a_norm_columns_are_free_and_come_in_pairs(norm, method):
    """A stream of averages or zeros: what is read behind the norm is free, and spread in pairs."""
    class Read(nn.Linear):
        def forward(self, x):
            return F.linear(x, F.layer_norm(self.weight, self.weight.shape[1:]), self.bias)

    for layer in (Read(6, 4), weight_norm(nn.Linear(6, 4))):
        torch.manual_seed(0)
        grown = grow(nn.Sequential(nn.Linear(3, 6), norm, layer, nn.Tanh(), nn.Linear(4, 2)), torch.randn(2, 5, 3),
                     Widen("0", by=3, seed=0))
        outcome = next(o for o in grown.outcomes if o.name == "0")
        assert outcome.method == method and outcome.after == 10 and "rounded up" in outcome.certificate


def test_one_row_statistic_at_a_time():
    """The columns of two classes side by side: each keeps the row, whatever the other does."""
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), Standardised(batch_norm, 9, 3, 3)

        def forward(self, x):
            return self.c(torch.cat([self.a(x).relu(), self.b(x).tanh()], 1))

    torch.manual_seed(0)
    grown = grow(Two(), torch.randn(2, 3, 7, 7), Widen(factor=1.5, seed=0))
    assert grown.model.get_parameter("c.weight").shape == (3, 15, 3, 3)
    with pytest.raises(SelectionError, match="together with other axes"):
        grow(Two(), torch.randn(2, 3, 7, 7), Widen(factor=1.5, method="netmorph", fallback="never", seed=0))


class ScaledNet(nn.Module):
    """NFNets' convolutions, whose gain is multiplied by a number that each size fixes."""

    def __init__(self, width: int):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 2)
        self.gain = nn.Parameter(torch.ones(width))
        self.scale = width ** -0.5

    def forward(self, x):
        x = self.stem(x)
        weight = self.body.weight
        rows = F.batch_norm(weight.view(1, len(weight), -1), None, None, self.gain * self.scale, training=True, eps=0.1)
        x = x + F.conv2d(F.gelu(x), rows.view_as(weight), self.body.bias, padding=1)
        return self.head(F.gelu(x).mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_a_stock_class_with_a_scale_of_its_size(method):
    """Its gains make up for the scale that the class fixes."""
    torch.manual_seed(0)
    small, big = shake(ScaledNet(6)).double(), ScaledNet(12)
    grown = grow_into(small, big, torch.randn(2, 3, 5, 5, dtype=torch.float64), method=method, seed=0)
    assert grown.verification.max_rel_error <= 1e-9
    ratio = grown["gain"][:6] / small.gain
    factor = {"r2r": 2 ** 0.5, "net2net": 0.5 ** 0.5, "netmorph": 1}[method]
    torch.testing.assert_close(ratio, torch.full_like(ratio, factor))


class LowRank(nn.Module):
    """A weight, a low rank that is added to it, and a magnitude of each row of the sum (DoRA)."""

    def __init__(self, inputs, outputs, length):
        super().__init__()
        self.weight, self.magnitude = nn.Linear(inputs, outputs).weight, nn.Parameter(torch.rand(outputs, 1) + 0.5)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.length = length

    def forward(self, x):
        weight = self.weight + self.up @ self.down
        return F.linear(x, self.magnitude * weight / self.length(weight))


LENGTHS = {"norm": lambda w: w.norm(dim=1, keepdim=True), "sum": lambda w: w.abs().sum(1, keepdim=True),
           "root": lambda w: w.square().sum(1, keepdim=True).sqrt()}


@pytest.mark.parametrize("norm", [nn.Identity(), nn.RMSNorm(10)])
@pytest.mark.parametrize("length", LENGTHS)
def test_no_row_is_zero_where_its_length_divides(length, norm):
    """Zeros behind a norm would be 0 / 0; rows that are looked at from both sides hold numbers, and new columns zeros."""
    model = nn.Sequential(LowRank(6, 8, LENGTHS[length]), nn.ReLU(), LowRank(8, 10, LENGTHS[length]), norm, nn.Linear(10, 3))
    grown = grow(model, torch.randn(4, 6), Widen(factor=2, seed=0))
    assert grown.model.get_parameter("0.up").shape == (16, 4) and grown.model.get_parameter("2.down").shape == (4, 16)
    assert not grown.model.get_parameter("2.weight")[:, 8:].any()


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_of_columns_and_of_all_numbers(dim):
    """New rows are zero where they count in the norm of others, and their bias is not; else the gain of new columns is."""
    model = nn.Sequential(weight_norm(nn.Linear(6, 8), dim=dim), nn.ReLU(), weight_norm(nn.Linear(8, 10), dim=dim),
                          nn.Tanh(), nn.Linear(10, 3))
    grown = grow(model, torch.randn(4, 6), Widen(factor=2, seed=0))
    assert [grown.model.get_submodule(name).weight.shape for name in "024"] == [(16, 6), (20, 16), (3, 20)]
    assert grown.model.get_parameter("0.bias")[8:].all()


def test_the_gain_of_a_weight_norm_that_a_hook_computes():
    """It runs alike in both modes; each position of a transposed convolution's input has its length over the outputs."""
    model = nn.Sequential(nn.utils.weight_norm(nn.ConvTranspose1d(6, 8, 4, 2, 1)), nn.LeakyReLU(), nn.Conv1d(8, 3, 3))
    grown = grow(model, torch.randn(2, 6, 5), Widen("0", factor=2, seed=0))
    assert grown.model.get_submodule("0").weight_v.shape == (6, 16, 4)
