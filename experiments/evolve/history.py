"""The course of a search, read from its folder in one transaction, so that it may go on meanwhile."""
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.member import Member, Scored
from fxgrow.experiments.evolve.selection import SELECTIONS, best, survivors
from fxgrow.experiments.evolve.store import opened


@dataclass(frozen=True)
class Stage:
    """The population after a round (or training), FLOPs spent until then; `final`: the best network alone, trained on."""
    label: str
    population: list[Scored]
    spent: int
    final: bool = False


@dataclass
class SearchHistory:
    """The settings of a search and all that it found; `kept`: whom each round kept of those before it."""
    config: SearchConfig
    members: dict[int, Member]
    scored: list[Scored]
    kept: Mapping[int, Sequence[int]]
    discarded: list[dict[str, Any]]

    @property
    def last(self) -> int:
        """Return the round in which the best network is trained on."""
        return self.config.last_round

    def of(self, number: int) -> list[Scored]:
        """Return the trainings of a member, in order; failed ones have no archive."""
        return self._trainings.get(number, [])

    @cached_property
    def _trainings(self) -> dict[int, list[Scored]]:
        trainings: dict[int, list[Scored]] = {}
        for s in self.scored:
            trainings.setdefault(s.number, []).append(s)
        return trainings

    def living(self, round: int) -> set[int]:
        """Return those that a round kept, and those that it made."""
        return {*self.kept.get(round, ()), *(n for n, m in self.members.items() if m.round == round)}

    @cached_property
    def stages(self) -> list[Stage]:
        """Return the population after each round or training, and the final network."""
        stages = self._steady() if self.config.mode == "steady" else self._rounds()
        final = [s for s in self.scored if s.round == self.last and s.archive]
        if final:
            stages.append(Stage("final", final, sum(s.spent for s in self.scored), True))
        return stages

    def _rounds(self) -> list[Stage]:
        spent, stages = 0, []
        for round in sorted({s.round for s in self.scored if s.round != self.last}):
            ended = [s for s in self.scored if s.round == round]
            spent += sum(s.spent for s in ended)
            living = self.living(round)
            stages.append(Stage(str(round), [s for s in ended if s.archive and s.number in living], spent))
        return stages

    def _steady(self) -> list[Stage]:
        """Go through the trainings as searching.py does: who survives each follows from the seed."""
        config, size = self.config, self.config.keep + self.config.children
        select, spent, stages = SELECTIONS[config.selection], 0, []
        population: list[Scored] = []
        for count, s in enumerate(self.scored, 1):
            spent += s.spent
            population = survivors(population, s, select, size, config.seed, count)
            if s.archive and s.round == s.number:
                stages.append(Stage(str(s.number), population, spent))
        return stages

    @property
    def now(self) -> int:
        """Return the last round that has begun, that of the best network aside."""
        return max((r for r in self.kept if r != self.last), default=0)

    @cached_property
    def waiting(self) -> set[int]:
        """Return those that are still to be trained, in this round."""
        if self.config.mode == "steady":
            return {n for n in self.members if not self.of(n)}
        return {n for n in self.living(self.now) if all(s.round != self.now for s in self.of(n))}

    @cached_property
    def alive(self) -> set[int]:
        """Return the population that the search has now, and those that are to be trained."""
        if self.config.mode != "steady":
            return self.living(self.now)
        populations = [stage.population for stage in self.stages if not stage.final]
        return {*(s.number for s in (populations or [[]])[-1]), *self.waiting}

    @cached_property
    def best(self) -> Scored | None:
        """Return the network that the search gives: the one that was trained on, else the best one as each was last."""
        final = [s for s in self.scored if s.round == self.last and s.archive]
        latest = {s.number: s for s in self.scored if s.archive}
        return next(iter(final or best(list(latest.values()), 1, random.Random())), None)

    @cached_property
    def finished(self) -> bool:
        """Tell if the search has ended."""
        if self.config.final_steps:
            return any(s.round == self.last for s in self.scored)
        budget = self.config.total_flops
        spent = budget is not None and sum(s.spent for s in self.scored) >= budget
        return bool(self.scored) and (self.now >= self.last - 1 or spent) and not self.waiting


def read_search(folder: str | os.PathLike) -> SearchHistory:
    """Read the search in a folder; raise TrainError if there is none."""
    with opened(folder) as store:
        store.db.execute("BEGIN")
        settings, members = store.settings() or {}, store.members()
        scored, discarded, kept = store.evaluations(members), store.discarded(), store.all_kept()
        store.db.execute("COMMIT")
    return SearchHistory(SearchConfig.of(settings, os.fspath(folder)), members, scored, kept, discarded)
