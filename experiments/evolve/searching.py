"""The search: train the base network; then select, mutate and train, round after round; then train the best one on.

Every decision follows from the seed and the store, so a search that was cut off goes on by doing the same again: what is in
the store is taken from there. What lives here: the order of things, each of which has a module of its own.
"""
import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.common import held, mixed
from fxgrow.errors import ArchiveError
from fxgrow.experiments.data import Data, as_data
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.credit import adapted
from fxgrow.experiments.evolve.embedding import Embedding, learned
from fxgrow.experiments.evolve.engines import Engine, Serial
from fxgrow.experiments.evolve.hypernetwork import MEMBERS, Hypernetwork
from fxgrow.experiments.evolve.joint import family, train_jointly
from fxgrow.experiments.evolve.member import Member, Scored, ancestry
from fxgrow.experiments.evolve.mutation import Child, Mutation, Parent, costs, grow, latency, mutate, mutations_of
from fxgrow.experiments.evolve.predictor import Predictor
from fxgrow.experiments.evolve.selection import SELECTIONS, Selection, best, last_states, survivors, tournament
from fxgrow.experiments.evolve.store import Store, from_bytes, opened, to_bytes
from fxgrow.experiments.evolve.structure import graph_hash
from fxgrow.experiments.evolve.worker import Fitness, Task, TaskResult, data_of, evaluate, fitness_of, reestimate
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import Run, capture_classifier, insist_classes, load_run_model

PROBE = 2  # samples that a child is compared with its parent on


@dataclass(frozen=True)
class SearchResult:
    """The best network of a search, the population of its last round, and all evaluations in order."""
    best: Scored
    population: list[Scored]
    evaluations: list[Scored]
    folder: Path
    config: SearchConfig

    def model(self, scored: Scored | None = None) -> GraphModule:
        """Load a network as it was then; the best one without an argument."""
        with opened(self.folder) as store:
            return store.model((scored or self.best).archive)


Watch = Callable[["Search", Scored | None], None]


@dataclass(frozen=True)
class Given:
    """What a search is given as objects, in place of what its settings name; each is to be given again where it goes on."""
    model: nn.Module | None = None
    data: Data | None = None
    fitness: Fitness | None = None
    selection: Selection | None = None

    @property
    def names(self) -> list[str]:
        """Return which there are."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]


def search(config: SearchConfig, out: str | Path, *, engine: Engine | None = None, watch: Sequence[Watch] = (),
           mutations: Sequence[Mutation | type] | None = None, model: nn.Module | None = None, data: Any = None,
           fitness: Fitness | None = None, selection: Selection | None = None) -> SearchResult:
    """Evolve a population, or go on with the search in the folder `out`.

    Args:
        engine: where networks are trained; None: here, one after another.
        watch: called after each evaluation (and at the beginning, with None).
        mutations: instead of those that the settings name: Mutations, or classes of passes, of one's own as well.
        model: the base network, instead of a name in the settings.
        data: a pair of tensors (examples, labels), `Arrays`, or what `load_data` gives.
        fitness: of a trained network and the data (`data.validation` is its part): a number, the higher the better, by which
            networks are compared instead of the validation accuracy. For other processes it must be a function of a module.
        selection: of evaluations, how many to keep and a generator, those to keep; as `selection` in the settings names one.

    Raises:
        TrainError: another search has the folder, it holds one with other settings, or model and data do not go together.
    """
    own = None if data is None else as_data(data, seed=config.seed, limit=config.limit)
    with held(out):
        return Search(config, out, engine or Serial(), watch, mutations, Given(model, own, fitness, selection)).run()


class Search:
    """A search that runs. `scored` are all evaluations so far."""

    def __init__(self, config: SearchConfig, out: str | Path, engine: Engine, watch: Sequence[Watch] = (),
                 mutations: Sequence[Mutation | type] | None = None, given: Given = Given()):
        missing = [name for name in config.given if name not in given.names]
        if missing:
            raise TrainError(f"the search in {out} was given its {' and '.join(missing)} in Python: go on there with the "
                             f"same, search(resumed(folder), folder, {', '.join(f'{n}=...' for n in missing)})")
        told: dict[str, Any] = {name: "given in Python" for name in ("model", "data") if name in given.names}
        self.config = config = replace(config, given=given.names, **told)
        self.given, self.engine, self.watch = given, engine, list(watch)
        self.mutations = mutations_of(config.mutations, config.weights) if mutations is None else [
            m if isinstance(m, Mutation) else Mutation(m) for m in mutations]
        self.select = given.selection or SELECTIONS[config.selection]
        self.store = Store(out)
        stored, mine = self.store.settings(), config.to_json()
        if stored is None:
            self.store.keep_settings(mine)
        elif SearchConfig.of(stored) != config:
            theirs = SearchConfig.of(stored).to_json()
            other = next(name for name in mine if theirs[name] != mine[name])
            raise TrainError(f"{out} holds a search with other settings ({other} is {stored.get(other)!r} there): go on "
                             "with --resume, or choose another folder")
        self.members = self.store.members()
        self.scored = self.store.evaluations(self.members)
        self.limits = config.limits
        self.untrained = b""  # the base network
        self.parents: dict[str, Parent] = {}
        self.hypernetwork: tuple[int, Hypernetwork] | None = None  # of a round
        learns = config.predictor != "none"
        self.predictor = Predictor(config.predictor, config.seed, self.store.model, self._embedding) if learns else None

    @cached_property
    def data(self) -> Data:
        """Return the data set."""
        return self.given.data or data_of(self.config.data, self.config.root, self.config.limit, self.config.seed)

    @cached_property
    def inputs(self) -> Tensor:
        """Return a small batch, on which children are compared with their parents."""
        return self.data.first(PROBE)

    def _embedding(self) -> Embedding:
        return learned(from_bytes(self.untrained), self.inputs, self.mutations, self.limits, self.config.seed)

    @property
    def spent(self) -> int:
        """Return the FLOPs of training so far."""
        return sum(s.spent for s in self.scored)

    def run(self) -> SearchResult:
        """Search to the end; in a folder with a search begun, from its last finished training on.

        Raises:
            ArchiveError: a network that is needed cannot be read, or nothing more be written (the disk is full, say).
            TrainError: the base network is larger than any may be, a worker ended, ...
        """
        try:
            for each in self.watch:
                each(self, None)
            population = self._base()
            population = self._steady() if self.config.mode == "steady" else self._rounds(population)
            return SearchResult(self._final(population), population, self.scored, self.store.folder, self.config)
        except (ArchiveError, sqlite3.OperationalError) as error:
            raise ArchiveError(f"{error}; free space, or put the file back from a copy, and go on with "
                               f"--resume {self.store.folder}") from error
        finally:
            self.store.close()

    def _base(self) -> list[Scored]:
        """Train the base network alone."""
        model = base_network(self.config, self.data, self.inputs, self.given.model)
        self.untrained = to_bytes(model)
        if 0 not in self.members:
            timed = latency(model, self.inputs) if self.config.latency is not None else None
            first = Member(0, 0, None, None, graph_hash(model), *costs(model, self.inputs), timed)
            for name in ("parameters", "flops", "latency"):
                most, value = getattr(self.config, name), getattr(first, name)
                if most is not None and value > most:
                    raise TrainError(f"the base network has {name} {round(value, 3):,}, more than the {most:,} that a "
                                     "network may have, and its children would have still more")
            self._add([first], 0, [])
        return self._train([0], 0, self.config.first_steps)

    def _add(self, members: Sequence[Member], round: int, kept: Sequence[int], discarded: Sequence[Any] = ()) -> None:
        self.store.add_members(members, round, kept, discarded)
        self.members |= {m.number: m for m in members}

    def _rounds(self, population: list[Scored]) -> list[Scored]:
        rungs = self.config.rungs
        for round in range(1, self.config.rounds * rungs + 1):
            if self.store.kept(round) is None:
                if self._exhausted():
                    break
                if (round - 1) % rungs:
                    going = best(population, self.config.surviving(len(population)), random.Random())
                    self._add([], round, [s.number for s in going])
                else:
                    self._select_and_mutate(population, round)
            alive = [*(self.store.kept(round) or []), *(n for n, m in self.members.items() if m.round == round)]
            steps = max(1, self.config.steps // rungs)
            if self.config.weights == "share":
                population = self._train_together(alive, round, steps)
            else:
                population = self._train(alive, round, max(1, steps // len(alive)))
            population = [s for s in population if s.archive]
            if not population:
                break
        return population

    def _exhausted(self) -> bool:
        return self.config.total_flops is not None and self.spent >= self.config.total_flops

    def _select_and_mutate(self, population: list[Scored], round: int) -> None:
        rng = random.Random(f"{self.config.seed} round {round}")
        kept = self.select(population, self.config.keep, rng)

        def parents() -> Sequence[Scored]:
            return [tournament(kept, self.config.sample, rng)] if self.config.selection == "aging" else kept

        members, discarded = self._children(self.config.children, parents, rng, round)
        self._add(members, round, [s.number for s in kept], discarded)

    def _children(self, count: int, parents: Callable[[], Sequence[Scored]], rng: random.Random, round: int):
        """Return new members, chosen by a predictor that has learned enough, and what was discarded on the way."""
        known = self._known_structures(round)
        for parent in self.parents.values():
            parent.led_to.clear()  # so that what is drawn does not depend on where the search was cut off
        predictor = self.predictor if self.predictor is not None and self.predictor.learn(self.scored) else None
        mutations = adapted(self.mutations, self.scored) if self.config.adapt else self.mutations
        pool: list[Child] = []
        discarded: list[Any] = []
        origin: dict[int, Scored] = {}
        for _ in range(count if predictor is None else count * self.config.candidates):
            chosen = parents()
            origin |= {s.number: s for s in chosen}
            child, refused = mutate([self._parent(s) for s in chosen], mutations, rng, self.limits, known)
            discarded += refused
            if child is not None:
                pool.append(child)
                if self.config.duplicates != "keep":
                    known.add(child.graph)
        if predictor is not None:
            pool = predictor.choose(pool, origin, count)
        first = max(self.members) + 1
        return [Member(first + i, round, c.parent, c.step, c.graph, c.parameters, c.flops, c.latency)
                for i, c in enumerate(pool)], discarded

    def _known_structures(self, round: int) -> set[str]:
        """Return the hashes of structures that are not wanted again."""
        if self.config.duplicates == "keep":
            return set()
        everywhere = self.config.duplicates == "run"
        return {m.graph for m in self.members.values() if everywhere or m.round == round}

    def _parent(self, s: Scored) -> Parent:
        if s.archive not in self.parents:
            while len(self.parents) > max(16, 2 * self.config.keep):
                self.parents.pop(next(iter(self.parents)))
            self.parents[s.archive] = Parent(s.number, self.store.model(s.archive), self.inputs)
        return self.parents[s.archive]

    def _train(self, numbers: Sequence[int], round: int, steps: int) -> list[Scored]:
        """Train each of these networks alone, but those that the store holds already; each is kept once it is done."""
        waiting = {self.engine.submit(self._task(n, round, steps)) for n in numbers if self._at(n, round) is None}
        while waiting:
            token, result = self.engine.wait()
            waiting.remove(token)
            self._keep(result)
        return [s for n in numbers if (s := self._at(n, round)) is not None]

    def _task(self, number: int, round: int, steps: int) -> Task:
        """Return the training of a member as it was last, or else of its parent after the member's step."""
        origin = self._origin(number, round)
        network = self.untrained if origin is None else self.store.get(origin.archive)
        step = None if origin is not None and origin.number == number else self.members[number].step
        seed = mixed(self.config.seed, round, number) % 2 ** 31
        inherits = self.config.momentum == "inherit" and origin is not None
        made = to_bytes(self._grown(number, round)) if step is not None and self.config.init != "drawn" else b""
        return Task(number, round, network, step, steps, seed, self.config.to_json(), self.given.data, self.given.fitness,
                    self.store.moments(origin.archive) if inherits else b"", made)  # type: ignore[union-attr]

    def _keep(self, result: TaskResult) -> None:
        """Write the network first, then the row that counts."""
        if result.error and result.round == 0:
            raise TrainError(f"the base network cannot be trained: {result.error}")
        archive = "" if result.error else self._put(result.network, result.number, result.round)
        if archive and self.config.momentum == "inherit":
            self.store.put_moments(archive, result.moments)
        self._count([Scored(self.members[result.number], result.round, archive, result.accuracy, result.loss,
                            result.correct, result.spent, result.steps, result.seconds, result.fitness)])

    def _put(self, network: bytes, number: int, round: int) -> str:
        origin = self._origin(number, round)
        return self.store.put(network, None if origin is None else origin.archive)

    def _count(self, scored: Sequence[Scored]) -> None:
        self.store.add_evaluations(scored)
        for s in scored:
            self.scored.append(s)
            for each in self.watch:
                each(self, s)

    def _at(self, number: int, round: int) -> Scored | None:
        return next((s for s in self.scored if (s.number, s.round) == (number, round)), None)

    def _origin(self, number: int, round: int) -> Scored | None:
        """Return a member as it was last before a round, or else its parent."""
        for one in (number, self.members[number].parent):
            for s in reversed(self.scored):
                if s.number == one and s.archive and s.round < round:
                    return s
        return None

    def _train_together(self, alive: Sequence[int], round: int, steps: int) -> list[Scored]:
        """Train the living together, whose ancestors hold some of their numbers and so are kept up to date as well."""
        if any(self._at(n, round) is None for n in alive):
            everyone = sorted({a for n in alive for a in ancestry(self.members, n)})
            members = family({n: (self.members[n].parent, self._network(n, round)) for n in everyone})
            seed = mixed(self.config.seed, round) % 2 ** 31
            spent, taken, seconds = train_jointly(members, alive, self.data, self.config, steps, seed, round)
            scored = []
            for number in everyone:
                model: GraphModule = fxgrow.untie(members[number].model)  # type: ignore[assignment]
                cost = reestimate(model, self.data, self.config, seed)
                accuracy, loss, correct = evaluate(model, self.data.validation)  # leaves it in eval mode, as it is kept
                archive = self._put(to_bytes(model), number, round)
                scored.append(Scored(self.members[number], round, archive, accuracy, loss, correct,
                                     spent.get(number, 0) + cost, taken.get(number, 0), seconds / len(alive),
                                     fitness_of(model, self.data, self.given.fitness)))
            self._count(scored)
        return [s for n in alive if (s := self._at(n, round)) is not None]

    def _network(self, number: int, round: int) -> GraphModule:
        """Return a member as it was last before a round, or as it grows from its parent as that was last."""
        origin = self._origin(number, round)
        assert origin is not None
        return self.store.model(origin.archive) if origin.number == number else self._grown(number, round)

    def _grown(self, number: int, round: int) -> GraphModule:
        """Return a new member as it grows from its parent, with new numbers as the settings ask for."""
        origin, step = self._origin(number, round), self.members[number].step
        assert origin is not None and step is not None
        parent = self.store.model(origin.archive)
        child: GraphModule = grow(parent, self.inputs, step).model  # type: ignore[assignment]
        if self.config.init == "hypernetwork":
            self._hypernetwork(round).give(child, parent, self.inputs, step)
        return child

    def _hypernetwork(self, round: int) -> Hypernetwork:
        """Return what has learned from the networks that were trained before a round."""
        if self.hypernetwork is None or self.hypernetwork[0] != round:
            trained = sorted(last_states([s for s in self.scored if s.round < round]), key=lambda s: (s.round, s.number))
            networks = [self.store.model(s.archive) for s in trained[-MEMBERS:]]
            self.hypernetwork = round, Hypernetwork(networks, mixed(self.config.seed, round) % 2 ** 31)
        return self.hypernetwork[1]

    def _steady(self) -> list[Scored]:
        """Make a new child whenever a worker is free, as many as the rounds would have; each is its own round."""
        config, size = self.config, self.config.keep + self.config.children
        steps = max(1, config.steps // size)
        population: list[Scored] = []
        for count, s in enumerate(self.scored, 1):
            population = survivors(population, s, self.select, size, config.seed, count)
        running = {self.engine.submit(self._task(n, n, steps)) for n in self.members if self._at(n, n) is None}
        while True:
            while len(running) < self.engine.workers:
                number = len(self.members)
                if number > config.rounds * config.children or self._exhausted() or not self._bear(population, number):
                    break
                running.add(self.engine.submit(self._task(number, number, steps)))
            if not running:
                return population
            token, result = self.engine.wait()
            running.remove(token)
            self._keep(result)
            count = len(self.scored)
            population = survivors(population, self.scored[-1], self.select, size, config.seed, count)

    def _bear(self, population: list[Scored], number: int) -> bool:
        """Make child `number` of the population; False: nothing was found."""
        rng = random.Random(f"{self.config.seed} child {number}")
        if self.config.selection == "aging":
            parents = [tournament(population, self.config.sample, rng)]
        else:
            parents = self.select(population, self.config.keep, rng)
        children, discarded = self._children(1, lambda: parents, rng, number)
        self._add(children, number, [], discarded)
        return bool(children)

    def _final(self, population: list[Scored]) -> Scored:
        """Return the best network of the last round, trained on if the settings say so."""
        trained = best([s for s in population if s.archive], 1, random.Random())
        if not trained:
            raise TrainError("no network of the last round could be trained: lower lr, or clip the gradient")
        if not self.config.final_steps:
            return trained[0]
        last = self.config.last_round
        kept = self.store.kept(last)
        if kept is None:
            self._add([], last, kept := [trained[0].number])
        return self._train(kept, last, self.config.final_steps)[0]


def base_network(config: SearchConfig, data: Data, inputs: Tensor, given: nn.Module | None = None) -> GraphModule:
    """Return the captured network that all others descend from: the one given, or the one that the settings name."""
    if given is not None:
        return capture_classifier(given, inputs, data).eval()
    insist_classes(data)
    model = load_run_model(Run(model=config.model, data=config.data, seed=config.seed), data)
    return fxgrow.capture(model, inputs)


def resumed(folder: str | Path) -> SearchConfig:
    """Return the settings of the search in a folder; raise TrainError if there is none."""
    with opened(folder) as store:
        return SearchConfig.of(store.settings() or {})
