"""The structure of a grown model as one tensor, which any checkpoint can hold, and the model that it makes again.

What lives here: structure without numbers. What does not: numbers, which the state_dict of the model has.
"""
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.archive import load, save
from fxgrow.graph import clone_structure

NAME = "structure.pt"


def pack(model: nn.Module, example_inputs: Any) -> Tensor:
    """Return the structure of a captured or grown model as bytes, a tensor of uint8; ArchiveError if it is no data.

    All numbers that a state_dict holds are left out.
    """
    held = {id(t) for t in model.state_dict(keep_vars=True).values()}
    empty = clone_structure(model, lambda t: _blank(t) if id(t) in held else t)
    for part in empty.modules():
        if isinstance(part, GraphModule):
            part.recompile()
    with tempfile.TemporaryDirectory() as folder:
        save(empty, Path(folder) / NAME, example_inputs=example_inputs)
        return torch.frombuffer(bytearray((Path(folder) / NAME).read_bytes()), dtype=torch.uint8)


def unpack(structure: Tensor, into: nn.Module) -> nn.Module:
    """Return the model that was packed, its numbers NaN (whole ones zero) until a state_dict is loaded.

    into: the small model, for what of it is code of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(bytes(structure.cpu().numpy()))
        return load(Path(folder) / NAME, into=into)


def _blank(tensor: Tensor) -> Tensor:
    """Return a tensor of one number alone, which an archive holds in a few bytes."""
    return torch.full_like(tensor, math.nan if tensor.is_floating_point() else 0, device="cpu", requires_grad=False)
