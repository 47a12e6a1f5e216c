"""Learning rates: the shape of a schedule.

The rate of a step is a pure function of the settings, the step and what growths did (`Rates` of fxgrow.loops).
"""
import bisect
import math
from collections.abc import Callable

from fxgrow.experiments.train.config import TrainConfig
from fxgrow.loops import Rates


def rate(config: TrainConfig, rates: Rates, step: int, total: int) -> float:
    """Return the learning rate of step `step` (from 0) out of `total`."""
    return config.lr * rates.scale * shape(config, step - rates.start, total - rates.start) * rates.warmth(step)


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
