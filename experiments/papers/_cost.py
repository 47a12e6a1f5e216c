"""What an experiment will cost before it starts: runs, FLOPs, and the time, from a few steps of its networks."""
from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import GraphModule

from fxgrow.experiments.data import Data
from fxgrow.experiments.papers._declare import Arm
from fxgrow.experiments.papers._run import Setup, finished, untrained
from fxgrow.experiments.trainer import Trainer
from fxgrow.experiments.watch import Watcher

PROBE_STEPS = 4  # and one before them, which is slower


@dataclass
class Cost:
    """What one arm costs, for each seed.

    flops: of its own training, evaluations aside. seconds: estimated. todo: seeds that have not been run.
    """
    arm: Arm
    flops: int
    seconds: float
    todo: list[int]


class _Times(Watcher):
    """When each step ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def stepped(self, trainer: Trainer, loss: float) -> None:
        self.at.append(time.perf_counter())


def costs(setup: Setup, seeds: Sequence[int]) -> list[Cost]:
    """One for each arm, in the order of the experiment.

    A step takes a + b * FLOPs seconds; a and b come from the cheapest and the costliest network that an arm starts with,
    each trained for a few steps on the real data. Growths are tried out, so one that cannot be done is found here.

    Raises:
        FxgrowError: an arm cannot be set up.
    """
    trainers: list[Trainer] = []
    data = setup.load(seeds[0])
    for arm in setup.declared.arms:
        start = untrained(setup, arm.key, seeds[0])
        trainers.append(Trainer(start, data, setup.config(arm, data, seeds[0])))
    plans = [trainer.plan() for trainer in trainers]
    first = [plan.segments[0].flops for plan in plans]
    low, high = (trainers[first.index(extreme(first))] for extreme in (min, max))
    points = [_step_and_evaluation(t.model, data, t) for t in ((low,) if low is high else (low, high))]

    def seconds(trainer: Trainer, plan: Any) -> float:
        evaluations = trainer.total / (trainer.config.eval_every or trainer.per_epoch) + 1
        return sum((s.end - s.start) * _line(points, 1, s.flops) for s in plan.segments) + evaluations * _line(
            points, 2, plan.segments[-1].flops)

    return [Cost(arm, plan.flops, seconds(trainer, plan), [s for s in seeds if finished(setup, arm, s) is None])
            for arm, plan, trainer in zip(setup.declared.arms, plans, trainers)]


def _step_and_evaluation(model: GraphModule, data: Data, like: Trainer) -> tuple[float, float, float]:
    """FLOPs of a step, and the seconds that a step and an evaluation take."""
    config = replace(like.config, epochs=None, steps=PROBE_STEPS + 1, grow=(), eval_every=0, patience=0)
    times = _Times()
    trainer = Trainer(model, data, config, watchers=[times])
    trainer.fit()
    began = time.perf_counter()
    if len(data.validation):
        trainer.evaluate(data.validation)
    evaluation = time.perf_counter() - began
    step = statistics.median(b - a for a, b in zip(times.at, times.at[1:]))
    return trainer.flops / trainer.step, step, evaluation


def _line(points: list[tuple[float, float, float]], column: int, flops: float) -> float:
    """The time at `flops` on the line through the points; never less than the smallest that was measured."""
    if len(points) == 1 or points[0][0] == points[1][0]:
        return points[0][column]
    (x0, *_), (x1, *_) = points
    y0, y1 = points[0][column], points[1][column]
    return max(min(y0, y1), y0 + (y1 - y0) * (flops - x0) / (x1 - x0))
