"""Learning rates: the shape of a schedule, its changes by growths, and what the last growth does to the steps behind it.

The rate of a step is a pure function of the settings, the step and `Rates`, which is all that a checkpoint has to hold.
"""
import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

import fxgrow
from fxgrow.experiments.train.config import TrainConfig
from fxgrow.record import GrowthRecord


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


def scale_decay(optimizer: Optimizer, model: nn.Module, scales: Mapping[str, float | Tensor]) -> RemovableHandle:
    """Scale the weight decay of single numbers by s: wd * s * w in SGD's gradient, 1 - lr * wd * s on AdamW's weight."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = {id(parameters[name]): scale for name, scale in scales.items()}

    @torch.no_grad()
    def adjust(optimizer: Optimizer, *_) -> None:
        for group in optimizer.param_groups:
            lr, wd = group["lr"], group["weight_decay"]
            for p in (p for p in group["params"] if p.grad is not None and id(p) in chosen):
                scale = chosen[id(p)]
                scale = scale.to(p.device) if isinstance(scale, Tensor) else scale
                if isinstance(optimizer, torch.optim.SGD):
                    p.grad.add_(p * (wd * (scale - 1)))
                else:
                    p.mul_((1 - lr * wd * scale) / (1 - lr * wd))

    return optimizer.register_step_pre_hook(adjust)


@dataclass
class LastGrowth:
    """The record of the last growth alone, the options of its entry, and the step before which it was done."""
    record: GrowthRecord
    options: dict[str, Any]
    step: int

    @property
    def thaws(self) -> int:
        """Return the step from which old numbers move again."""
        return self.step + self.options["freeze"]

    def scales(self, model: nn.Module, prefix: str = "") -> dict[str, float | Tensor]:
        """Return the factors on the rate (or, by prefix, the decay) of the new and the old numbers of a model."""
        factors = {part: self.options[prefix + part] for part in ("new", "old")}
        return self.record.lr_scales(model, **{part: 1.0 if f is None else f for part, f in factors.items()})


class Effects:
    """Hooks on a model and its optimizer that follow from the last growth and the step."""

    def __init__(self) -> None:
        self.frozen = False
        self._handles: list[Any] = []

    def renew(self, last: LastGrowth | None, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Put in force what holds at `step`, and nothing else."""
        self.lift()
        if last is None:
            return
        self.frozen = step < last.thaws
        if self.frozen:
            self._handles.append(last.record.freeze_old(model))
        if last.options["lr"] == "parts":
            self._handles.append(fxgrow.scale_updates(optimizer, model, last.scales(model)))
        if last.options["decay"] == "parts":
            self._handles.append(scale_decay(optimizer, model, last.scales(model, "decay_")))

    def lift(self) -> None:
        """Free the model and the optimizer of all effects."""
        self.frozen = False
        while self._handles:
            self._handles.pop().remove()
