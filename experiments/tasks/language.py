"""Language modelling: at each position, logits of the token that comes next.

bits_per_byte is the cross-entropy of the whole text in bits, over its bytes: it compares networks whatever their tokens.
perplexity, exp(cross-entropy), is that of a token.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks.registry import Metric, Sums, Task, register


@register
class Language(Task):
    """Outputs [N, length, vocabulary], targets [N, length]: the inputs moved on by one."""
    name = "language"
    metrics = (Metric("bits_per_byte", "cross-entropy", "bits per byte"), Metric("perplexity", "perplexity of a token"))
    smooths = True

    def check(self, out: Tensor, inputs: Tensor, data: Any) -> None:
        """Raise TrainError unless there is a logit for each token of the vocabulary at each position."""
        if not isinstance(out, Tensor) or out.ndim != 3 or out.shape[:2] != inputs.shape:
            raise TrainError("the model does not give logits at each position, [batch, length, vocabulary]: train one that "
                             "does, zoo:gpt say")
        if out.shape[2] < data.classes:
            raise TrainError(f"the model gives logits of {out.shape[2]} tokens and the data have {data.classes}: build it "
                             f"with {data.classes}")

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of a token, in nats."""
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), label_smoothing=label_smoothing)

    def sums(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the summed cross-entropy, and how many tokens there are."""
        return {"loss": F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum"), "tokens": torch.tensor(y.numel())}

    def scores(self, sums: Sums, part: Any) -> Sequence[float]:
        """Return the cross-entropy of a token, bits per byte and the perplexity; a part may say `bytes_per_token`."""
        nats = float(sums["loss"]) / float(sums["tokens"])
        return [nats, nats / math.log(2) / getattr(part, "bytes_per_token", 1.0), math.exp(min(nats, 700.0))]
