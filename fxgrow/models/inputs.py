"""Inputs on the command line: shapes and types as text, and tensors drawn for them."""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves, tree_map
from fxgrow.errors import ModelError

DTYPES = {name: getattr(torch, name) for name in
          ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")}
IMAGE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Input:
    """Shape of one input, and its type (None: that of the model's parameters)."""
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


def describe_input(value):
    """Return an example input, or only its shape if it is a constant tensor, on which too many networks agree."""
    constant = isinstance(value, Tensor) and value.is_floating_point() and bool((value == value.reshape(-1)[:1]).all())
    return Input(tuple(value.shape), value.dtype) if constant else value


def parse_inputs(text: str) -> list[Input]:
    """Read inputs from text: `1,3,224,224;1,10:int64` gives two; raise ModelError where it names no shape or type."""
    inputs = []
    for part in text.split(";"):
        sizes, _, dtype = part.partition(":")
        if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", sizes) or "0" in [s.strip() for s in sizes.split(",")]:
            raise ModelError(f"--input {text!r}: {part!r} is no shape; write sizes as 1,3,224,224, several inputs as "
                             "1,3,224,224;1,10:int64")
        if dtype and dtype.strip() not in DTYPES:
            raise ModelError(f"--input: {dtype.strip()!r} is no type; the types are {', '.join(DTYPES)}")
        inputs.append(Input(tuple(map(int, sizes.split(","))), DTYPES.get(dtype.strip())))
    return inputs


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the type of the first floating parameter, float32 where there is none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def draw_inputs(inputs: Sequence[Any], dtype: torch.dtype, seed: int = 0) -> tuple:
    """Draw normal numbers for each Input, zeros and ones where its type is no floating one; tensors stay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value):
        if not isinstance(value, Input):
            return value
        kind = value.dtype or dtype
        if kind.is_floating_point:
            return torch.randn(value.shape, generator=generator).to(kind)
        return torch.randint(2, value.shape, generator=generator).to(kind)

    return tuple(tree_map(draw, list(inputs)))


def describe(inputs: tuple) -> str:
    """Return shapes and types as --input takes them."""
    return ";".join(f"{','.join(map(str, t.shape))}:{str(t.dtype).removeprefix('torch.')}" for t in tree_leaves(inputs)
                    if isinstance(t, Tensor))
