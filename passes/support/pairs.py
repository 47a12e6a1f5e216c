"""Pairs of layers that cancel: repeated channels, read with opposite signs."""
import torch
from torch import Tensor

from fxgrow.graph import Call


def oppose(weight: Tensor) -> None:
    """Give the second half of the columns of a weight `[out, 2m, ...]` the opposite numbers of the first."""
    with torch.no_grad():
        half = weight.shape[1] // 2
        weight[:, half:] = -weight[:, :half]


def repeat(call: Call, weight: Tensor) -> None:
    """Give, in each group of a layer like the call's, the second half of the outputs the numbers of the first."""
    with torch.no_grad():
        axis = int(call.transposed)  # a transposed convolution has `[in, out / groups, ...]`
        groups = call.argument("groups") if call.rank and not call.transposed else 1
        rows = weight.unflatten(axis, (groups, 2, -1))
        rows.select(axis + 1, 1).copy_(rows.select(axis + 1, 0))
