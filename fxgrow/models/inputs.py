"""Inputs on the command line: shapes and types as text, and tensors drawn for them."""
from __future__ import annotations

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
    """The shape of one input, and its type (None: that of the model's parameters)."""
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


def describe_input(value):
    """An example input, or only its shape if it is a constant tensor, on which too many networks agree."""
    constant = isinstance(value, Tensor) and value.is_floating_point() and bool((value == value.reshape(-1)[:1]).all())
    return Input(tuple(value.shape), value.dtype) if constant else value


def parse_inputs(text: str) -> list[Input]:
    """`1,3,224,224;1,10:int64` -> two inputs."""
    inputs = []
    for part in text.split(";"):
        sizes, _, dtype = part.partition(":")
        if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", sizes) or "0" in [s.strip() for s in sizes.split(",")]:
            raise ModelError(f"--input {text!r}: {part!r} is no shape; write sizes as 1,3,224,224, several inputs as "
                             "1,3,224,224;1,10:int64")
        inputs.append(Input(tuple(int(s) for s in sizes.split(",")), _dtype(dtype.strip()) if dtype else None))
    return inputs


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"--input: {name!r} is no type; the types are {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of the first floating parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def draw_inputs(inputs: Sequence[Any], dtype: torch.dtype, seed: int = 0) -> tuple:
    """Tensors of these shapes: normal numbers, and zeros and ones where the type is no floating one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(i):
        if not isinstance(i, Input):
            return i
        kind = i.dtype or dtype
        if kind.is_floating_point:
            return torch.randn(i.shape, generator=generator).to(kind)
        return torch.randint(2, i.shape, generator=generator).to(kind)

    return tuple(tree_map(draw, list(inputs)))


def describe(inputs: tuple) -> str:
    """Shapes and types, as --input takes them."""
    return ";".join(f"{','.join(map(str, t.shape))}:{str(t.dtype).removeprefix('torch.')}" for t in tree_leaves(inputs)
                    if isinstance(t, Tensor))
