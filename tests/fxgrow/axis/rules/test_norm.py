"""Rules of normalisations: which contents pass each of them, and what is said where none does."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from older import instance_norm_with_statistics
from proving import proves
from support import grow
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]


class Call(nn.Module):
    """A function of x and of free parameters of the given sizes."""

    def __init__(self, function, *sizes: int):
        super().__init__()
        self.function, self.free = function, nn.ParameterList(torch.rand(n) + 0.5 for n in sizes)

    def forward(self, x):
        return self.function(x, *self.free)


class Residual(nn.Module):
    """`x + branch(norm(x))`."""

    def __init__(self, norm: nn.Module, *branch: nn.Module):
        super().__init__()
        self.norm, self.branch = norm, nn.Sequential(*branch)

    def forward(self, x):
        return x + self.branch(self.norm(x))


class WritesTokens(nn.Module):
    """In place, through a view; the whole is read again."""

    def forward(self, x):
        x.narrow(1, 0, 2).relu_()
        return x


class WritesAPart(nn.Module):
    def forward(self, x):
        first, _ = x.split([1, 4], 1)
        first.relu_()
        return x


def tokens(*inner: nn.Module, width: int = 6, after: int | None = None):
    """Layers of a stream `[2, 5, width]`."""
    return nn.Sequential(nn.Linear(3, width), *inner, nn.Linear(after or width, 2)), torch.randn(2, 5, 3)


def rows(*inner: nn.Module):
    return nn.Sequential(nn.Linear(3, 6), *inner, nn.Linear(6, 2)), torch.randn(5, 3)


def image(*inner: nn.Module):
    return nn.Sequential(nn.Conv2d(3, 6, 1), *inner, nn.Conv2d(6, 2, 1)), torch.randn(2, 3, 4, 4)


def volume(*inner: nn.Module):
    return nn.Sequential(nn.Conv3d(3, 6, 1), *inner, nn.Conv3d(6, 2, 1)), torch.randn(2, 3, 2, 2, 2)


def sound(*inner: nn.Module):
    return nn.Sequential(nn.Conv1d(3, 6, 1), *inner, nn.Conv1d(6, 2, 1)), torch.randn(2, 3, 4)


def channels_last(x, w, b):
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), w, b).permute(0, 3, 1, 2)


def by_hand(x, w):
    return w * (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt()


def widened(case, method: str, factor: float = 2) -> dict[int, str]:
    """The sizes of the classes that grew and by which method."""
    torch.manual_seed(0)
    model, x = case()
    grown = grow(model, x, Widen(factor=factor, method=method, seed=0))
    return {o.before: o.method for o in grown.outcomes if o.method}


PER_CHANNEL = {
    "BatchNorm1d of rows": lambda: rows(nn.BatchNorm1d(6), nn.ReLU()),
    "BatchNorm1d of sequences": lambda: sound(nn.BatchNorm1d(6)),
    "BatchNorm2d": lambda: image(nn.BatchNorm2d(6), nn.ReLU()),
    "BatchNorm3d": lambda: volume(nn.BatchNorm3d(6)),
    "BatchNorm2d, not affine": lambda: image(nn.BatchNorm2d(6, affine=False)),
    "BatchNorm2d without statistics": lambda: image(nn.BatchNorm2d(6, track_running_stats=False)),
    "InstanceNorm2d": lambda: image(nn.InstanceNorm2d(6)),
    "InstanceNorm2d, affine": lambda: image(nn.InstanceNorm2d(6, affine=True)),
    "InstanceNorm2d with statistics": lambda: image(instance_norm_with_statistics(6)),
    "InstanceNorm1d": lambda: sound(nn.InstanceNorm1d(6, affine=True)),
    "F.batch_norm": lambda: image(Call(lambda x, m, v, w, b: F.batch_norm(x, m, v.abs(), w, b), 6, 6, 6, 6)),
    "F.instance_norm": lambda: image(Call(lambda x, w: F.instance_norm(x, weight=w), 6)),
    "LayerNorm of places": lambda: sound(nn.LayerNorm(4)),
    "GroupNorm of one channel each": lambda: image(nn.GroupNorm(6, 6)),
    "a norm behind a product": lambda: image(Call(lambda x, w: x * w[:, None, None], 6), nn.BatchNorm2d(6)),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", PER_CHANNEL)
def test_channels_normalised_alone(case, method):
    """Each channel has statistics of its own: every method is exact, in train mode too."""
    assert widened(PER_CHANNEL[case], method) == {6: method}


BY_GROUP = {"GroupNorm": (lambda: image(nn.GroupNorm(2, 6)), 2), "GroupNorm of rows": (lambda: rows(nn.GroupNorm(2, 6)), 2),
            "GroupNorm, not affine": (lambda: image(nn.GroupNorm(3, 6, affine=False)), 3),
            "F.group_norm": (lambda: image(Call(lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3), 6, 6)), 2)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", BY_GROUP)
def test_whole_groups_are_added(case, method):
    """The width of a group is kept, so that its statistics are."""
    build, groups = BY_GROUP[case]
    assert widened(build, method) == {groups: method}


AVERAGED = {
    "LayerNorm": lambda: tokens(nn.LayerNorm(6)),
    "LayerNorm without a bias": lambda: tokens(nn.LayerNorm(6, bias=False)),
    "a residual stream": lambda: tokens(Residual(nn.LayerNorm(6), nn.Linear(6, 6)), nn.LayerNorm(6)),
    "a layer scale": lambda: tokens(Residual(nn.LayerNorm(6), nn.Linear(6, 6), Call(torch.mul, 6)), nn.LayerNorm(6)),
    "F.layer_norm": lambda: tokens(Call(lambda x, w, b: F.layer_norm(x, (6,), w, b), 6, 6)),
    "F.layer_norm of the last size": lambda: tokens(Call(lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-3), 6, 6)),
    "a norm of channels in an image": lambda: image(Call(channels_last, 6, 6)),
    "a sum of two before the norm": lambda: tokens(Residual(nn.Identity(), nn.Linear(6, 6)), nn.LayerNorm(6)),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", AVERAGED)
def test_a_layer_norm_of_linear_producers(case, method):
    """Averages keep the mean and rescale the variance: they stand in for pairs and free contents; copies are exact too."""
    assert widened(AVERAGED[case], method) == {6: "net2net" if method == "net2net" else "average"}


ZEROED = {
    "RMSNorm": lambda: tokens(nn.RMSNorm(6)),
    "a residual stream": lambda: tokens(Residual(nn.RMSNorm(6, eps=1e-6), nn.Linear(6, 6)), nn.RMSNorm(6, eps=1e-6)),
    "F.rms_norm": lambda: tokens(Call(lambda x, w: F.rms_norm(x, (6,), w, 1e-3), 6)),
    "an activation with f(0) = 0 before": lambda: tokens(nn.GELU(), nn.RMSNorm(6)),
    "an odd function before": lambda: tokens(nn.Tanh(), nn.RMSNorm(6)),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ZEROED)
def test_a_root_mean_square_norm_of_what_keeps_zero(case, method):
    """Zeros keep the sum of squares; the weight and eps are rescaled."""
    assert widened(ZEROED[case], method) == {6: "net2net" if method == "net2net" else "zero"}


@pytest.mark.parametrize("factor", [1.5, 7 / 6])
def test_averages_take_any_size_and_copies_whole_multiples(factor):
    assert widened(AVERAGED["LayerNorm"], "r2r", factor) == {6: "average"}
    assert widened(AVERAGED["a residual stream"], "net2net", factor) == {6: "average"}


COPIED = {
    "a view, written in place": lambda: tokens(WritesTokens(), nn.LayerNorm(6)),
    "a view of several, written in place": lambda: tokens(WritesAPart(), nn.LayerNorm(6)),
    "a norm of rows, over the class": lambda: (nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(5, 5), nn.Linear(6, 2)),
                                               torch.randn(2, 5, 3)),
    "LayerNorm, not affine": lambda: tokens(nn.LayerNorm(6, elementwise_affine=False)),
    "an activation before the norm": lambda: tokens(nn.ReLU(), nn.LayerNorm(6)),
    "a norm over two dimensions": lambda: tokens(nn.LayerNorm((5, 6))),
    "a norm over channels and places": lambda: sound(nn.LayerNorm((6, 4))),
    "a sigmoid before a root mean square": lambda: tokens(nn.Sigmoid(), nn.RMSNorm(6)),
    "one group": lambda: image(nn.GroupNorm(1, 6)),
    "a depthwise convolution before": lambda: image(nn.Conv2d(6, 6, 3, groups=6, padding=1), Call(channels_last, 6, 6)),
    "a norm whose output feeds the stream": lambda: tokens(nn.LayerNorm(6), Residual(nn.LayerNorm(6), nn.Linear(6, 6))),
    "a layer norm by hand": lambda: tokens(Call(by_hand, 6)),
    "a root mean square by hand": lambda: tokens(Call(lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt())),
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", COPIED)
def test_where_only_copies_of_everything_keep_the_statistics(case, method):
    """Whole multiples by copies; anything else is refused with the multiple to try."""
    assert widened(COPIED[case], method) == {6: "net2net"}
    with pytest.raises(SelectionError, match="integer factor"):
        widened(COPIED[case], method, factor=1.5)


REFUSED = {
    "batch statistics over the class": (lambda: (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(5), nn.Linear(6, 2)),
                                                 torch.randn(2, 5, 3)), "batch statistics are taken over it"),
    "neighbouring channels": (lambda: image(nn.LocalResponseNorm(2)), "it is spatial"),
    "unit vectors of another norm": (lambda: tokens(Call(lambda x: F.normalize(x, p=-1, dim=-1))),
                                     "norm of no positive order"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case, method):
    build, reason = REFUSED[case]
    with pytest.raises(SelectionError, match=reason):
        widened(build, method)


def _weight_norms():
    layers = (weight_norm(nn.Conv1d(6, 6, 3, padding=1)), nn.ReLU(), weight_norm(nn.Conv1d(6, 6, 1)))
    return sound(Residual(nn.LeakyReLU(), *layers), weight_norm(nn.Conv1d(6, 6, 1)), nn.Tanh())


@pytest.mark.parametrize("method, factor, used", [("r2r", 2, "r2r"), ("net2net", 2, "net2net"), ("net2net", 1.5, "netmorph"),
                                                  ("netmorph", 2, "netmorph")])
def test_a_normalised_weight_takes_zeros_or_shares(method, factor, used):
    """New columns of zeros keep the norm of each row; for shares, equally many of each, the gain makes up."""
    torch.manual_seed(0)
    model, x = _weight_norms()
    grown = grow(model, x, Widen(factor=factor, method=method, seed=0))
    assert [o.method for o in grown.outcomes if o.name == "0"] == [used]


@pytest.mark.parametrize("groups, method", [(1, "net2net-unequal"), (2, "net2net")])
def test_a_norm_over_both_channel_axes_of_a_weight_keeps_copies(groups, method):
    """Rows that are copied make it larger, columns that are shared out smaller: positional convolutions of wav2vec 2.0."""
    torch.manual_seed(0)
    model = sound(Residual(weight_norm(nn.Conv1d(6, 6, 3, padding=1, groups=groups), dim=2), nn.GELU()), nn.GroupNorm(1, 6))
    grown = grow(*model, Widen(factor=2, method=method, seed=0))
    assert next(o for o in grown.outcomes if o.method).method == method
    assert grown.model.get_submodule("0").out_channels == 12


class Unit(nn.Module):
    """Makes rows, or columns, of a weight unit vectors (nViT)."""

    def __init__(self, dim: int, eps: float = 1e-12):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, w):
        return F.normalize(w, dim=self.dim, eps=self.eps)


def _on_the_sphere(eps: float):
    def unit(n, m, dim):
        return nn.utils.parametrize.register_parametrization(nn.Linear(n, m, bias=False), "weight", Unit(dim, eps))

    class Sphere(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.up, self.down, self.out = unit(3, 6, 0), unit(6, 8, 1), unit(8, 6, 0), unit(6, 2, 1)
            self.mix = nn.Parameter(torch.rand(6))

        def forward(self, x):
            x = F.normalize(self.read(x), dim=-1)
            return self.out(F.normalize(x.lerp(F.normalize(self.down(F.silu(self.up(x))), dim=-1), self.mix), dim=-1))

    return Sphere(), torch.randn(2, 5, 3)


@pytest.mark.parametrize("method", ["r2r", "net2net-unequal"])
def test_a_stream_and_weights_of_unit_vectors_grow(method):
    torch.manual_seed(0)
    grown = grow(*_on_the_sphere(1e-12), Widen(factor=2, method=method, seed=0))
    found = {o.name: o.method for o in grown.outcomes if o.method}
    assert found["read"].startswith("net2net") and found["up"] == "r2r"


class Classes(nn.Module):
    """Compares unit vectors with unit rows of a table (cosine classifiers, two towers): copies on both sides keep them."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.table = nn.Linear(3, 6), nn.Linear(6, 4), nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return F.linear(F.normalize(self.last(F.relu(self.first(x))), eps=1e-6), F.normalize(self.table, dim=-1, eps=1e-6))


def test_unit_vectors_are_compared():
    torch.manual_seed(0)
    model, x = Classes().double(), torch.randn(4, 3, dtype=torch.float64)
    grown = grow(model, x, Widen(factor=2, seed=0))
    assert {o.name: o.method for o in grown.outcomes if o.method} == {"first": "r2r", "last": "net2net"}
    with torch.no_grad():  # what is shorter than the least length
        for parameter in (model.last.weight, grown.model.last.weight, model.last.bias, grown.model.last.bias):
            parameter *= 1e-8
    assert torch.allclose(grown.model(x), model(x), rtol=1e-12, atol=0)


def test_a_least_length_that_counts_is_no_norm():
    with pytest.raises(SelectionError, match="down sums products over it"):
        fxgrow.transform(*_on_the_sphere(1.0), Widen("up", factor=2, seed=0))


def test_zero_rows_have_no_direction():
    """Behind a weight norm no new row may be zero: a root mean square norm is left with copies, which new columns forbid."""
    torch.manual_seed(0)
    model, x = tokens(weight_norm(nn.Linear(6, 6)), nn.RMSNorm(6))
    grown = grow(model, x, Widen(factor=2, method="net2net", seed=0))
    assert {o.method for o in grown.outcomes if o.method} <= {"net2net", "netmorph"}


@pytest.mark.parametrize("norm", [spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("where", [0, 2])
def test_beside_a_spectral_norm_nothing_grows(where, training, norm):
    """Its power iteration in train mode takes the norm over all rows and columns; what is elsewhere grows, in both modes."""
    torch.manual_seed(0)
    hidden = (layer for sizes in ((3, 6), (6, 4), (4, 5)) for layer in (nn.Linear(*sizes), nn.ReLU()))
    model = nn.Sequential(*hidden, nn.Linear(5, 2))
    norm(model[where])
    model.train(training)
    grown = grow(model, torch.randn(5, 3), Widen(factor=2, method="r2r", seed=0))
    assert grown.model.get_submodule("0").out_features == 6 and grown.model.get_submodule("4").out_features > 5
    assert any("_u is written in place" in o.reason for o in grown.outcomes)


# --- random streams --------------------------------------------------------------------------------------------------

PARTS = {
    "layer": lambda: nn.LayerNorm(6), "plain layer": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "relu": nn.ReLU, "linear": lambda: nn.Linear(6, 6), "scale": lambda: Call(lambda x, g: x * g, 6),
    "block": lambda: Residual(nn.LayerNorm(6), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 6)),
    "skip": lambda: Residual(nn.Identity(), nn.Linear(6, 6), nn.Tanh()), "gate": lambda: Call(lambda x: x * x.sigmoid()),
    "rms": lambda: Call(lambda x, w: x * w * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt(), 6),
    "batch": lambda: Call(lambda x, m, v: F.batch_norm(x.flatten(0, 1), m, v.abs()).view(x.shape), 6, 6),
}


@proves(60)
@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5), st.sampled_from(METHODS), st.sampled_from([2, 3]))
def test_random_streams(names, method, factor):
    """Any stream of blocks and norms grows by a whole factor, exactly: where nothing else is, copies are."""
    torch.manual_seed(0)
    model, x = tokens(*(PARTS[n]() for n in names))
    grown = grow(model, x, Widen(factor=factor, method=method, seed=0))
    assert grown.model.get_submodule("0").out_features >= 6 * factor


@proves(30)
@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=4), st.sampled_from(METHODS),
       st.sampled_from([1.5, 2.5]))
def test_random_streams_by_any_factor(names, method, factor):
    """What grows by a fraction is exact too; what cannot says that a whole factor could."""
    torch.manual_seed(0)
    model, x = tokens(*(PARTS[n]() for n in names))
    try:
        grow(model, x, Widen(factor=factor, method=method, seed=0))
    except SelectionError as why:
        assert "integer factor" in str(why) or "normalises over it" in str(why)
