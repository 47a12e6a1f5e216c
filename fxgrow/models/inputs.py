"""Inputs on the command line: shapes and types as text, and tensors drawn for them."""
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves, tree_map
from fxgrow.common import nearest
from fxgrow.errors import ModelError

DTYPES = {name: getattr(torch, name) for name in
          ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")}
IMAGE = (1, 3, 224, 224)
INPUT = re.compile(r"\s*((?P<name>[^\W\d]\w*)\s*=)?\s*(?P<sizes>\d+(\s*,\s*\d+)*)\s*(:\s*(?P<dtype>.*?)\s*)?")


@dataclass(frozen=True)
class Input:
    """Shape of one input, and its type (None: that of the model's parameters)."""
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


def describe_input(value):
    """Return an example input, or only its shape if it is a constant tensor, on which too many networks agree."""
    constant = isinstance(value, Tensor) and value.is_floating_point() and bool((value == value.reshape(-1)[:1]).all())
    return Input(tuple(value.shape), value.dtype) if constant else value


def parse_inputs(texts: str | Sequence[str]) -> list[Input] | dict[str, Input]:
    """Read inputs from text: `1,3,224,224;1,10:int64` gives two, `ids=1,10:int64;mask=1,10` two by name.

    Raises:
        ModelError: it names no shape or type, or names some inputs and others not.
    """
    read: list[tuple[str | None, Input]] = []
    for part in ";".join([texts] if isinstance(texts, str) else texts).split(";"):
        found = INPUT.fullmatch(part)
        if found is None or "0" in re.split(r"\s*,\s*", found["sizes"]):
            raise ModelError(f"--input: {part!r} is no shape; write sizes as 1,3,224,224, a type behind them as 1,16:int64, "
                             "and a name in front of them as input_ids=1,16:int64")
        if found["dtype"] is not None and found["dtype"] not in DTYPES:
            raise ModelError(f"--input: {found['dtype']!r} is no type; the types are {', '.join(DTYPES)}")
        dtype = DTYPES[found["dtype"]] if found["dtype"] else None
        read.append((found["name"], Input(tuple(map(int, found["sizes"].split(","))), dtype)))
    named = {name: value for name, value in read if name is not None}
    if named and len(named) < len(read):
        raise ModelError(f"--input: {len(read)} inputs are given, under {len(named)} names ({', '.join(named)}): "
                         "name each once, as --input input_ids=1,16:int64 --input attention_mask=1,16:int64, or none")
    return named or [value for _, value in read]


def insist_named(module: nn.Module, inputs: Collection[Any]) -> None:
    """Raise ModelError for an input by a name that the module's forward does not have."""
    parameters = inspect.signature(module.forward).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in inputs if isinstance(inputs, dict) and not free else ():
        if name not in parameters:
            raise ModelError(f"--input: {type(module).__name__} takes no {name!r}{nearest(name, parameters)}; it takes "
                             f"{', '.join(parameters)}")


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the type of the first floating parameter, float32 where there is none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def draw_inputs(inputs: Sequence[Any] | Mapping[str, Any], dtype: torch.dtype, seed: int = 0) -> tuple | dict[str, Any]:
    """Draw normal numbers for each Input, zeros and ones where its type is no floating one; tensors stay."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value):
        if not isinstance(value, Input):
            return value
        kind = value.dtype or dtype
        if kind.is_floating_point:
            return torch.randn(value.shape, generator=generator).to(kind)
        return torch.randint(2, value.shape, generator=generator).to(kind)

    return tree_map(draw, dict(inputs) if isinstance(inputs, Mapping) else tuple(inputs))


def describe(inputs: tuple | dict[str, Any]) -> str:
    """Return shapes and types as --input takes them."""
    named = [(f"{name}=", value) for name, value in inputs.items()] if isinstance(inputs, dict) else [("", inputs)]
    return ";".join(f"{name}{','.join(map(str, t.shape))}:{str(t.dtype).removeprefix('torch.')}" for name, value in named
                    for t in tree_leaves(value) if isinstance(t, Tensor))
