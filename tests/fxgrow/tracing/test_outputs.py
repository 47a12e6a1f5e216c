"""Outputs side by side: what counts as equal, for values of every kind."""
from __future__ import annotations

import collections
import enum
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fxgrow.tracing.outputs import INF, compare_outputs

X = torch.arange(6, dtype=torch.float64).view(2, 3) + 1
Pair = collections.namedtuple("Pair", "first second")
Colour = enum.Enum("Colour", "RED BLUE")


@dataclass
class Answer:
    logits: object
    label: object = None


class Holds:
    """An object that only holds a value."""

    def __init__(self, value):
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Cache:
    """An object that keeps state from call to call."""

    def __init__(self, *values):
        self.layers, self.filled = [Holds(v) for v in values], len(values)

    def update(self, value):
        self.layers.append(Holds(value))


class Named(dict):
    """A dictionary that holds more than its items."""


def named(value, **more):
    found = Named(y=value)
    vars(found).update(more)
    return found


def alike(one, other, **options):
    return compare_outputs(one, other, 1e-9, **options)


WRAPS = [lambda v: v, lambda v: (X, v), lambda v: [v], lambda v: {"a": X, "b": v}, lambda v: collections.OrderedDict(a=v),
         lambda v: Pair(X, v), Answer, lambda v: Answer(X, [v]), Holds, Slots, lambda v: (X, Cache(X, v)),
         lambda v: named(X, more=v), lambda v: types.SimpleNamespace(v=v), lambda v: collections.deque([v]),
         lambda v: types.MappingProxyType({"v": v})]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("value, other", [
    (X, X + 1), (X, X.float()), (X.long(), X.long() + 1), (X > 2, X > 3), (X.numpy(), X.numpy() + 1), (X.numpy(), X),
    (np.array(["a"]), np.array(["b"])), (np.float64(1), np.float64(2)), (np.float64(1), 1.0), (1, 2), (1, True), (1, 1.0),
    (1e300, 2e300),
    (1.5, 2.5), (True, False), ("cat", "dog"), (None, X), (None, "None"), (b"a", b"b"), (torch.float32, torch.float64),
    (Colour.RED, Colour.BLUE), (X.to_sparse(), (X + 1).to_sparse()), (X.to_sparse(), X), (X + 1j, X - 1j),
    ({1, 2}, {1, 3}), (len, max), (object(), object()), (lambda: 1, lambda: 2), (iter([1]), iter([1]))])
def test_values_that_differ_are_told_apart_wherever_they_are(wrap, value, other):
    found = alike(wrap(value), wrap(other))
    assert not found.equal and (found.notes or found.beyond)
    if not isinstance(value, types.LambdaType) and type(value) is not object:
        assert alike(wrap(value), wrap(value)).equal
    assert not alike(wrap(other), wrap(value)).equal


@pytest.mark.parametrize("one, other", [
    ((X,), [X]), (Pair(X, X), (X, X)), ({"a": X}, collections.OrderedDict(a=X)), (Answer(X), {"logits": X, "label": None}),
    (Answer(X), types.SimpleNamespace(logits=X, label=None)), ({"a": X, "b": X}, {"b": X, "a": X}), ((X, X), (X,)),
    ({"a": X}, {"b": X}), ({"a": X}, {"a": X, "b": None}), (Holds(X), Slots(X)), (X, (X,)), (X, None), (X, X[:1]),
    (X, X[0])])
def test_structure_and_classes_must_agree(one, other):
    for a, b in ((one, other), (other, one)):
        found = alike(a, b)
        assert not found.equal and found.relative == INF and found.notes


def test_a_class_that_a_forward_makes_is_one_class():
    def make():
        @dataclass
        class Local:
            y: object
        return Local(X)

    assert alike(make(), make()).equal


def test_a_value_that_holds_itself():
    one, other = [X], [X]
    one.append(one)
    other.append(other)
    assert alike(one, other).equal
    one, other = Holds(X), Holds(X + 1)
    one.me, other.me = one, other
    assert not alike(one, other).equal


def test_equal_by_their_own_word():
    class Says:
        __slots__ = ()

        def __eq__(self, other):
            return True

        __hash__ = None

    class Shrugs:
        __slots__ = ()

        def __eq__(self, other):
            return 1

        __hash__ = None

    assert alike((X, Says()), (X, Says())).equal
    assert not alike((X, Shrugs()), (X, Shrugs())).equal


@pytest.mark.parametrize("other", [Cache(torch.cat([X, X], 1)), Cache(X, X), Cache(torch.cat([X, X], 1), X)])
def test_the_state_of_a_grown_model_is_larger(other):
    for a, b in ((Cache(X), other), (other, Cache(X))):
        found = alike({"y": X, "cache": a}, {"y": X, "cache": b})
        assert found.equal and found.notes == ["the output['cache'] was not compared: internal state of another shape"]
    assert not alike({"y": X, "cache": Cache(X)}, {"y": X + 1, "cache": other}).equal


@pytest.mark.parametrize("other", [Cache(X + 1), Cache(X.float()), Cache(torch.cat([X, X]).float()),
                                   Cache(X[0]), Cache(torch.ones(1, 4)), Cache(None),
                                   Holds(X)])
def test_state_of_one_shape_is_compared(other):
    assert not alike({"y": X, "cache": Cache(X)}, {"y": X, "cache": other}).equal


def test_state_that_one_model_alone_gives_is_told():
    for one, other in (({"y": X, "cache": Cache(X)}, {"y": X}), ({"y": X, "cache": Cache(X)}, {"y": X, "cache": None}),
                       ((X, Cache(X)), (X,))):
        for a, b in ((one, other), (other, one)):
            found = alike(a, b)
            assert found.equal and "one model only" in found.notes[0]
    assert not alike({"y": X, "kept": Holds(X)}, {"y": X}).equal


def test_tensors_in_plain_containers_must_be_of_one_shape():
    wide = torch.cat([X, X], 1)
    assert not alike((X, ((X, X),)), (X, ((wide, wide),))).equal
    assert not alike((X, Holds(X)), (X, Holds(wide))).equal
    assert alike((X, [X]), (wide, [wide]), extended=True).equal and not alike(wide, X, extended=True).equal


def test_storage_of_other_kinds():
    nested = torch.nested.nested_tensor([X, X[:1]], dtype=torch.float64)
    assert alike(nested, torch.nested.nested_tensor([X, X[:1]])).equal
    assert not alike(nested, torch.nested.nested_tensor([X, X[:1] + 1])).equal
    quantized = torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8)
    assert alike(quantized, quantized.clone()).equal
    assert not alike(X.to("meta"), X.to("meta")).equal


def test_numbers_of_the_less_exact_types():
    for kind, close, far in ((torch.complex64, 1e-6, 1e-2), (torch.float8_e4m3fn, 0.1, 3.0), (torch.float16, 1e-3, 0.5)):
        one, near, other = (X.to(torch.complex128 if kind.is_complex else X.dtype).add(d).to(kind) for d in (0, close, far))
        assert alike(one, near).equal and not alike(one, other).equal


def test_parts_may_differ_in_shape_and_class():
    found = alike([X, (X,)], [X, [torch.cat([X, X])]], strict=False)
    assert found.equal and "another shape" in found.notes[0]
    assert not alike([X], [X + 1], strict=False).equal
