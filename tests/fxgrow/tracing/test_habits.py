"""Small modules put together from habits of real forwards: grown exactly, guarded by a sentence, or refused; never wrong."""
from __future__ import annotations

import contextlib
import copy
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import habits
import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.passes import Widen

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore")


class Wrong(AssertionError):
    """Grown, and not the model."""


# --- Comparison -----------------------------------------------------------------------------------------------------------


def differs(a, b) -> str:
    """Say how two outputs differ in class, structure or contents, or "" ."""
    if type(a) is not type(b):
        return f"{type(a).__name__} became {type(b).__name__}"
    if isinstance(a, (Tensor, float)):
        return differs_in_numbers(torch.as_tensor(a), torch.as_tensor(b))
    if is_dataclass(a):
        return differs(*([getattr(v, f.name) for f in fields(a)] for v in (a, b)))
    if isinstance(a, SimpleNamespace):
        a, b = vars(a), vars(b)
    if isinstance(a, Mapping):
        return "other keys" if list(a) != list(b) else differs([*a.values()], [*b.values()])
    if isinstance(a, (tuple, list)):
        return "another number of parts" if len(a) != len(b) else next(filter(None, map(differs, a, b)), "")
    return "" if a == b else f"{a!r} became {b!r}"


def differs_in_numbers(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape or a.dtype is not b.dtype:
        return f"{list(a.shape)} {a.dtype} became {list(b.shape)} {b.dtype}"
    if not a.dtype.is_floating_point:
        return "" if torch.equal(a, b) else "other integers"
    tolerance = 1e-9 * float(a.detach().abs().max().clamp_min(1e-12)) if a.numel() else 0.0
    equal = torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)
    return "" if equal else f"off by {float((a - b).detach().abs().max()):.1e}"


def seed(number: int) -> None:
    torch.default_generator.manual_seed(number)  # torch.manual_seed looks for other devices, which takes a millisecond
    random.seed(number)
    numpy.random.seed(number)


def called(model: nn.Module, inputs: tuple, number: int = 0):
    """Return the output of a call, and its inputs thereafter, or the error."""
    seed(number)
    inputs = copy.deepcopy(inputs)
    try:
        return model(*inputs), inputs
    except Exception as error:
        return error, inputs


def calls(model: nn.Module, modes: tuple, sequence: list[tuple]) -> tuple[list[list], nn.Module]:
    """Return what a copy of a model gives for a sequence of inputs in each mode, the first of them twice, and itself."""
    habits.reset()
    model = copy.deepcopy(model)
    sequence = [sequence[0], *sequence]
    return [[called(model.train(training), inputs, i) for i, inputs in enumerate(sequence)] for training in modes], model


def gradients(model: nn.Module, inputs: tuple) -> tuple[list[Tensor], dict[str, bool]]:
    """Return the gradients of the inputs in eval mode, and which parameters have one."""
    habits.reset()
    wanted: list[Tensor] = []

    def leaf(a):
        if isinstance(a, Tensor) and a.is_floating_point():
            wanted.append(a.detach().clone().requires_grad_())
            return wanted[-1] * 1.0
        if isinstance(a, (tuple, list)):
            return type(a)(map(leaf, a))
        return {k: leaf(v) for k, v in a.items()} if isinstance(a, dict) else a

    seed(0)
    outputs = [t for t in tensors(model.eval()(*leaf(copy.deepcopy(inputs)))) if t.requires_grad]
    if outputs:
        sum((t * t).sum() + t.sum() for t in outputs).backward()
    learning = {n: p.grad is not None for n, p in model.named_parameters()}
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in wanted], learning


def tensors(value) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if is_dataclass(value):
        return [t for f in fields(value) for t in tensors(getattr(value, f.name))]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else []
    return [t for part in parts for t in tensors(part)]


def world(model: nn.Module) -> list:
    """Return all that growth may not touch: attributes, containers, tensors, modes, generators of random numbers."""
    def contents(value):
        if isinstance(value, Tensor):
            return id(value), value.detach().numpy().tobytes(), value.requires_grad
        if isinstance(value, dict):
            return {k: contents(v) for k, v in value.items()}
        return [contents(v) for v in value] if isinstance(value, (list, tuple, set, deque)) else repr(value)[:200]

    state = [(n, contents({k: v for k, v in vars(m).items() if not isinstance(v, (nn.Module, type))}))
             for n, m in model.named_modules()]
    return [state, contents(habits.KEPT), contents(habits.SHARED), torch.get_rng_state().numpy().tobytes(),
            random.getstate(), str(numpy.random.get_state()),
            torch.is_grad_enabled(), torch.get_default_dtype()]


# --- The property ---------------------------------------------------------------------------------------------------------


def grown_from(model: nn.Module, example: tuple) -> nn.Module:
    """Return the grown model, and insist that the user's own is as before.

    Raises:
        FxgrowError: it is refused.
    """
    habits.reset()
    before = world(model)
    try:
        return fxgrow.transform(model, copy.deepcopy(example), [Widen(factor=2, method="r2r", seed=0)]).model
    except FxgrowError:
        raise
    except Exception as error:
        raise Wrong(f"transform raises {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        if before != world(model):
            raise Wrong("the user's model, containers or random numbers are not as they were")


def check(model: nn.Module, example: tuple, others: list[tuple], modes=(False, True)) -> set[int]:
    """Grow a model, and insist that it is exact; return which of `others` the grown model refuses, with a sentence.

    Raises:
        FxgrowError: it is refused. Wrong: it is wrong.
    """
    model.eval()
    grown, sequence = grown_from(model, example), [example, *others]
    (before, one), (after, two) = calls(model, modes, sequence), calls(grown, modes, sequence)
    refused = {i for was, now in zip(before, after) for i, (want, got) in enumerate(zip(was, now))
               if isinstance(got[0], Exception) and not isinstance(want[0], Exception) and not says_why(got[0], i)}
    if refused:  # which has an effect on the user's model only
        sequence = [inputs for i, inputs in enumerate(sequence) if i + 1 not in refused]
        (before, one), (after, two) = calls(model, modes, sequence), calls(grown, modes, sequence)
    for training, was, now in zip(modes, before, after):
        for i, ((want, left), (got, held)) in enumerate(zip(was, now)):
            if not isinstance(want, Exception) and (how := differs(want, got) or differs(left, held)):
                raise Wrong(f"{'train' if training else 'eval'} mode, inputs {described(held)}, call {i + 1}: {how}")
    try:
        old, learning = gradients(one, example)
    except RuntimeError:  # a buffer that a product needs is written to twice: the model has none
        return {i - 2 for i in refused}
    new, learns = gradients(two, example)
    if lost := [name for name, has in learning.items() if name in learns and learns[name] != has]:
        raise Wrong(f"{lost[0]} has a gradient in one of both models only")
    for was, now in zip(old, new):
        if (how := differs_in_numbers(was, now)) and not was.sub(now).abs().max() < 1e-9 * (1 + was.abs().max()):
            raise Wrong(f"gradients of the inputs: {how}")
    return {i - 2 for i in refused}


def says_why(error: Exception, i: int) -> None:
    """Insist that an error is a refusal, and not of the example, which is put in twice."""
    if i < 2 or not (isinstance(error, (ValueError, FxgrowError)) and "captured" in str(error)):
        raise Wrong(f"call {i + 1}: {type(error).__name__}: {str(error)[:300]}")


def described(inputs) -> str:
    return str([list(i.shape) if isinstance(i, Tensor) else i for i in inputs])[:80]


def rows(batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, 4, dtype=D, generator=torch.Generator().manual_seed(10 * batch + length))


# --- Each habit alone -----------------------------------------------------------------------------------------------------

AXES = {"batch": [(rows(n, 3),) for n in (1, 5)], "length": [(rows(2, n),) for n in (1, 4, 6)]}


@pytest.mark.thinned(8)
@pytest.mark.parametrize("name", habits.HABITS)
def test_each_habit_alone(name, request):
    """In the forward of the model and in that of a submodule: in one network where it must be exact in both."""
    habit = habits.HABITS[name]
    if habit.broken:
        request.applymarker(pytest.mark.xfail(raises=(Wrong, AssertionError), reason=habit.broken, strict=True))
    for inside, must in [("both", True)] if habit.top and habit.part else [(False, habit.top), (True, habit.part)]:
        model = habits.network([habit], inside=inside)
        others = [(-rows(2, 3),), *AXES["batch"], *AXES["length"]]
        try:
            refused = check(model, (rows(2, 3),), others, (False,) if habit.noisy else (False, True))
        except FxgrowError as stop:
            assert not must, f"refused: {stop}"
            continue
        may = [*(range(1, 3) if "batch" in habit.fixes else ()), *(range(3, 6) if "length" in habit.fixes else ())]
        assert not [described(others[i]) for i in refused.difference(may)], "the grown model does not take them"


@pytest.mark.thinned(2)
@pytest.mark.parametrize("output", habits.OUTPUTS)
def test_each_kind_of_output(output):
    try:
        assert not check(habits.network(output=output), (rows(2, 3),), [(-rows(2, 3),), (rows(3, 5),)])
    except FxgrowError as stop:
        assert output in habits.MAY_BE_REFUSED, f"refused: {stop}"


@pytest.mark.thinned(2)
@pytest.mark.parametrize("inputs", [pytest.param(i, marks=pytest.mark.xfail(reason=habits.BROKEN_INPUTS[i], strict=True))
                                    if i in habits.BROKEN_INPUTS else i for i in habits.INPUTS])
def test_each_kind_of_input(inputs):
    given = habits.INPUTS[inputs][1]
    example, *others = given(rows(2, 3))
    refused = check(habits.network(inputs=inputs), example, [*others, given(rows(4, 3))[0], given(rows(2, 5))[0]])
    assert not refused & {len(others), len(others) + 1}, "another batch or length is refused"


@pytest.mark.parametrize("shell", habits.SHELLS)
def test_each_shell(shell):
    assert not check(habits.network(shell=shell), (rows(2, 3),), [(-rows(2, 3),), (rows(4, 3),), (rows(2, 5),)])


def test_a_forward_that_was_replaced_by_a_closure():
    """Copies of such a model run the original, so that nothing but the example can be compared."""
    model, x = habits.network(), rows(2, 3)
    want, forward = model(x), model.forward
    model.forward = lambda x: forward(x)
    grown = grown_from(model, (x,))
    grown(x).sum().backward()
    assert not differs(want, grown(x)) and grown.get_parameter("first.weight").grad is not None
    assert model.get_parameter("first.weight").grad is None


# --- Several together -----------------------------------------------------------------------------------------------------


@st.composite
def networks(draw):
    """Draw a network: up to three habits, a kind of output and of input, a shell."""
    whole = sorted(n for n, habit in habits.HABITS.items() if not habit.broken)
    names = draw(st.lists(st.sampled_from(whole), min_size=1, max_size=3))
    often = st.booleans()
    inputs, output, shell = (draw(st.sampled_from(sorted(kinds))) if draw(often) else usual for kinds, usual in (
        (set(habits.INPUTS).difference(habits.BROKEN_INPUTS), "plain"), (habits.OUTPUTS, "tensor"), (habits.SHELLS, "none")))
    if shell == "sequential" and len(habits.INPUTS[inputs][1](rows(1, 2))[0]) > 1:
        shell = "none"
    return names, {"inside": draw(often), "conv": draw(often), "inputs": inputs, "output": output, "shell": shell}


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 6))
EXAMPLES = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


def holds(drawn, sizes, others) -> None:
    names, options = drawn
    found = [habits.HABITS[n] for n in names]
    torch.manual_seed(0)
    model = habits.network(found, **options)
    given = habits.INPUTS[options["inputs"]][1]
    inputs = [*given(rows(*sizes)), *(given(rows(*other))[0] for other in others)]
    if options["shell"] != "none":  # a `forward(*args)` is recorded with as many as the example has
        inputs = [i for i in inputs if len(i) == len(inputs[0])]
    if isinstance(called(copy.deepcopy(model), inputs[0])[0], Exception):
        return
    with contextlib.suppress(FxgrowError):
        check(model, inputs[0], inputs[1:], (False,) if any(habit.noisy for habit in found) else (False, True))


@settings(max_examples=200, **EXAMPLES)
@given(networks(), SIZES, st.lists(SIZES, min_size=1, max_size=2))
def test_habits_together(drawn, sizes, others):
    holds(drawn, sizes, others)


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(20))
def test_many_habits_together(start):
    @seeded(start)
    @settings(max_examples=500, **EXAMPLES | {"derandomize": False})
    @given(networks(), SIZES, st.lists(SIZES, min_size=1, max_size=2))
    def many(drawn, sizes, others):
        holds(drawn, sizes, others)

    many()
