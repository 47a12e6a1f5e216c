"""Regression: numbers, by their mean squared error.

Where the data say how targets were scaled (`target_scale`), rmse is in the units that they had before.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks.registry import Metric, Sums, Task, register


@register
class Regression(Task):
    """Outputs and targets [N, numbers], either without the axis where there is one number."""
    name = "regression"
    metrics = (Metric("rmse", "root mean squared error"), Metric("r2", "R\N{SUPERSCRIPT TWO}", higher=True))

    def check(self, out: Tensor, inputs: Tensor, data: Any) -> None:
        """Raise TrainError unless there is an output for each target."""
        if not isinstance(out, Tensor) or out.numel() != len(inputs) * data.classes or out.ndim > 2:
            given = tuple(out.shape[1:]) if isinstance(out, Tensor) else type(out).__name__
            raise TrainError(f"the model gives {given} for each sample and the data have {data.classes} numbers to predict: "
                             f"build it with {data.classes} outputs")

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(out.reshape(y.shape).float(), y)

    def sums(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return squared errors, targets and their squares, each summed over examples. Shape [numbers]."""
        y = y.reshape(len(y), -1)
        return {"errors": (out.reshape(y.shape) - y).square().sum(0), "y": y.sum(0), "squares": y.square().sum(0)}

    def scores(self, sums: Sums, part: Any) -> Sequence[float]:
        """Return the mean squared error, its root in units of the targets, and the share of variance explained."""
        errors, squares = sums["errors"] / len(part), sums["squares"] / len(part)
        around = squares - (sums["y"] / len(part)).square()
        explained = torch.where(around > 1e-6 * squares, 1 - errors / around, 0.0)  # of one example there is no variance
        scale = torch.as_tensor(getattr(part, "target_scale", 1.0), dtype=torch.float64)
        rmse = (errors * scale.square().to(errors)).mean().sqrt()
        return [float(errors.mean()), float(rmse), float(explained.mean())]
