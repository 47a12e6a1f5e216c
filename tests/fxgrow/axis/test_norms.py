"""Norms that are written out as several ops grow like torch's own."""
import pytest
import torch
from support import shake
from torch import nn

import fxgrow
from fxgrow.passes import Widen


class Rms(nn.Module):
    def __init__(self, width, form):
        super().__init__()
        self.weight, self.form = nn.Parameter(torch.ones(width)), form

    def forward(self, x):
        if self.form == "pow":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1))
        if self.form == "product":
            return x * ((x * x).mean(-1, keepdim=True) + 0.1).rsqrt() * self.weight
        if self.form == "square":
            return x.mul(torch.rsqrt(0.1 + x.square().mean(-1, keepdim=True))) * self.weight
        if self.form == "used twice":
            mean = x.pow(2).mean(-1, keepdim=True)
            return x * torch.rsqrt(mean + 0.1) * self.weight + mean
        if self.form == "squared":
            unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)
            return unit * unit * self.weight
        return x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 0.1) * self.weight


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.first, self.norm, self.inner, self.last = nn.Linear(5, 6), Rms(6, form), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.inner(self.norm(x)))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("form", ["pow", "product", "square", "another power", "squared"])
@pytest.mark.parametrize("to", [7, 9, 12])
def test_an_rms_norm_that_is_written_out_grows_to_any_size(form, to):
    torch.manual_seed(0)
    model, x = shake(Net(form)).double(), torch.randn(4, 5, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("first", to=to, seed=0))
    assert grown.model.get_parameter("first.weight").shape[0] == to
    checked = fxgrow.verify(model, grown.model, x)
    assert checked.max_rel_error <= 1e-9 and checked.exact_in == ("eval", "train")


@pytest.mark.parametrize("form", ["used twice"])
def test_what_only_looks_like_one_is_left_alone(form):
    torch.manual_seed(0)
    model, x = shake(Net(form)).double(), torch.randn(4, 5, dtype=torch.float64)
    with pytest.raises(fxgrow.SelectionError, match="integer factor"):
        fxgrow.transform(model, x, Widen("first", to=9, seed=0))
    assert fxgrow.verify(model, fxgrow.transform(model, x, Widen("first", factor=2, seed=0)).model, x).max_rel_error <= 1e-9
