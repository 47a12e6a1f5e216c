"""Selection: which networks are kept, and whose children come next. Pure functions over scored members."""
import random
from collections.abc import Callable, Sequence

from fxgrow.experiments.evolve.member import Scored
from fxgrow.experiments.settings import optional

Selection = Callable[[Sequence[Scored], int, random.Random], list[Scored]]


def best(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep those with the highest score, validation accuracy usually (of equals, the smaller loss, then the older)."""
    return sorted(scored, key=lambda s: (-s.score, s.loss, s.number))[:keep]


def random_choice(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep any: random search with the same passes."""
    return sorted(rng.sample(list(scored), min(keep, len(scored))), key=lambda s: s.number)


def aging(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep the youngest: regularised evolution (Real et al., 2019, arXiv:1802.01548), whose parents win a `tournament`."""
    return sorted(scored, key=lambda s: -s.number)[:keep]


def tournament(scored: Sequence[Scored], sample: int, rng: random.Random) -> Scored:
    """Return the best of a few drawn at random."""
    return best(rng.sample(list(scored), min(sample, len(scored))), 1, rng)[0]


def nsga2(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep fronts of accuracy, FLOPs and parameters (Deb et al., 2002; LEMONADE, Elsken et al., 2019, arXiv:1804.09081)."""
    tools, points = _points(scored)
    return [p.scored for p in tools.selNSGA2(points, min(keep, len(points)))]


def front(scored: Sequence[Scored]) -> list[Scored]:
    """Return the Pareto front of accuracy against FLOPs and parameters, from the smallest to the largest."""
    tools, points = _points(scored)
    first = tools.sortNondominated(points, len(points), first_front_only=True)[0] if points else []
    return sorted((p.scored for p in first), key=lambda s: (s.member.flops, s.member.parameters, s.number))


def _points(scored: Sequence[Scored]):
    """Return DEAP's tools, and the members as they take them: error, FLOPs and parameters are to be small."""
    optional("deap", "Pareto fronts need the package deap", "evolve")
    from deap import base, tools

    class Fitness(base.Fitness):
        weights = (-1.0, -1.0, -1.0)

    class Point:
        def __init__(self, s: Scored):
            self.scored, self.fitness = s, Fitness((1 - s.score, s.member.flops, s.member.parameters))

    return tools, [Point(s) for s in sorted(scored, key=lambda s: s.number)]


def last_states(scored: Sequence[Scored]) -> list[Scored]:
    """Return every member that was trained, as it was last."""
    return sorted({s.number: s for s in sorted(scored, key=lambda s: s.round) if s.archive}.values(), key=lambda s: s.number)


def diverse(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep the network with the most right answers, one after another; what n of them solve counts (n + 1)^-2."""
    solved = [0] * max((len(s.correct) for s in scored), default=0)
    chosen: list[Scored] = []
    left = sorted(scored, key=lambda s: s.number)
    while left and len(chosen) < keep:
        def worth(s: Scored) -> float:
            return sum((n + 1) ** -2 for n, bit in zip(solved, s.correct) if bit == "1")
        taken = max(left, key=lambda s: (worth(s), -s.loss))
        chosen.append(taken)
        left.remove(taken)
        solved = [n + int(bit) for n, bit in zip(solved, taken.correct)]
    return chosen


def hill(scored: Sequence[Scored], keep: int, rng: random.Random) -> list[Scored]:
    """Keep the best one alone: hill climbing (Elsken et al., 2018, arXiv:1711.04528)."""
    return best(scored, 1, rng)


SELECTIONS: dict[str, Selection] = {"best": best, "aging": aging, "nsga2": nsga2, "diverse": diverse, "hill": hill,
                                    "random": random_choice}


def survivors(population: Sequence[Scored], new: Scored, select: Selection, size: int, seed: int, count: int
              ) -> list[Scored]:
    """Return the population of a search in mode steady after evaluation number `count`, which is `new`."""
    if not new.archive or new.round != new.number:  # it failed, or is the best one trained on
        return list(population)
    together = [*population, new]
    rng = random.Random(f"{seed} survivors {count}")
    return together if len(together) <= size else select(together, size, rng)
