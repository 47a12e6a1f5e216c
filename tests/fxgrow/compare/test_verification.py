"""Verification: what counts as equal, for outputs of every kind."""
from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import fxgrow

X = torch.tensor([[1.0, -2.0, 3.0]])
Pair = namedtuple("Pair", "first second")


@dataclass
class Answer:
    logits: torch.Tensor
    label: torch.Tensor | int


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def check(one, other):
    return fxgrow.verify(Gives(one), Gives(other), X)


@pytest.mark.parametrize("wrap", [lambda x, y: {"a": x, "b": y}, lambda x, y: (x, [y]), Pair, Answer,
                                  lambda x, y: {"a": Answer(x, 3), "b": (y, None, "text", 1.5, True)}])
def test_outputs_of_every_form(wrap):
    assert check(lambda x: wrap(x, x * 2), lambda x: wrap(x, x * 2)).ok
    found = check(lambda x: wrap(x, x * 2), lambda x: wrap(x, x * 2.5))
    assert not found.ok and found.max_abs_error == 1.5
    assert found.max_rel_error == pytest.approx(1.5 / 6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_equals_nothing(odd):
    for one, other in ((odd, odd), (odd, 1.0), (1.0, odd)):
        for place in (0, 1):  # a later output must not hide an earlier one
            found = check(*((lambda x, v=v: [x, x * v][::1 - 2 * place]) for v in (one, other)))
            assert not found.ok and found.max_rel_error == float("inf") and "NaN or infinity" in found.notes[0]


@pytest.mark.parametrize("one, other", [
    (lambda x: x.long() + 10 ** 9, lambda x: x.long() + 10 ** 9 + 1), (lambda x: x > 0, lambda x: x >= 1.5),
    (lambda x: 3, lambda x: 4), (lambda x: x > 0, lambda x: (x > 0).float())])
def test_whole_numbers_are_equal_or_not(one, other):
    assert check(one, one).ok and check(other, other).ok
    assert not check(one, other).ok


def test_numbers_of_small_types_do_not_overflow():
    found = check(lambda x: (x * 2e4).half(), lambda x: (x * -2e4).half())
    assert found.max_abs_error == pytest.approx(12e4, rel=1e-2)
    assert check(lambda x: torch.complex(x, x), lambda x: torch.complex(x, x)).ok
    assert not check(lambda x: torch.complex(x, x), lambda x: torch.complex(x, -x)).ok


def test_outputs_that_do_not_match_or_say_nothing():
    for one, other in ((lambda x: (x, x), lambda x: (x,)), (lambda x: x, lambda x: x[0]), (lambda x: None, lambda x: x),
                       (lambda x: {"a": x}, lambda x: {"b": x}), (lambda x: None, lambda x: None)):
        found = check(one, other)
        assert not found.ok and found.notes


def test_outputs_that_were_added_are_left_out_on_request():
    one, other = Gives(lambda x: {"a": x, "b": 1}), Gives(lambda x: {"a": torch.cat([x, x + 1], 1), "b": 1})
    assert fxgrow.verify(one, other, X, extended=True).ok and not fxgrow.verify(one, other, X).ok
    assert not fxgrow.verify(other, one, X, extended=True).ok
    assert not fxgrow.verify(one, Gives(lambda x: {"a": torch.cat([x + 1, x], 1), "b": 1}), X, extended=True).ok


def test_parts_are_compared_where_the_whole_finds_nothing():
    class Finds(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x)[:0]

    layer = nn.Linear(3, 2)
    part, other = fxgrow.capture(layer, X), fxgrow.capture(nn.Linear(3, 2), X)
    assert fxgrow.verify(Finds(layer), Finds(part), X).ok and not fxgrow.verify(Finds(layer), Finds(other), X).ok
    assert "empty" in fxgrow.verify(Finds(layer), Finds(layer), X).notes[0]


def test_models_that_write_into_their_input_get_a_fresh_one():
    x = X.clone()
    assert fxgrow.verify(Gives(lambda x: x.add_(1)), Gives(lambda x: x.add_(1)), x).ok
    assert torch.equal(x, X)
