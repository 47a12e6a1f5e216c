"""What the last growth does to the steps behind it: old numbers that stand still, rates and decay of their own."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from fxgrow.record import GrowthRecord, scale_updates


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

    def renew(self, last: LastGrowth | None, step: int, model: nn.Module, *optimizers: Optimizer) -> None:
        """Put in force what holds at `step`, and nothing else."""
        self.lift()
        if last is None:
            return
        self.frozen = step < last.thaws
        if self.frozen:
            self._handles.append(last.record.freeze_old(model))
        for optimizer in optimizers:
            if last.options["lr"] == "parts":
                self._handles.append(scale_updates(optimizer, model, last.scales(model)))
            if last.options["decay"] == "parts":
                self._handles.append(scale_decay(optimizer, model, last.scales(model, "decay_")))

    def __bool__(self) -> bool:
        """Tell whether there are any at this step."""
        return bool(self._handles)

    def lift(self) -> None:
        """Free the model and the optimizer of all effects."""
        self.frozen = False
        while self._handles:
            self._handles.pop().remove()
