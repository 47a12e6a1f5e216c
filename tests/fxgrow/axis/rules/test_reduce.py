"""Rules of reductions and of ops that mix one dimension: over the class itself, and beside it."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import grow
from torch import nn

from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]


class Between(nn.Module):
    """first -> function -> last: on sequences `[2, 5, C]`, or with `space` on `[2, C, 5]`."""

    def __init__(self, function, space: bool = False, width: int = 6):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = (nn.Conv1d(3, width, 1), nn.Conv1d(width, 2, 1)) if space else \
            (nn.Linear(3, width), nn.Linear(width, 2))
        self.function = function
        self.example = torch.randn(2, 3, 5) if space else torch.randn(2, 5, 3)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def widened(model: Between, method: str, factor: float = 2) -> set[str]:
    """The methods that were used; all equal where the one asked for is exact."""
    grown = grow(model, model.example, Widen(factor=factor, method=method, seed=0))
    return {o.method for o in grown.outcomes if o.method}


BESIDE = {
    "sum": lambda x: x * x.sum(1, keepdim=True),
    "sum, dimension gone": lambda x: x + x.sum(1)[:, None],
    "sum of the batch": lambda x: x + x.sum(0),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "mean of all but the class": lambda x: x - x.mean((0, 1)),
    "amax": lambda x: x * x.amax(1, keepdim=True),
    "amin of two": lambda x: x - x.amin((0, 1), keepdim=True),
    "max": lambda x: x * x.max(1, keepdim=True).values,
    "min": lambda x: x * x.min(1, keepdim=True)[0],
    "var": lambda x: x / x.var(1, keepdim=True),
    "std": lambda x: x / x.std(1, keepdim=True, unbiased=False),
    "var_mean": lambda x: (x - torch.var_mean(x, 1, keepdim=True)[1]) / torch.var_mean(x, 1, keepdim=True)[0],
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "norm of order one": lambda x: x / torch.linalg.vector_norm(x, 1, 1, keepdim=True),
    "least norm": lambda x: x * torch.linalg.vector_norm(x, -float("inf"), 1, keepdim=True),
    "softmax": lambda x: x * x.softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "softmin": lambda x: F.softmin(x, 1),
    "logsumexp": lambda x: x - x.logsumexp(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "sort": lambda x: x.sort(1, descending=True).values,
    "topk": lambda x: x.topk(3, 1)[0],
    "argmax": lambda x: x * x.argmax(1, keepdim=True).double(),
    "diff": lambda x: x.diff(dim=1),
    "roll": lambda x: x.roll(2, 1) + x.flip(1),
    "prod": lambda x: x * x.prod(1, keepdim=True),
    "median": lambda x: x - x.median(1, keepdim=True)[0],
    "kthvalue": lambda x: x - x.kthvalue(2, 1, keepdim=True)[0],
    "mode": lambda x: x + x.round().mode(1, keepdim=True)[0],
    "any": lambda x: x * (x > 0).any(1, keepdim=True),
    "norm of order three": lambda x: x / x.norm(3, 1, keepdim=True),
    "place of the largest": lambda x: x * x.max(1, keepdim=True)[1].double(),
    "cummax": lambda x: x.cummax(1)[0],
    "renorm": lambda x: x.renorm(2, 2, 0.5),
    "a filter of frequencies": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1) * 2, n=5, dim=1),
    "quantile": lambda x: x - x.quantile(0.5, 1, keepdim=True),
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", BESIDE)
def test_beside_the_class_every_method_is_exact(case, method):
    """A reduction over another dimension acts on each position of the class alone."""
    assert widened(Between(BESIDE[case]), method) == {method}


OVER = {
    "mean": lambda x: x - x.mean(-1, keepdim=True),
    "mean of all": lambda x: x - x.mean(),
    "mean, dimension gone": lambda x: x * x.mean(-1)[..., None],
    "amax": lambda x: x - x.amax(-1, keepdim=True),
    "max": lambda x: x - x.max(-1, keepdim=True).values,
    "max of all": lambda x: x / x.max(),
    "min": lambda x: x - x.min(-1, keepdim=True)[0],
    "variance of the population": lambda x: x * x.var(-1, keepdim=True, unbiased=False),
    "any": lambda x: x * (x > 0).any(-1, keepdim=True).double(),
    "least absolute value": lambda x: x / x.norm(-float("inf"), -1, keepdim=True),
    "deviation of the population": lambda x: x / x.std((1, 2), keepdim=True, correction=0),
    "mean of squared differences": lambda x: x * F.mse_loss(x, x.tanh()),
    "mean of entropies": lambda x: x * F.binary_cross_entropy(x.sigmoid(), x.tanh().square(), weight=x.square()),
    "mean of entropies of logits": lambda x: x * F.binary_cross_entropy_with_logits(x, x.tanh().square()),
    "losses of each": lambda x: x * F.huber_loss(x, x.tanh(), reduction="none").mean(-1, keepdim=True),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", OVER)
def test_over_the_class_copies_are_exact(case, method):
    """Means and maxima stay what they are when every position is copied equally often; no other contents keep them."""
    assert widened(Between(OVER[case]), method) == {"net2net"}


def test_unequal_copies_keep_maxima_but_no_means():
    """Half as many positions again: a mean would count some twice, a maximum does not mind."""
    assert widened(Between(OVER["amax"]), "net2net", factor=1.5) == {"net2net"}
    with pytest.raises(SelectionError, match="only an integer factor is exact"):
        widened(Between(OVER["mean"]), "net2net", factor=1.5)


SCALED = {
    "sum": lambda x: x * x.sum(-1, keepdim=True),
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "norm of order one": lambda x: x / x.norm(1, -1, keepdim=True),
    "distances": lambda x: torch.cdist(x, x.tanh()) @ x,
    "distances of order one": lambda x: torch.cdist(x, x[:, :2].sin(), 1).sum(-1, keepdim=True) * x,
    "sum of squared differences": lambda x: x * F.mse_loss(x, x.tanh(), reduction="sum"),
    "number of positive ones": lambda x: x * (x > 0).sum(-1, keepdim=True).double(),
    "sample variance": lambda x: x * x.var(-1, keepdim=True),
    "sample deviation": lambda x: x / x.std(-1, keepdim=True),
    "sample variance and mean": lambda x: x / torch.var_mean(x, -1, keepdim=True)[0],
    "a difference, a sum of squares": lambda x: (x - x.mean(-1, keepdim=True)) / (x * x).sum(-1, keepdim=True),
    "an eps": lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.3),
    "a least value": lambda x: x / x.square().sum(-1, keepdim=True).clamp_min(0.3).sqrt(),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", SCALED)
def test_a_factor_on_what_is_taken_over_the_class_is_taken_back_by_the_next_weight(case, method):
    """The number of positions is felt, and undone: sums of copies are twice what they were."""
    assert widened(Between(SCALED[case]), method) <= {"average", "zero", "net2net"}


ENDS = {
    "nothing else": lambda x: x + x.std(-1, keepdim=True),
    "a function that minds": lambda x: x * x.var(-1, keepdim=True).sin(),
    "two scales": lambda x: x * (x.var(-1, keepdim=True) + x.std(-1, keepdim=True)),
    "an eps that is computed": lambda x: x / (x.std(-1, keepdim=True) + x.new_full((), 0.3)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ENDS)
def test_a_factor_that_nothing_takes_back_is_refused(case, method):
    with pytest.raises(SelectionError, match="takes the|changes a value|no weight can take"):
        widened(Between(ENDS[case]), method)


NEVER = {
    "softmax": (lambda x: x.softmax(-1), "softmax runs over it"),
    "logsumexp": (lambda x: x - x.logsumexp(-1, keepdim=True), "takes the logsumexp over it"),
    "cumsum": (lambda x: x.cumsum(-1), "cumsum runs over it"),
    "sort": (lambda x: x.sort(-1)[0], "sort runs over it"),
    "topk": (lambda x: x.topk(6, -1)[0], "topk runs over it"),
    "argmax": (lambda x: x * x.argmax(-1, keepdim=True).double(), "takes the argmax over it"),
    "flip": (lambda x: x.flip(-1), "flip runs over it"),
    "roll": (lambda x: x.roll(1, -1), "roll runs over it"),
    "product": (lambda x: x * x.prod(-1, keepdim=True), "takes the product over it"),
    "median": (lambda x: x - x.median(-1, keepdim=True)[0], "takes the median over it"),
    "place of the largest": (lambda x: x * x.max(-1, keepdim=True)[1].double(), "a result of max .a place. is used"),
    "norm of order minus one": (lambda x: x / x.norm(-1, -1, keepdim=True), "takes the norm of no positive order over it"),
    "frequencies": (lambda x: torch.fft.fft(x, dim=-1).real, "fft_r2c runs over it"),
    "triangle": (lambda x: x.tril(), "tril runs over it"),
    "distances of no order": (lambda x: torch.cdist(x, x, 0) @ x, "takes the norm of no positive order over it"),
    "largest distance": (lambda x: torch.cdist(x, x.tanh(), float("inf")) @ x, "equal largest differences"),
    "a loss that has no zero": (lambda x: x * F.soft_margin_loss(x, x.sign(), reduction="sum"), "takes the sum over it"),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", NEVER)
def test_what_nothing_keeps_is_left_alone(case, method):
    """The reason names the op."""
    function, reason = NEVER[case]
    with pytest.raises(SelectionError, match=reason):
        widened(Between(function), method)


ALL = {"argmax": lambda x: x * x.argmax().double(), "roll": lambda x: x.roll(1), "renorm": lambda x: x.renorm(2, 0, 0.1),
       "renorm of places": lambda x: x.renorm(2, 2, 0.1), "median": lambda x: x - x.median()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ALL)
def test_what_runs_over_every_dimension_is_refused(case, method):
    """Without a dimension the flattened tensor is meant; a renorm names the one that is left out."""
    with pytest.raises(SelectionError, match=case.split()[0]):
        widened(Between(ALL[case], space=True), method)


# --- random compositions ---------------------------------------------------------------------------------------------

STEPS = {**BESIDE, **{f"{name} over it": f for name, f in OVER.items()}, "relu": F.relu, "tanh": torch.tanh}
STEPS = {name: f for name, f in STEPS.items() if name not in ("topk", "diff", "mode")}  # they change the sequence


@proves(50)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=4), st.sampled_from(METHODS))
def test_chains_of_reductions(names, method):
    """Copies pass all of them; another method is used only where none is taken over the class."""
    def function(x):
        for name in names:
            x = torch.tanh(STEPS[name](x)) + x
        return x

    used = widened(Between(function), method)
    over = any(name.endswith("over it") for name in names)
    assert used == ({"net2net"} if over else {method})
