"""Example inputs: as a tuple or a call, and on the meta device."""
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fxgrow.aten import tree_map
from fxgrow.errors import CaptureError


def as_tuple(example_inputs) -> tuple:
    """Return a tensor, or a list or tuple of tensors, as a tuple.

    Raises:
        CaptureError: it is something else.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, (tuple, list)) and example_inputs:
        return tuple(example_inputs)
    raise CaptureError("example_inputs: pass a tensor or a tuple of tensors, as you would call the model")


def as_call(example_inputs) -> tuple[tuple, dict[str, Any]]:
    """Return the positional and the keyword arguments by which example inputs call a model.

    Raises:
        CaptureError: they are neither a tensor, nor a list or tuple, nor a dictionary of keyword arguments.
    """
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return as_tuple(example_inputs), {}


def to_meta(value):
    """Return a nested value with every tensor in it on the meta device."""
    return tree_map(lambda v: v.detach().to("meta") if isinstance(v, Tensor) and not v.is_meta else v, value)
