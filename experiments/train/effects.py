"""Effects of the last growth on the steps behind it: frozen old numbers, rates and weight decay of parts."""
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

import fxgrow
from fxgrow.experiments.train.rates import scale_decay
from fxgrow.record import GrowthRecord


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

    def factors(self, prefix: str = "") -> dict[str, float]:
        """Return the factors on the rate (or, by prefix, the decay) of new and of old numbers."""
        factors = {part: self.options[prefix + part] for part in ("new", "old")}
        return {part: 1.0 if factor is None else factor for part, factor in factors.items()}


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
            scales = last.record.lr_scales(model, **last.factors())
            self._handles.append(fxgrow.scale_updates(optimizer, model, scales))
        if last.options["decay"] == "parts":
            scales = last.record.lr_scales(model, **last.factors("decay_"))
            self._handles.append(scale_decay(optimizer, model, scales))

    def lift(self) -> None:
        """Free the model and the optimizer of all effects."""
        self.frozen = False
        while self._handles:
            self._handles.pop().remove()
