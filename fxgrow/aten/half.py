"""Floating types: what those of 16 bits hold is computed in float32, and rounded once."""
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map  # noqa: PLC2701

HALF = (torch.bfloat16, torch.float16)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 where it has 16 bits."""
    return tensor.float() if tensor.dtype in HALF else tensor


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Return values of any structure with floating tensors of a type."""
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def wide_values(values: Any) -> Any:
    """Return values of any structure with tensors of 16 bits in float32."""
    return tree_map(lambda v: wide(v) if isinstance(v, Tensor) else v, values)
