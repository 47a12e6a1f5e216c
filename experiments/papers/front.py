"""Growing against the front: networks of several sizes from scratch, each at several budgets, and networks that grow.

All training is cut into legs. A stable leg goes on at the peak rate to a step; a decayed one takes the rate to zero from
there. Legs share what they have in common: one long stable run of a size gives every budget of it, by a decay from each of
its checkpoints, and the start of whatever grows out of it. The FLOPs of a leg are those of the whole way that leads to it.

What lives here: the declaration, its legs, and running one. What does not: what they show (front_results.py).
"""
from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxgrow.common import atomic_write
from fxgrow.experiments import train as training
from fxgrow.experiments.data import Data, Examples
from fxgrow.experiments.papers.declaration import Arm, Experiment, ExperimentError, Network, Scale, register
from fxgrow.experiments.papers.running import VERSION, Setup, file_name, finished, model_options
from fxgrow.experiments.train import Diverged, TrainConfig, Trainer, Watcher, step_flops
from fxgrow.zoo import create_model

RATES, FRONT, GROWN = "rates", "front", "grown"
AUTO = "auto"
OTHER_SEEDS = 100  # is added to the seeds of runs that choose rates


@dataclass(frozen=True)
class Size:
    """A network of the front.

    Args:
        network: of the zoo, as `Network` has it.
        lr: its peak rate, from the runs that choose rates.
        budgets: the first and the last budget at which it is trained from scratch, counted from 0 (None: all).
    """
    network: Network
    lr: float
    budgets: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """A growth: at this share of the updates, by these passes, into a network of the front's size `into`.

    at: None: as often as `auto` finds it worth it; it is the only step then, and its rate is that of the start.
    options: of a growth, as in front of the colon of `fxgrow train --grow`. lr: from then on (None: that of `into`).
    """
    at: float | None
    passes: str
    into: str
    options: str = ""
    lr: float | None = None


@dataclass(frozen=True)
class Way:
    """A network that grows.

    Args:
        start: the size that it starts as.
        steps: its growths; shares are of the updates that the last size takes for `budget`, counted from 0.
        ends: budgets, counted from 0, at which it ends: with as many updates as the last size takes for one, or FLOPs.
    """
    name: str
    start: str
    steps: tuple[Step, ...]
    budget: int
    ends: tuple[tuple[int, str], ...]

    @property
    def last(self) -> str:
        """Return the size that it ends as."""
        return self.steps[-1].into


@dataclass(frozen=True)
class Front:
    """Sizes, budgets and ways of growing.

    Args:
        sizes: by name, from the smallest to the largest.
        budgets: FLOPs of training, ascending.
        ways: what grows.
        rates: peak rates that are tried for each size, at the budget `rates_at`, on other seeds.
        decay: share of all updates over which the rate falls to zero.
        held_out: so many examples of the validation part and of the test part at most.
    """
    sizes: Mapping[str, Size]
    budgets: tuple[float, ...]
    ways: tuple[Way, ...]
    rates: tuple[float, ...] = ()
    rates_at: int = 0
    decay: float = 0.2
    held_out: int = 512


@dataclass(frozen=True)
class Stretch:
    """A part of a way at one size: from `start` on, the rate, and the growth that began it (empty: none)."""
    size: str
    lr: float
    start: int = 0
    grow: str = ""


@dataclass(frozen=True)
class Leg:
    """Training up to a step. decay: over so many of the last updates the rate falls to zero."""
    stretches: tuple[Stretch, ...]
    until: int
    decay: int = 0

    @property
    def size(self) -> str:
        """Return the size of the network that it ends with."""
        return self.stretches[-1].size

    @property
    def key(self) -> str:
        """Return its name: sizes and rates, with the growths between them and when, and where it ends."""
        words = [f"{s.size} {s.lr:g}" if not s.grow else f"{s.start} {s.grow} {s.size} {s.lr:g}" for s in self.stretches]
        return " ".join([*words, str(self.until), *(["decayed"] if self.decay else [])])

    def stable(self, until: int) -> Leg:
        """Return the leg on this way that ends at a step with the rate still at its peak."""
        return Leg(tuple(s for s in self.stretches if s.start < until), until)

    @property
    def auto(self) -> bool:
        """Tell whether it grows by `auto`, which looks at the whole of a run: it is not cut."""
        return self.stretches[0].grow.startswith(AUTO)


@dataclass(frozen=True)
class Goal:
    """A decayed leg that is compared: where it stands (a size of the front, or a way), and its budget, counted from 0."""
    group: str
    name: str
    budget: int
    leg: Leg
    equal: str = "FLOPs"  # or updates: what it has in common with the largest size at this budget


def halved(largest: float, count: int) -> tuple[float, ...]:
    """Return budgets up to the largest, each twice the one before it."""
    return tuple(largest / 2 ** k for k in reversed(range(count)))


_FRONTS: dict[str, Mapping[str, Front]] = {}


def register_front(name: str, title: str, source: str, fronts: Mapping[str, Front], scales: Mapping[str, Scale]) -> None:
    """Make known a comparison with the front; `fronts` and `scales` are by the names of the scales."""
    _FRONTS[name] = fronts
    whole = {scale: replace(scales[scale], networks={n: s.network for n, s in front.sizes.items()}, checkpoints=True)
             for scale, front in fronts.items()}
    register(Experiment(name, title, source, (), whole, reference="", setup=FrontSetup))


@dataclass(frozen=True)
class FrontSetup(Setup):
    """The setup of a comparison with the front; its arms are legs."""

    @property
    def front(self) -> Front:
        """Return what is compared."""
        return _FRONTS[self.experiment][self.scale]

    @property
    def declared(self) -> Experiment:
        """Return the experiment with its legs as arms, in an order in which they can run."""
        return _declared(self)

    @property
    def preset(self) -> Scale:
        """Return the scale."""
        return super().declared.scale(self.scale)

    def load(self, seed: int) -> Data:
        """Return the data, the same whatever the seed, with as many held-out examples as are looked at."""
        data = super().load(0)
        return replace(data, validation=thinned(data.validation, self.front.held_out),
                       test=thinned(data.test, self.front.held_out))

    def goals(self) -> list[Goal]:
        """Return what is compared, the cheapest first."""
        return _goals(self)

    def updates(self, size: str, budget: float) -> int:
        """Return how many updates of a size these FLOPs are."""
        return max(1, round(budget / step_cost(self, size)))

    def decayed(self, stretches: tuple[Stretch, ...], until: int) -> Leg:
        """Return the leg that ends at a step, its rate at zero."""
        leg = Leg(stretches, until, max(1, round(self.front.decay * until)))
        if stretches[-1].start > until - leg.decay:
            raise ExperimentError(f"{leg.key}: it grows at update {stretches[-1].start}, and the rate falls from update "
                                  f"{until - leg.decay} on: grow earlier, or end later")
        return leg

    def config_of(self, leg: Leg, seed: int) -> TrainConfig:
        """Return the settings of a leg's training: those of the whole way up to its end."""
        schedule = {"schedule": "wsd", "decay": leg.decay / leg.until} if leg.decay else {"schedule": "constant"}
        grow = [s.grow if s.grow.startswith(AUTO) else f"step={s.start} {s.grow}" for s in leg.stretches if s.grow]
        return TrainConfig.of({"device": self.device, **self.preset.settings, **schedule, "lr": leg.stretches[-1].lr,
                               "steps": leg.until, "seed": seed, "grow": grow}, leg.key)

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what tells a leg from any other: not where the legs before it were cut."""
        data, leg = self.load(seed), legs(self)[arm.key]
        config = self.config_of(leg, self.seed_of(arm, seed)).to_json()
        for name in ("device", "eval_every", "checkpoint_every"):  # by which no result changes
            del config[name]
        return {"version": VERSION, "data": data.name, "validation": self.preset.validation, "limit": self.preset.limit,
                "held_out": self.front.held_out, "leg": leg.key, "decay": leg.decay, "config": config, "teacher": None,
                "networks": [self.preset.networks[s.size].on(data.input_shape)[0] for s in leg.stretches]}

    def seed_of(self, arm: Arm, seed: int) -> int:
        """Return the seed of training; rates are chosen on other seeds."""
        return seed + OTHER_SEEDS * (arm.group == RATES)

    def keeps_model(self, arm: Arm) -> bool:
        """Tell whether the network is kept beside the checkpoint: it is not."""
        return False

    def checkpoint(self, arm: Arm, seed: int) -> Path:
        """Return the file from which other legs go on."""
        return self.out / "legs" / f"{file_name(arm.key)}-{seed}.zip"

    def run(self, arm: Arm, seed: int, watchers: Sequence[Watcher] = ()) -> dict[str, Any]:
        """Run a leg, unless that has been done, and write what came out."""
        kept = finished(self, arm, seed)
        if kept is not None:
            return kept
        leg, data = legs(self)[arm.key], self.load(seed)
        config = self.config_of(leg, self.seed_of(arm, seed))
        found = {"identity": self.identity(arm, seed), "arm": arm.key, "seed": seed, "diverged": None}
        before = self.run(self.declared.arm(arm.teacher_key), seed) if arm.teacher else None
        if before and before["diverged"]:
            return self.keep({**found, "diverged": before["diverged"], "step": before["step"], "flops": before["flops"],
                              "parameters": before["parameters"], "rows": [], "test": {}, "seconds": 0.0}, arm, seed, None)
        trainer = self._trainer(arm, seed, leg, data, config, watchers)
        began = trainer.seconds
        try:
            trainer.fit()
        except Diverged as error:
            found["diverged"] = str(error)
        scores = {}
        if leg.decay and not found["diverged"]:
            loss, *metrics = trainer.evaluate(data.test)
            scores = {"loss": loss, **{m.name: value for m, value in zip(trainer.task.metrics, metrics)}}
        if not leg.decay and not found["diverged"]:
            self.checkpoint(arm, seed).parent.mkdir(parents=True, exist_ok=True)
            _copied(self.running(arm, seed) / training.CHECKPOINT_NAME, self.checkpoint(arm, seed))
        rows = [row for row in trainer.history.rows if row["step"] >= (before["step"] if before else 0)]
        growths = [{k: v for k, v in g.items() if k not in ("explain", "outcomes")} for g in trainer.history.growths]
        return self.keep({**found, "step": trainer.step, "flops": trainer.flops, "rows": rows, "growths": growths,
                          "parameters": training.count_parameters(trainer.model), "test": scores,
                          "seconds": round(trainer.seconds - began, 3)}, arm, seed, None)

    def _trainer(self, arm: Arm, seed: int, leg: Leg, data: Data, config: TrainConfig,
                 watchers: Sequence[Watcher]) -> Trainer:
        """Return the trainer of a leg, where it was interrupted or where the leg before it ended."""
        folder = self.running(arm, seed)
        own = folder / training.CHECKPOINT_NAME
        if not own.exists() and arm.teacher:
            folder.mkdir(parents=True, exist_ok=True)
            _copied(self.checkpoint(self.declared.arm(arm.teacher_key), seed), own)
        if own.exists():
            return Trainer.resume(folder, data, watchers=watchers, config=config)
        return Trainer(self.network(leg.size, config.seed), data, config, folder, watchers=watchers)

    def network(self, size: str, seed: int) -> nn.Module:
        """Return a network of a size before training."""
        name, options = model_options(self.preset.networks[size], self.load(0))
        torch.manual_seed(seed)
        return create_model(name, **options)


def _copied(source: Path, to: Path) -> None:
    with atomic_write(to) as file:
        file.write(source.read_bytes())


def thinned(examples: Examples, count: int) -> Examples:
    """Return at most so many of the examples, spread evenly over them."""
    if len(examples) <= count:
        return examples
    few = copy.copy(examples)
    few.rows = examples.rows[torch.linspace(0, len(examples) - 1, count).long()]
    return few


@functools.lru_cache(maxsize=256)
def step_cost(setup: FrontSetup, size: str) -> int:
    """Return the FLOPs of an update of a size."""
    data = setup.load(0)
    with torch.device("meta"):
        model = setup.network(size, 0)
    batch = min(TrainConfig.of(setup.preset.settings).batch_size, len(data.train))
    return step_flops(model, batch, data.input_shape, data.first(1).dtype)


@functools.lru_cache(maxsize=8)
def _goals(setup: FrontSetup) -> list[Goal]:
    front, goals = setup.front, []
    for name in front.sizes:
        for lr in front.rates:
            steps = setup.updates(name, front.budgets[front.rates_at])
            goals.append(Goal(RATES, name, front.rates_at, setup.decayed((Stretch(name, lr),), steps)))
    for i, budget in enumerate(front.budgets):
        for name, size in front.sizes.items():
            if size.budgets is None or size.budgets[0] <= i <= size.budgets[1]:
                leg = setup.decayed((Stretch(name, size.lr),), setup.updates(name, budget))
                goals.append(Goal(FRONT, name, i, leg, "updates"))
    return [*goals, *(goal for way in front.ways for goal in _ways(setup, way))]


def _ways(setup: FrontSetup, way: Way) -> list[Goal]:
    """Return the ends of a way."""
    sizes, length = setup.front.sizes, setup.updates(way.last, setup.front.budgets[way.budget])
    stretches = [Stretch(way.start, sizes[way.start].lr)]
    spent = 0.0
    for step in way.steps:
        if step.at is None:
            if len(way.steps) > 1 or any(equal == "FLOPs" for _, equal in way.ends):
                raise ExperimentError(f"{way.name}: auto is the only step of a way, and when it grows is not known "
                                      "before, so that it ends with equal updates")
            stretches = [replace(stretches[0], grow=f"{AUTO} {step.options}: {step.passes}")]
            continue
        start = round(step.at * length)
        spent += (start - stretches[-1].start) * step_cost(setup, stretches[-1].size)
        stretches.append(Stretch(step.into, step.lr or sizes[step.into].lr, start, f"{step.options}: {step.passes}".strip()))
    goals = []
    for budget, equal in way.ends:
        flops = setup.front.budgets[budget]
        until = setup.updates(way.last, flops)
        if equal == "FLOPs":
            until = stretches[-1].start + setup.updates(way.last, flops - spent)
        goals.append(Goal(GROWN, way.name, budget, setup.decayed(tuple(stretches), until), equal))
    return goals


def legs(setup: FrontSetup) -> Mapping[str, Leg]:
    """Return all legs by the keys of their arms, each behind those that it needs."""
    return _legs(setup)[0]


@functools.lru_cache(maxsize=8)
def _legs(setup: FrontSetup) -> tuple[dict[str, Leg], dict[str, str]]:
    """Return the legs, and by the key of each the key of the one that it goes on from."""
    found: dict[str, Leg] = {}
    before: dict[str, str] = {}
    for group in (RATES, FRONT):  # ways share the stable legs of the front
        wanted = [goal.leg for goal in setup.goals() if (goal.group == RATES) == (group == RATES)]
        stops = {leg.stable(step) for leg in wanted if not leg.auto for step in
                 (leg.until - leg.decay, *(s.start for s in leg.stretches[1:]))}

        def add(leg: Leg) -> str:
            """Add a leg behind those before it, and return its key."""
            key = f"{group}/{leg.key}"
            if key not in found:
                earlier = [s for s in stops if s != leg and s.until <= leg.until - leg.decay and s == leg.stable(s.until)]
                if earlier:
                    before[key] = add(max(earlier, key=lambda s: s.until))
                found[key] = leg
            return key

        for leg in wanted:
            add(leg)
    return found, before


@functools.lru_cache(maxsize=8)
def _declared(setup: FrontSetup) -> Experiment:
    plain = super(FrontSetup, setup).declared
    found, before = _legs(setup)
    arms = []
    for key, leg in found.items():
        group, _, name = key.partition("/")
        arms.append(Arm(name, leg.size, group=group, teacher=before.get(key, "").partition("/")[2]))
    return replace(plain, arms=tuple(arms), scales={setup.scale: plain.scale(setup.scale)})
