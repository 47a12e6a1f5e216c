"""Equalise: new numbers rescaled so that the first gradient is as large on them as on the old ones.

Of a layer between grown axes, three kinds of numbers get a gradient: old ones; *columns* [old row, new column], which see
what new positions hold; and *rows* [new row, old column], which feed them. With r2r's pairs, the gradient of a column is
proportional to the contents of the new positions, and that of a row to the columns that read it (docs/widening.md):
multiplying all new columns by a multiplies the gradients of rows by a, and multiplying all that produces new contents (rows,
their biases, their norms' weights) by b multiplies those of columns by b. So two numbers, a and b, set the geometric means
over all layers of both ratios to one, exactly so where activations are ReLUs. Pairs stay pairs, and zeros zeros: what was
exact still is.
"""
import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.errors import GrowthError
from fxgrow.graph import Captured
from fxgrow.passes.support import seed_of
from fxgrow.record import GrowthRecord, Outcome, broadcast_along, keep_growth, record_in


@dataclass
class Equalise(PassBase):
    """Rescales the new numbers of a widening so that the first gradient varies as much on them as on the old numbers.

    Stands behind `widen` by r2r. The gradient is that of the log-likelihood of labels drawn from what the network itself
    says of standard normal inputs (which normalised data are like), so no data are needed. New layers (of `deepen`) are left
    as they are.

    Args:
        seed: of inputs and labels; None takes one from torch's global generator.
    """
    seed: int | None = None

    def requires(self, graph_module: GraphModule) -> None:
        """Raise a GrowthError unless the network has new numbers that can be rescaled."""
        record = record_in(graph_module)
        if record is None or not record.parameters:
            raise GrowthError("equalise rescales new numbers, and this network has none: put it behind widen")
        if any(p.scale != 1.0 or any(s is not None for s in p.shares) for p in record.parameters.values()):
            raise GrowthError("equalise cannot rescale copies and means of old numbers, which net2net and norm streams need "
                              "as they are: put it behind widen with method r2r")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Rescale new rows and new columns, each by one factor."""
        record, seed = record_in(graph_module) or GrowthRecord(), seed_of(self.seed)
        grown = copy.deepcopy(graph_module)
        first = ratios(grown, record, seed)
        scale(grown, record, rows=1 / first[1], columns=1 / first[0])
        last = ratios(grown, record, seed)
        changes = "; ".join(f"{what} {a:.3g} -> {b:.3g}" for what, a, b in zip(("rows", "columns"), first, last))
        step = {"pass": "equalise", "where": [], "seed": seed}
        why = f"pairs and zeros are multiplied as wholes; first gradient, new / old: {changes}"
        keep_growth(graph_module, grown, GrowthRecord(lineage=[step]), [Outcome("new numbers", 0, 0, [], "rescaled", why)])
        return PassResult(grown, True)


def parts(record: GrowthRecord, name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each number of a parameter, whether its row (axis 0) and its column (axis 1) is new."""
    entry = record.entry(name, tensor.ndim)
    masks = [torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device) for _ in range(2)]
    for axis, mask in zip(range(min(tensor.ndim, 2)), masks):
        fresh = entry.fresh[axis]
        if fresh is not None and entry.source is not None:
            mask |= broadcast_along(fresh.to(tensor.device), axis, tensor.ndim)
    return masks[0], masks[1]


def ratios(model: GraphModule, record: GrowthRecord, seed: int) -> tuple[float, float]:
    """Return the gradients (rms) of new rows and columns over those of old numbers: geometric means over weights."""
    gradients = _gradients(model, seed)
    logs: tuple[list[float], list[float]] = ([], [])
    for name, gradient in gradients.items():
        if gradient.ndim < 2:
            continue
        row, column = parts(record, name, gradient)
        old = _rms(gradient[~row & ~column])
        for found, mask in zip(logs, (row & ~column, column & ~row)):
            new = _rms(gradient[mask])
            if old > 0 and new > 0:
                found.append(math.log(new / old))
    rows, columns = (math.exp(sum(found) / len(found)) if found else 1.0 for found in logs)
    return rows, columns


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def _gradients(model: GraphModule, seed: int) -> dict[str, Tensor]:
    """Return those of the mean negative log-likelihood of drawn labels, in train mode; the model is left as it was."""
    probe, generator = copy.deepcopy(model).train(), torch.Generator().manual_seed(seed)
    examples = Captured(model).inputs  # without numbers
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in examples):
        raise GrowthError("equalise needs a network whose inputs are numbers, such as pixels")
    device = next(probe.parameters()).device
    out = probe(*(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(device) for x in examples))
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise GrowthError("equalise needs a network that gives one row of logits for each sample")
    labels = torch.multinomial(out.detach().float().softmax(1).cpu(), 1, generator=generator)[:, 0]
    F.cross_entropy(out, labels.to(device)).backward()
    return {name: p.grad for name, p in probe.named_parameters() if p.grad is not None}


@torch.no_grad()
def scale(model: nn.Module, record: GrowthRecord, *, rows: float, columns: float) -> None:
    """Multiply, in place, the numbers of new rows (biases and norms' weights included) and those of new columns.

    Those between new positions and new ones stay, so that either factor reaches a gradient once.
    """
    for name, p in model.named_parameters():
        row, column = parts(record, name, p)
        p.mul_(torch.where(row & ~column, rows, 1.0) * torch.where(column & ~row, columns, 1.0))
