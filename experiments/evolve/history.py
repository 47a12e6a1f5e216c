"""What a search was at each time, told from its folder: read in one transaction, so that it may go on meanwhile."""
from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.member import Member, Scored, line
from fxgrow.experiments.evolve.selection import best, survivors
from fxgrow.experiments.evolve.store import NAME, Store
from fxgrow.experiments.settings import TrainError


@dataclass(frozen=True)
class Stage:
    """The population after a round, or, where there are no rounds, after a training. spent: FLOPs until then.

    final: the best network alone, trained on."""
    label: str
    population: list[Scored]
    spent: int
    final: bool = False


@dataclass
class History:
    """A search's settings and all that it found. kept: whom each round kept of those before it."""
    config: SearchConfig
    members: dict[int, Member]
    scored: list[Scored]
    kept: Mapping[int, Sequence[int]]
    discarded: list[dict[str, Any]]

    @property
    def last(self) -> int:
        """The round in which the best network is trained on."""
        return self.config.last_round

    def of(self, number: int) -> list[Scored]:
        """The trainings of a member, in order; failed ones have no archive."""
        return self._of.get(number, [])

    @cached_property
    def _of(self) -> dict[int, list[Scored]]:
        found: dict[int, list[Scored]] = {}
        for s in self.scored:
            found.setdefault(s.number, []).append(s)
        return found

    def line(self, number: int) -> list[int]:
        """A member's ancestors, the base network first, and itself."""
        return line(self.members, number)

    def living(self, round: int) -> set[int]:
        """Those that a round kept, and those that it made."""
        return {*self.kept.get(round, ()), *(n for n, m in self.members.items() if m.round == round)}

    @cached_property
    def stages(self) -> list[Stage]:
        found = self._steady() if self.config.mode == "steady" else self._rounds()
        final = [s for s in self.scored if s.round == self.last and s.archive]
        return [*found, *([Stage("final", final, sum(s.spent for s in self.scored), True)] if final else [])]

    def _rounds(self) -> list[Stage]:
        spent, found = 0, []
        for round in sorted({s.round for s in self.scored if s.round != self.last}):
            ended = [s for s in self.scored if s.round == round]
            spent += sum(s.spent for s in ended)
            living = self.living(round)
            found.append(Stage(str(round), [s for s in ended if s.archive and s.number in living], spent))
        return found

    def _steady(self) -> list[Stage]:
        """As searching.py goes through the trainings: who survives each follows from the seed."""
        config, size = self.config, self.config.keep + self.config.children
        spent, found = 0, []
        population: list[Scored] = []
        for count, s in enumerate(self.scored, 1):
            spent += s.spent
            population = survivors(population, s, config.selection, size, config.seed, count)
            if s.archive and s.round == s.number:
                found.append(Stage(str(s.number), population, spent))
        return found

    @property
    def now(self) -> int:
        """The last round that has begun, that of the best network aside."""
        return max((r for r in self.kept if r != self.last), default=0)

    @cached_property
    def waiting(self) -> set[int]:
        """Those that are still to be trained, in this round."""
        if self.config.mode == "steady":
            return {n for n in self.members if not self.of(n)}
        return {n for n in self.living(self.now) if all(s.round != self.now for s in self.of(n))}

    @cached_property
    def alive(self) -> set[int]:
        """The population that the search has now, and those that are to be trained."""
        if self.config.mode != "steady":
            return self.living(self.now)
        populations = [stage.population for stage in self.stages if not stage.final]
        return {*(s.number for s in (populations or [[]])[-1]), *self.waiting}

    @cached_property
    def best(self) -> Scored | None:
        """The network that the search gives: the one that was trained on, else the best one as each was last."""
        final = [s for s in self.scored if s.round == self.last and s.archive]
        latest = {s.number: s for s in self.scored if s.archive}
        return next(iter(final or best(list(latest.values()), 1, random.Random())), None)

    @cached_property
    def finished(self) -> bool:
        if self.config.final_steps:
            return any(s.round == self.last for s in self.scored)
        budget = self.config.total_flops
        spent = budget is not None and sum(s.spent for s in self.scored) >= budget
        return bool(self.scored) and (self.now >= self.last - 1 or spent) and not self.waiting


def history(folder: str | os.PathLike) -> History:
    """Reads the search in a folder.

    Raises:
        TrainError: there is none.
    """
    if not (Path(folder) / NAME).is_file():
        raise TrainError(f"{os.fspath(folder)} holds no search: name the folder that `fxgrow evolve -o` wrote")
    store = Store(Path(folder))
    try:
        store.db.execute("BEGIN")
        settings, members = store.settings(), store.members()
        scored, discarded = store.evaluations(members), store.discarded()
        kept = {round: names for round in _rounds(store) if (names := store.kept(round)) is not None}
        store.db.execute("COMMIT")
    finally:
        store.close()
    if settings is None:
        raise TrainError(f"{os.fspath(folder)} holds a search that had not begun: start it anew")
    return History(SearchConfig.of(settings, os.fspath(folder)), members, scored, kept, discarded)


def _rounds(store: Store) -> list[int]:
    return [round for round, in store.db.execute("SELECT round FROM rounds ORDER BY round")]
