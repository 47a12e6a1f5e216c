"""Learning rates: the shape of a schedule, and its changes by growths.

The rate of a step is a pure function of the settings, the step and `Rates`, which is all that a checkpoint has to hold.
"""
import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fxgrow.experiments.train.config import TrainConfig


@dataclass
class Rates:
    """Changes to the schedule by the growths so far.

    scale, decay_scale: factors on the learning rate and on the weight decay (products of |theta_old| / |theta_new|).
    start: the step that the schedule counts from (restart); rewarm_from, rewarm_steps: a second warm-up.
    """
    scale: float = 1.0
    decay_scale: float = 1.0
    start: int = 0
    rewarm_from: int = 0
    rewarm_steps: int = 0


def rate(config: TrainConfig, rates: Rates, step: int, total: int) -> float:
    """Return the learning rate of step `step` (from 0) out of `total`."""
    lr = config.lr * rates.scale * shape(config, step - rates.start, total - rates.start)
    if step - rates.rewarm_from < rates.rewarm_steps:
        lr *= (step - rates.rewarm_from + 1) / rates.rewarm_steps
    return lr


def shape(config: TrainConfig, step: int, total: int) -> float:
    """Return the factor on the peak rate: (t + 1) / w in w steps of warm-up, then a curve over p = (t - w) / (T - w)."""
    warmup = warmup_steps(config, total)
    if step < warmup:
        return (step + 1) / warmup
    p = (step - warmup) / max(total - warmup, 1)
    return CURVES[config.schedule](config, p, step / max(total, 1))


def warmup_steps(config: TrainConfig, total: int) -> int:
    """Return how many steps the warm-up takes."""
    return min(total, int(config.warmup if config.warmup >= 1 else config.warmup * total))


def _to_final(config: TrainConfig, left: float) -> float:
    return config.final_lr + (1 - config.final_lr) * left


# what is left of the rate after a share `p` of the steps behind the warm-up, `whole` of all steps
CURVES: dict[str, Callable[[TrainConfig, float, float], float]] = {
    "constant": lambda config, p, whole: 1.0,
    "cosine": lambda config, p, whole: _to_final(config, 0.5 * (1 + math.cos(math.pi * p))),
    "linear": lambda config, p, whole: _to_final(config, 1 - p),
    "step": lambda config, p, whole: config.gamma ** bisect.bisect_right(sorted(config.milestones), whole),
    # 1 until the last `decay` share of all steps, then a line
    "wsd": lambda config, p, whole: _to_final(config, min(1.0, (1 - whole) / config.decay) if config.decay else 1.0),
}


def after_growth(config: TrainConfig, rates: Rates, options: Mapping[str, Any], step: int, total: int,
                 ratio: float) -> Rates:
    """Return the rates from a growth at `step` on; `ratio` is |theta_old| / |theta_new|, the numbers of parameters."""
    rule = options["lr"]
    warm = options["rewarm"] or warmup_steps(config, total)
    return Rates(scale=rates.scale * (ratio if rule == "ratio" else 1.0),
                 decay_scale=rates.decay_scale * (ratio if options["decay"] == "ratio" else 1.0),
                 start=step if rule == "restart" else rates.start,
                 rewarm_from=step if rule == "rewarm" else rates.rewarm_from,
                 rewarm_steps=warm if rule == "rewarm" else rates.rewarm_steps)
