"""Weights of mutations that follow what their children gain."""
from __future__ import annotations

import pytest

from fxgrow.experiments.evolve import Member, Mutation, Scored
from fxgrow.experiments.evolve.credit import EVEN, adapted, odds
from fxgrow.passes import Widen


def scored(number: int, round: int, accuracy: float, name: str = "", spent: int = 10, archive: str = "a") -> Scored:
    member = Member(number, round if name else 0, 0 if name else None, {"pass": name} if name else None, "g", 10, 10)
    return Scored(member, round, archive, accuracy, 1 - accuracy, "", spent, 1, 0.0)


BASE = scored(0, 0, 0.5)


def test_a_pass_whose_children_gain_more_per_flop_gets_better_odds():
    told = [BASE, scored(1, 1, 0.6, "widen"), scored(2, 1, 0.55, "deepen"), scored(3, 1, 0.52, "deepen")]
    assert odds(told) == {"widen": pytest.approx((EVEN / 2 + 2) / (EVEN / 2)), "deepen": pytest.approx(1 / 2)}
    costly = [BASE, scored(1, 1, 0.6, "widen", spent=100), scored(2, 1, 0.55, "deepen"), scored(3, 1, 0.52, "deepen")]
    assert odds(costly)["widen"] == pytest.approx(1.0)  # ahead of the one, behind the other


def test_what_costs_more_is_not_better_where_all_lose():
    told = [BASE, scored(1, 1, 0.4, "widen", spent=1000), scored(2, 1, 0.45, "deepen")]
    assert odds(told)["widen"] < 1 < odds(told)["deepen"]


def test_rounds_are_compared_within_themselves_and_failures_do_not_count():
    told = [BASE, scored(0, 1, 0.8), scored(1, 1, 0.9, "widen"), scored(2, 2, 0.81, "deepen"),
            scored(3, 2, 0.0, "kernel", archive="")]
    assert odds(told) == {}
    assert odds([*told, scored(4, 1, 0.9, "widen")]) == {}  # a pass is not compared with itself
    pair = [BASE, scored(1, 1, 0.6, "a"), scored(2, 1, 0.5, "b")]
    assert odds(pair[::-1]) == odds(pair) != {}


def test_weights_are_multiplied_by_the_odds_and_functions_left_alone():
    told = [BASE, scored(1, 1, 0.6, "widen"), scored(2, 1, 0.5, "deepen")]
    mine = Mutation("mine", 3.0, make=lambda model, inputs, rng: None)
    weights = [m.weight for m in adapted([Mutation(Widen, 4.0), Mutation("deepen", 2.0), Mutation("se", 0.5), mine], told)]
    assert weights == [pytest.approx(4 * 1.5), pytest.approx(2 / 1.5), 0.5, 3.0]
    assert [m.weight for m in adapted([Mutation("widen", 4.0)], [BASE])] == [4.0]
