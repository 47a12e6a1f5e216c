"""The cost of an experiment before it starts: runs, FLOPs, and the time, from a few steps of its networks."""
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fxgrow.experiments.data import Data
from fxgrow.experiments.papers.declaration import Arm
from fxgrow.experiments.papers.front import RATES, FrontSetup, legs, step_cost
from fxgrow.experiments.papers.running import Setup, finished, untrained
from fxgrow.experiments.train import PlannedCost, Trainer, TrainingState, Watcher, step_flops

PROBE_STEPS = 3  # and one before them, which is slower
Points = list[tuple[float, float, float]]  # FLOPs of a step, seconds that it takes, seconds of an evaluation


@dataclass
class ArmCost:
    """The cost of one arm for each seed: FLOPs of its own training, estimated seconds, and the seeds that are to be run."""
    arm: Arm
    flops: int
    seconds: float
    todo: list[int]


class _Times(Watcher):
    """The times at which steps ended."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def stepped(self, trainer: TrainingState, loss: float) -> None:
        self.at.append(time.perf_counter())


def costs(setup: Setup, seeds: Sequence[int]) -> list[ArmCost]:
    """Return the cost of each arm, in the order of the experiment.

    A step takes a + b * FLOPs seconds; a and b come from the cheapest and the costliest form in which arms start with a
    network, each trained for a few steps on the real data. Growths are tried out, so one that cannot be done is found here.
    """
    if isinstance(setup, FrontSetup):
        return _of_legs(setup, seeds)
    data, arms = setup.load(seeds[0]), setup.declared.arms
    trainers = {arm.key: Trainer(untrained(setup, arm.key, seeds[0]), data, setup.config(arm, data, seeds[0]))
                for arm in arms}
    todo = {arm.key: [seed for seed in seeds if finished(setup, arm, seed) is None] for arm in arms}
    points: dict[str, Points] = {}
    for network in {arm.network: None for arm in arms if todo[arm.key]}:
        like = [trainers[arm.key] for arm in arms if arm.network == network]
        starts = {step_flops(t.model, t.batch, data.input_shape): t for t in like}
        points[network] = [_measured(starts[flops], data) for flops in sorted({min(starts), max(starts)})]
    arm_costs = []
    for arm in arms:
        planned = trainers[arm.key].plan()
        seconds = _seconds(trainers[arm.key], planned, points[arm.network]) if todo[arm.key] else 0.0
        arm_costs.append(ArmCost(arm, planned.flops, seconds, todo[arm.key]))
    return arm_costs


def _of_legs(setup: FrontSetup, seeds: Sequence[int]) -> list[ArmCost]:
    """Return the cost of each leg without what is before it; rates are chosen on the first seed alone."""
    data, costs, points = setup.load(seeds[0]), [], []
    todo = {arm.key: [seed for seed in (seeds[:1] if arm.group == RATES else seeds) if finished(setup, arm, seed) is None]
            for arm in setup.declared.arms}
    found = legs(setup)
    for size in (min, max):
        plain = [key for key, leg in found.items() if len(leg.stretches) == 1]
        key = size(plain, key=lambda key: step_cost(setup, found[key].size))
        if any(todo.values()):
            like = Trainer(setup.network(found[key].size, seeds[0]), data, setup.config_of(found[key], seeds[0]))
            points.append(_measured(like, data))
    for arm in setup.declared.arms:
        leg, start = found[arm.key], found[f"{arm.group}/{arm.teacher}"].until if arm.teacher else 0
        step = step_cost(setup, leg.size)
        seconds = (leg.until - start) * _line(points, 1, step) + 2 * _line(points, 2, step) if todo[arm.key] else 0.0
        costs.append(ArmCost(arm, (leg.until - start) * step, seconds, todo[arm.key]))
    return costs


def _seconds(trainer: Trainer, planned: PlannedCost, points: Points) -> float:
    evaluations = trainer.total / (trainer.config.eval_every or trainer.per_epoch) + 1
    training = sum((s.end - s.start) * _line(points, 1, s.flops) for s in planned.segments)
    return training + evaluations * _line(points, 2, planned.segments[-1].flops)


def _measured(like: Trainer, data: Data) -> tuple[float, float, float]:
    """Measure the FLOPs of a step, and the seconds that a step and an evaluation take."""
    config = replace(like.config, epochs=None, steps=PROBE_STEPS + 1, grow=(), eval_every=0, patience=0)
    times = _Times()
    trainer = Trainer(like.model, data, config, watchers=[times])
    trainer.fit()
    began = time.perf_counter()
    if len(data.validation):
        trainer.evaluate(data.validation)
    evaluation = time.perf_counter() - began
    step = statistics.median(b - a for a, b in zip(times.at, times.at[1:]))
    return trainer.flops / trainer.step, step, evaluation


def _line(points: Points, column: int, flops: float) -> float:
    """Return the time at `flops` on the line through the points, never less than the smallest that was measured."""
    if len(points) == 1:
        return points[0][column]
    (x0, *_), (x1, *_) = points
    y0, y1 = points[0][column], points[1][column]
    return max(min(y0, y1), y0 + (y1 - y0) * (flops - x0) / (x1 - x0))
