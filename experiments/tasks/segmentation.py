"""Segmentation: a class for each pixel, by cross-entropy; mean intersection over union.

M. Everingham et al., "The Pascal Visual Object Classes Challenge", 2010, https://doi.org/10.1007/s11263-009-0275-4: of each
class, pixels that are it and are called it, over pixels that are it or are called it.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.experiments.settings import IGNORED, TrainError
from fxgrow.experiments.tasks.registry import Metric, Sums, Task, register


@register
class Segmentation(Task):
    """Outputs [N, classes, ...], labels [N, ...] of the same size."""
    name = "segmentation"
    metrics = (Metric("mean_iou", "mean intersection over union", kind="percent", higher=True),
               Metric("accuracy", "accuracy", kind="percent", higher=True))
    smooths = True

    def check(self, out: Tensor, inputs: Tensor, data: Any) -> None:
        """Raise TrainError unless there is a logit for each class at each pixel."""
        if not isinstance(out, Tensor) or out.ndim != inputs.ndim or out.shape[2:] != inputs.shape[2:]:
            given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise TrainError(f"the model gives {given} for inputs {tuple(inputs.shape)}: train one that gives logits at "
                             "each pixel, [batch, classes, height, width]")
        if out.shape[1] != data.classes:
            raise TrainError(f"the model gives {out.shape[1]} outputs a pixel and the data have {data.classes} classes: "
                             f"build it with {data.classes} outputs")

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of a pixel."""
        return F.cross_entropy(out, y, ignore_index=IGNORED, label_smoothing=label_smoothing)

    def sums(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the summed cross-entropy, and how many pixels of each class are called what. Shape [classes, classes]."""
        classes, kept = out.shape[1], y != IGNORED
        pairs = torch.bincount(y[kept] * classes + out.argmax(1)[kept], minlength=classes * classes)
        loss = F.cross_entropy(out, y, ignore_index=IGNORED, reduction="sum")
        return {"loss": loss, "pairs": pairs.view(classes, classes)}

    def scores(self, sums: Sums, part: Any) -> Sequence[float]:
        """Return the cross-entropy of a pixel, the mean over classes that are there or called, and the accuracy."""
        pairs = sums["pairs"].double()
        right, either = pairs.diagonal(), pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
        count = float(pairs.sum())
        if not count:
            raise TrainError("no pixel of the part that is evaluated counts: give masks that say a class of some")
        return [float(sums["loss"]) / count, float((right / either)[either > 0].mean()), float(right.sum()) / count]
