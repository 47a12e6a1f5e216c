"""Classification: one row of logits for each example, cross-entropy, the share of right answers."""
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks.registry import Metric, Sums, Task, register


@register
class Classification(Task):
    """Outputs [N, classes], labels [N]."""
    name = "classification"
    metrics = (Metric("accuracy", "accuracy", kind="percent", higher=True),)
    smooths = True

    def check(self, out: Tensor, inputs: Tensor, data: Any) -> None:
        """Raise TrainError unless there is one logit for each class."""
        if not isinstance(out, Tensor) or out.ndim != 2:
            raise TrainError("the model does not give one row of logits for each sample: train one that does")
        if out.shape[1] != data.classes:
            raise TrainError(f"the model gives {out.shape[1]} outputs and the data have {data.classes} classes: build it "
                             f"with {data.classes} outputs, or give data with {out.shape[1]} classes")

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(out, y, label_smoothing=label_smoothing)

    def sums(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the summed cross-entropy, and how many answers are right."""
        return {"loss": F.cross_entropy(out, y, reduction="sum"), "right": (out.argmax(1) == y).sum()}

    def scores(self, sums: Sums, part: Any) -> Sequence[float]:
        """Return the mean cross-entropy and the accuracy."""
        return [float(sums["loss"]) / len(part), float(sums["right"]) / len(part)]
