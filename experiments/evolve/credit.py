"""Which mutations pay: weights that follow what children have gained, per FLOP of their training.

The idea is that of adaptive operator selection (A. Fialho, "Adaptive Operator Selection for Optimization", 2010), with
comparisons of ranks, as gains become smaller from round to round.
"""
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

from fxgrow.experiments.evolve.member import Scored
from fxgrow.experiments.evolve.mutation import Mutation, name_of, pass_called
from fxgrow.experiments.evolve.predictor import trained_children

EVEN = 4  # comparisons, half of them won, that each pass starts with


def adapted(mutations: Sequence[Mutation], scored: Sequence[Scored]) -> list[Mutation]:
    """Return the mutations with weights times the odds of their passes; those that `make` passes are left as they are."""
    known = odds(scored)
    return [dataclasses.replace(m, weight=m.weight * known.get(name_of(pass_called(m.name)), 1.0)) if m.make is None else m
            for m in mutations]


def odds(scored: Sequence[Scored]) -> dict[str, float]:
    """Return, for each pass, the odds that a child of it gains more per FLOP than a child of another pass in its round.

    A gain is that of a child's first training over its parent, above the smallest of the round, so that what costs more does
    not look better where all lose.
    """
    rounds: dict[int, list[tuple[str, float, int]]] = defaultdict(list)
    for child, parent in trained_children(scored):
        rounds[child.round].append(((child.member.step or {})["pass"], child.score - parent.score, max(child.spent, 1)))
    won: dict[str, float] = defaultdict(lambda: EVEN / 2)
    met: dict[str, int] = defaultdict(lambda: EVEN)
    for children in rounds.values():
        least = min(gain for _, gain, _ in children)
        rates = [(name, (gain - least) / spent) for name, gain, spent in children]
        for (one, rate), (other, against) in itertools.permutations(rates, 2):
            if one != other:
                met[one] += 1
                won[one] += 0.5 * (rate >= against) + 0.5 * (rate > against)
    return {name: won[name] / (met[name] - won[name]) for name in met}
