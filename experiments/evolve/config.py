"""The settings of a search: a dataclass, from TOML and from options."""
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fxgrow.common import brief
from fxgrow.experiments.evolve.mutation import Limits, mutations_of
from fxgrow.experiments.evolve.selection import SELECTIONS
from fxgrow.experiments.settings import Settings, TrainError, checked
from fxgrow.experiments.train import TrainConfig

# Settings with which a search ends in minutes on a CPU
CPU_PRESET = {"first_steps": 300, "steps": 300, "rounds": 4, "keep": 2, "children": 4, "final_steps": 150}
LEAST = {"first_steps": 1, "rounds": 1, "keep": 1, "children": 1, "steps": 1, "final_steps": 0, "sample": 1, "candidates": 1,
         "limit": 1, "parameters": 1, "rungs": 1, "statistics": 0}
NAMES = {"model": "a word, zoo:NAME or package.module:factory say; a network itself goes into search(..., model=network)",
         "data": "a word, the name under which they are registered; tensors go into search(..., data=(x, y))",
         "selection": f"one of {', '.join(SELECTIONS)}; a function goes into search(..., selection=function)"}


@dataclass
class SearchConfig(Settings):
    """Settings of a search: how a population evolves.

    The defaults are those of the report "Deep neuroevolution with shared weights".

    Args:
        model: the base network, as on the command line. data: the data set. limit: at most so many samples of each part.
        seed: of everything.
        first_steps: steps that the base network is trained for (N_i).
        rounds: how often the population is selected, mutated and trained.
        keep: how many are selected (K). children: how many are made of them (M).
        steps: of a round, shared out evenly among its members (N_j).
        rungs: parts of a round that cost the same; after each but the last the worse half of its members is dropped, and
            the others get the steps of the next (successive halving; 1: none is dropped).
        final_steps: the best network is trained for so many more.
        weights: inherit (each child has numbers of its own, and trains alone), or share (its old numbers are its parent's,
            and all train together; passes that share columns out, as net2net, are left out then).
        momentum: anew in each training, or inherit: an optimizer's moments go on, and grow with the network.
        anneal: last (one schedule over the search: the rate warms up in the base network's training, stays at its peak in
            all rounds, and falls as `schedule` of [train] says in the last training alone), or each (every training has
            the whole schedule to itself; hill always does, as in NASH).
        average: the networks of a round have the mean of their weights over this last share of its steps, which tells at a
            constant rate what they would be worth if it fell (Izmailov et al., 2018, arXiv:1803.05407; 0: as they ended).
        statistics: batches by which norms estimate their running statistics anew before an evaluation (0: as trained).
        init: of the numbers that a child's pass leaves free: drawn, or given by a hypernetwork that has learned from the
            members so far.
        selection: how the ones to keep are chosen: best, aging, nsga2, diverse, hill or random.
        mode: rounds (all of a round end before the next begins, so that one seed gives one result), or steady (a new child
            whenever a worker is free; `rounds * children` in all).
        growth: a child has at most so many times its parent's parameters, and FLOPs.
        parameters, flops, latency: what a network may have at most: numbers, FLOPs of a forward pass, milliseconds.
        total_flops: the search ends when so many FLOPs are spent in training.
        sample: aging: of how many a parent is the best (tournament).
        mutations: tables with `pass`, and maybe `weight`, `places` and options of the pass, a list being one to draw from;
            none: the default list.
        adapt: multiply the weight of each mutation by the odds that its children gain more per FLOP than others of a round.
        predictor: forest, gp or embedding: children are the most promising of `candidates` times as many, by what a random
            forest, a Gaussian process, or one over a learned embedding of graphs has learned from the evaluations so far
            (expected improvement); none: all that are made.
        duplicates: how far back networks of the same structure are recognised: round, run, or keep (not at all).
        train: settings of the trainer, as for `fxgrow train`.
        given: which of model, data, fitness and selection are objects, given to `search` (it fills this in).
    """
    command = "evolve"
    model: str = "zoo:residual3"
    data: str = "digits"
    root: str | None = None
    limit: int | None = None
    seed: int = 0
    first_steps: int = 5000
    rounds: int = 15
    keep: int = 3
    children: int = 10
    steps: int = 5000
    final_steps: int = 5000
    rungs: int = 1
    weights: Literal["inherit", "share"] = "inherit"
    momentum: Literal["anew", "inherit"] = "anew"
    anneal: Literal["last", "each"] = "last"
    average: float = 0.0
    statistics: int = 0
    init: Literal["drawn", "hypernetwork"] = "drawn"
    selection: str = "best"
    mode: Literal["rounds", "steady"] = "rounds"
    growth: float = 2.0
    parameters: int | None = None
    flops: float | None = None
    latency: float | None = None
    total_flops: float | None = None
    sample: int = 3
    adapt: bool = False
    predictor: Literal["none", "forest", "gp", "embedding"] = "none"
    candidates: int = 4
    duplicates: Literal["round", "run", "keep"] = "run"
    mutations: Sequence[Mapping[str, Any]] = ()
    train: Mapping[str, Any] = field(default_factory=dict)
    given: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, form in NAMES.items():
            if not isinstance(getattr(self, name), str):
                raise TrainError(f"{name} is {brief(getattr(self, name))}; it must be {form}")
        for name, hint in typing.get_type_hints(type(self)).items():
            if name not in ("mutations", "train"):
                setattr(self, name, checked(name, getattr(self, name), hint))
        if self.selection not in SELECTIONS:
            raise TrainError(f"selection is {brief(self.selection)}; it must be one of {', '.join(SELECTIONS)}")
        self._check_numbers()
        self._check_tables()
        if self.mode == "steady" and self.weights == "share":
            raise TrainError("mode steady trains each child alone: use weights inherit, or mode rounds")
        if self.mode == "steady" and self.rungs > 1:
            raise TrainError("mode steady has no rounds to drop networks in: use rungs 1, or mode rounds")
        if self.momentum == "inherit" and self.weights == "share":
            raise TrainError("networks that share weights have one optimizer, which begins anew with each round: use "
                             "momentum anew, or weights inherit")
        if self.average and self.weights == "share":
            raise TrainError("networks that share weights move them at each other's steps, so that there is no mean of one's"
                             " own: use average 0, or weights inherit")
        self.mutations = [dict(table) for table in self.mutations]  # as they come back from the store
        mutations_of(self.mutations, self.weights)
        self.trainer(1, 0)

    def _check_numbers(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise TrainError(f"{name} is {value}; it must be at least {least}")
        for name in ("flops", "latency", "total_flops"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise TrainError(f"{name} is {value:g}; it must be above 0")
        if not 0 <= self.average <= 1:
            raise TrainError(f"average is {self.average:g}; it must be a share of the steps, from 0 to 1")
        if self.growth <= 1:
            raise TrainError(f"growth is {self.growth}; it must be above 1, as children are larger than their parents")

    def _check_tables(self) -> None:
        if not isinstance(self.train, Mapping):
            raise TrainError(f"train is {brief(self.train)}; it must be a table of the trainer's settings, [train]")
        if isinstance(self.mutations, (str, Mapping)) or not all(isinstance(table, Mapping) for table in self.mutations):
            raise TrainError(f"mutations is {brief(self.mutations)}; it must be tables, each under [[mutations]]; passes "
                             "and Mutations go into search(..., mutations=[...])")
        if {"steps", "epochs", "grow"} & set(self.train):
            raise TrainError("[train] takes no steps, epochs or grow here: steps and first_steps say how long")

    @property
    def limits(self) -> Limits:
        """Return the bounds on a child."""
        return Limits(self.growth, self.parameters, self.flops, self.latency, self.weights == "share")

    @property
    def last_round(self) -> int:
        """Return the round in which the best network is trained on; in mode steady each child is a round, else each rung."""
        return self.rounds * (self.children if self.mode == "steady" else self.rungs) + 1

    @property
    def rung_sizes(self) -> list[int]:
        """Return how many networks are trained in each rung of a round, if none fails."""
        sizes = [self.keep + self.children]
        while len(sizes) < self.rungs:
            sizes.append(self.surviving(sizes[-1]))
        return sizes

    def surviving(self, count: int) -> int:
        """Return how many of so many networks the next rung trains on: half of them, but not fewer than are kept."""
        return min(count, max(self.keep, -(-count // 2)))

    def trainer(self, steps: int, seed: int, round: int = 1) -> TrainConfig:
        """Return the settings of one training in a round."""
        hill = self.selection == "hill"  # whose rate restarts, as in NASH
        each = hill or self.anneal == "each"
        settings = {"schedule": "constant" if each and not hill else "cosine", **self.train}
        if not each:
            settings |= {"warmup": 0.0} if round else {}
            settings |= {"schedule": "constant"} if round != self.last_round else {}
        return TrainConfig.of({**settings, "steps": steps, "seed": seed, "eval_every": steps}, "[train]")
