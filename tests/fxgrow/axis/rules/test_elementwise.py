"""Rules of pointwise ops: what each table claims of its functions, and networks around each op grown by every method."""
from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import grow, size
from torch import Tensor, nn

from fxgrow.aten import LINEAR, ODD, ZERO_AT_ZERO
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]
DRAWN = torch.Generator().manual_seed(0)


def of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAWN, dtype=torch.float64)


# --- the tables ------------------------------------------------------------------------------------------------------

X, Y = of(40) * 2, of(40) * 2
# Arguments behind the first, for the ops that need some; None: it has no value to check here.
ARGUMENTS = {"hardtanh": (-1.0, 2.0), "clamp": (-1.0, 2.0), "clip": (-1.0, 2.0), "pow": (2.0,), "_prelu_kernel": (of(40),),
             "prelu": (of(1),), "rrelu_with_noise": None, "glu_jvp": None, "softsign": None, "rrelu": None}


def aten(name: str, x: Tensor) -> Tensor | None:
    arguments = ARGUMENTS.get(name, ())
    return None if arguments is None else getattr(torch.ops.aten, name)(x, *arguments)


@pytest.mark.parametrize("name", ODD)
def test_odd_functions_are_odd(name):
    assert torch.equal(aten(name, -X), -aten(name, X))


@pytest.mark.parametrize("name", [n for n in ZERO_AT_ZERO if ARGUMENTS.get(n, ()) is not None])
def test_functions_that_keep_zero(name):
    assert not aten(name, torch.zeros(40, dtype=torch.float64)).any()


UNARY = ("neg", "clone", "_to_copy", "alias", "lift_fresh", "contiguous", "lift", "positive", "real")


@pytest.mark.parametrize("name", UNARY)
def test_linear_functions_are_linear(name):
    assert name in LINEAR
    assert torch.allclose(aten(name, 2 * X + Y), 2 * aten(name, X) + aten(name, Y))


# --- one op between two layers ---------------------------------------------------------------------------------------


class Between(nn.Module):
    """first -> function(x, *parameters of the given shapes) -> last."""

    def __init__(self, function, *shapes: tuple[int, ...], width: int = 6, after: int = 6, space: bool = False):
        super().__init__()
        self.first = nn.Conv1d(3, width, 1) if space else nn.Linear(3, width)
        self.last = nn.Conv1d(after, 2, 1) if space else nn.Linear(after, 2)
        self.function, self.space = function, space
        self.free = nn.ParameterList(torch.rand(s) + 0.5 for s in shapes)

    def input(self):
        return of(2, 3, 5) if self.space else of(2, 5, 3)

    def forward(self, x):
        return self.last(self.function(self.first(x), *self.free))


def methods(grown) -> set[str]:
    return {o.method for o in grown.outcomes if o.method}


FUNCTIONS = [F.relu, F.gelu, F.silu, F.hardswish, F.leaky_relu, F.elu, F.celu, F.selu, F.mish, F.relu6, F.softsign,
             F.hardtanh, F.tanhshrink, F.softplus, F.logsigmoid, F.hardsigmoid, F.sigmoid, F.hardshrink, F.softshrink,
             torch.tanh, torch.erf, torch.sin, torch.cos, torch.exp, torch.abs, torch.square, torch.sign, torch.round,
             torch.floor, torch.atan, torch.asinh, torch.neg, torch.expm1, torch.nan_to_num, torch.erfc]


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_of_one_value(function, method):
    """Act on each position alone: every method is exact."""
    torch.manual_seed(0)
    model = Between(function)
    grown = grow(model, model.input(), Widen(factor=2, method=method, seed=0))
    assert methods(grown) == {method} and grown.model.first.out_features == 12


@pytest.mark.parametrize("function", [torch.frac, torch.sinc])
def test_functions_without_a_rule_are_left_alone(function):
    """Never guessed: the reason names the op."""
    with pytest.raises(SelectionError, match=f"no rule for aten.{function.__name__}"):
        grow(Between(function), of(2, 5, 3), Widen(factor=2, seed=0))


def _in_place(x, p):
    y = x.clone()
    y.mul_(2).add_(p)
    y += 1
    return F.relu_(y)


# function, the free parameters' shapes; `space`: the class is dimension 1 of three
WITH_OTHERS = {
    "a number added": (lambda x: x + 1.5, []),
    "a number minus": (lambda x: 1 - x, []),
    "a bias": (lambda x, p: x + p, [(6,)]),
    "a bias, scaled": (lambda x, p: torch.sub(x, p, alpha=0.5), [(6,)]),
    "a bias at each place": (lambda x, p: x + p, [(5, 6)]),
    "a bias for all": (lambda x, p: p - x, [(5, 1)]),
    "a scale": (lambda x, p: x * p, [(6,)]),
    "a scale and a shift": (lambda x, p, q: torch.addcmul(q, x, p, value=2.0), [(6,), (6,)]),
    "a quotient": (lambda x, p, q: torch.addcdiv(x, p, q, value=0.5), [(6,), (6,)]),
    "divided by a parameter": (lambda x, p: x / p, [(6,)]),
    "divided by a number for all": (lambda x, p: x / p, [(1,)]),
    "divided, rounded": (lambda x, p: torch.div(x, p, rounding_mode="floor"), [(6,)]),
    "a parameter divided by it": (lambda x, p: p / (x * x + 1), [(6,)]),
    "a power": (lambda x: x ** 3, []),
    "a power of each": (lambda x, p: (x * x + 1) ** p, [(6,)]),
    "a power of a number": (lambda x: 2 ** x, []),
    "its inverse": (lambda x: 1 / (x.abs() + 1), []),
    "a gate of its own": (lambda x: x * torch.sigmoid(x), []),
    "a gate of its mean": (lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)), []),
    "maximum": (torch.maximum, [(6,)]),
    "minimum and fmax": (lambda x, p, q: torch.fmax(torch.minimum(x, p), q), [(6,), (5, 6)]),
    "max of two": (torch.max, [(6,)]),
    "where it is positive": (lambda x, p: torch.where(x > 0, x, x * p), [(6,)]),
    "where a number else": (lambda x: torch.where(x > 0, x, 0.5), []),
    "a mask over places": (lambda x, p: x.masked_fill(p > 1, 0.0), [(5, 1)]),
    "masked by another number": (lambda x, p: x.masked_fill(p > 1, -1.0), [(5, 1)]),
    "a mask of its own": (lambda x: x.masked_fill(x < 0, 0.3), []),
    "a mask as a factor": (lambda x, p: (x > p) * x, [(6,)]),
    "clamp below": (lambda x: x.clamp(min=0), []),
    "clamp away from zero": (lambda x: x.clamp(0.2, 1.0), []),
    "clamp by parameters": (lambda x, p: torch.clamp(x, -p, p), [(6,)]),
    "clamp_max": (lambda x: torch.clamp_max(x, 0.5), []),
    "lerp": (lambda x, p: torch.lerp(x, p, 0.3), [(6,)]),
    "lerp by a parameter": (torch.lerp, [(6,), (5, 6)]),
    "to its own type": (lambda x: x.to(x.dtype, copy=True).contiguous().type_as(x), []),
    "in place": (_in_place, [(6,)]),
    "random rectifier in eval mode": (lambda x: F.rrelu(x, training=False), []),
    "no dropout": (lambda x: F.dropout(x, 0.0), []),
    "atan2": (torch.atan2, [(6,)]),
    "remainder": (lambda x, p: torch.remainder(x, p) + torch.fmod(x, p), [(6,)]),
    "threshold": (lambda x: F.threshold(x, 0.1, 2.0), []),
    "ones like it": (lambda x: torch.ones_like(x) * x + torch.zeros_like(x), []),
    "a slope for all": (lambda x, p: F.prelu(x, p), [(1,)]),
    "a comparison": (lambda x, p: x * ((x >= p) & (x != 0) | (x < -p)).double(), [(6,)]),
}


@pytest.mark.thinned(8)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", WITH_OTHERS)
def test_functions_of_several_values(case, method):
    """With numbers, parameters of any broadcast shape, masks and other values of the class: every method is exact."""
    torch.manual_seed(0)
    function, shapes = WITH_OTHERS[case]
    model = Between(function, *shapes)
    grown = grow(model, model.input(), Widen(factor=2, method=method, seed=0))
    assert methods(grown) == {method} and grown.model.first.out_features >= 12


# A size read off the class is a number here: it stays what it was.
NUMBERS = {
    "a quotient": lambda x: x / x.shape[-1], "a power": lambda x: x * x.size(2) ** -0.5,
    "a root": lambda x: x / x.shape[-1] ** 0.5, "added": lambda x: x + x.numel(),
    "a bound": lambda x: x.clamp(max=x.shape[-1] / 9),
    "a filled tensor": lambda x: x + torch.full((1,), float(x.shape[-1])),
    "its fill": lambda x: x + x.new_full((6,), x.shape[2]),
    "a tensor": lambda x: x + torch.tensor(x.shape[-1]), "a shift": lambda x: x.roll(x.shape[-1] // 4, 1),
    "masked": lambda x: x.masked_fill(x > 0, x.shape[-1]),
    "a range": lambda x: x + torch.linspace(0, x.shape[-1], 5)[:, None],
    "a size and a number": lambda x: x * x.new_full((x.shape[-1],), x.shape[-1]),
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", NUMBERS)
def test_sizes_used_as_numbers(case, method):
    torch.manual_seed(0)
    model = Between(NUMBERS[case])
    assert methods(grow(model, model.input(), Widen(factor=2, method=method, seed=0))) == {method}


def _masked_write(x, value):
    y = x.clone()
    y[y > 0] = value
    return y


COMPLEX = {
    "a product": lambda x: torch.view_as_real(torch.complex(x, x.sin()) * torch.polar(x.abs(), x)).sum(-1),
    "parts": lambda x: (z := torch.complex(x, x.sin()).conj()).imag + z.abs() + z.angle() + z.real,
    "a written mask": lambda x: _masked_write(x, 0.5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", COMPLEX)
def test_complex_numbers_and_masks(case, method):
    torch.manual_seed(0)
    model = Between(COMPLEX[case])
    assert methods(grow(model, model.input(), Widen(factor=2, method=method, seed=0))) == {method}


HALVES = {
    "glu": (lambda x: F.glu(x, -1), 3), "swiglu": (lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], 3),
    "gate of a part": (lambda x: x[..., :4] * x[..., 4:].sum(-1, keepdim=True).sigmoid(), 4),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HALVES)
def test_halves_of_one_axis(case, method):
    """The halves grow alike."""
    torch.manual_seed(0)
    function, after = HALVES[case]
    model = Between(function, after=after)
    grown = grow(model, model.input(), Widen(factor=2, method=method, seed=0))
    assert size(grown.model) > size(model) and (case == "gate of a part" or methods(grown) == {method})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function, shape", [(F.prelu, (6,)), (lambda x, p: x * p, (6, 1)), (nn.Dropout1d(0.0), None)],
                         ids=["prelu", "scale", "dropout1d"])
def test_channels_before_space(function, shape, method):
    """A slope or scale for each channel of `[N, C, L]`."""
    torch.manual_seed(0)
    model = Between(function, *([shape] if shape else []), space=True)
    grown = grow(model, model.input(), Widen(factor=2, method=method, seed=0))
    assert methods(grown) == {method}


@pytest.mark.parametrize("draw", [torch.rand_like, torch.randn_like, torch.bernoulli])
def test_random_values_over_a_class_forbid_it(draw):
    """Other random numbers would be drawn for the old positions."""
    with pytest.raises(SelectionError, match="random values are drawn"):
        grow(Between(lambda x: x + draw(x.sigmoid())), of(2, 5, 3), Widen(factor=2, seed=0))


# --- random programs -------------------------------------------------------------------------------------------------

UNARY_STEPS = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "square": torch.square, "neg": operator.neg,
               "twice": lambda a: 2 * a, "plus": lambda a: a + 0.5, "gelu": F.gelu, "sin": torch.sin, "abs": torch.abs}
BINARY_STEPS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "max": torch.maximum,
                "where": lambda a, b: torch.where(a > 0, a, b), "gate": lambda a, b: a * b.sigmoid(),
                "div": lambda a, b: a / (1 + b * b)}
FREE_STEPS = {"bias": operator.add, "scale": operator.mul, "slope": lambda a, p: torch.where(a > 0, a, a * p)}
STEPS = {**UNARY_STEPS, **BINARY_STEPS, **FREE_STEPS}
ENDS = ["linear", "layer", "rms", "batch", "product"]


def _rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Program(nn.Module):
    """Two projections, a random program over them, and an end: a linear layer behind a norm or none, or a product."""

    def __init__(self, steps: list[tuple[str, int, int]], end: str, width: int = 4):
        super().__init__()
        self.steps, self.end = steps, end
        self.a, self.b, self.rest = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(5 if end == "product" else width, 2)
        self.norm = {"layer": nn.LayerNorm(width), "batch": nn.BatchNorm1d(width), "rms": _rms}.get(end)
        self.free = nn.ParameterList(torch.rand(width) for name, *_ in steps if name in FREE_STEPS)

    def __repr__(self):
        return f"Program({self.steps}, {self.end!r})"

    def forward(self, x):
        known, free = [self.a(x), self.b(x)], iter(self.free)
        for name, i, j in self.steps:
            more = (known[j % len(known)],) if name in BINARY_STEPS else (next(free),) if name in FREE_STEPS else ()
            known.append(STEPS[name](known[i % len(known)], *more))
        y, z = known[-1], known[-2]
        if self.end == "product":
            return self.rest(y @ z.mT)
        y = y.flatten(0, 1) + 0 * z.flatten(0, 1)
        return self.rest(y if self.norm is None else self.norm(y))


@proves(80)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5),
       st.sampled_from(ENDS), st.sampled_from(METHODS))
def test_random_programs(steps, end, method):
    """Whatever is computed between, twice the width is exact by some method: copies pass every pointwise op."""
    torch.manual_seed(0)
    model = Program(steps, end)
    try:
        grown = grow(model, of(2, 5, 3), Widen(factor=2, method=method, seed=0))
        assert size(grown.model) > size(model)
    except SelectionError:  # both sides of the product depend on the same projection
        assert end == "product"
