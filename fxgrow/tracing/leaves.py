"""Leaves: submodules that no recording goes into, because they are layers or because their forward cannot be recorded."""
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from fxgrow.errors import CaptureError
from fxgrow.graph import mentions
from fxgrow.layers import MultiheadAttention

TRACED_TORCH_MODULES = (nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
                        nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.ModuleList, nn.ModuleDict)


class LeafNeeded(BaseException):
    """A module that cannot be recorded has to stay opaque. No `Exception`: a model's own `except` must not swallow it."""

    def __init__(self, path: str, reason: str):
        super().__init__(reason)
        self.path, self.reason = path, reason


class Differs(BaseException):
    """A replay that does something else than the recording. No `Exception`: a model's own `except` must not swallow it."""


class CacheFound(BaseException):
    """A size is looked up where a function with a cache is called, which is to be called without it.

    Attributes:
        found: the names where it is known, the one among them, and the function.
    """

    def __init__(self, found: list[tuple[dict, str, Any]]):
        super().__init__()
        self.found = found


def is_leaf(module: nn.Module, path: str, leaves: Collection[str] = ()) -> bool:
    """Tell whether a module is called as it is: one of `leaves`, a layer, of TorchScript, or a mere switch by mode."""
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, TRACED_TORCH_MODULES):
        return True
    if path in leaves or isinstance(module, (MultiheadAttention, torch.jit.ScriptModule)) or \
            nn.utils.parametrize.is_parametrized(module):
        return True
    stateless = not module._modules and not module._parameters and not module._buffers
    return stateless and mentions(type(module))  # type: ignore[arg-type]  # classes are hashable


def keep_opaque(twin: nn.Module, leaves: dict[str, str], stop: LeafNeeded) -> None:
    """Add a module to `leaves`.

    Raises:
        CaptureError: it is the whole model, or was there already.
    """
    if stop.path in leaves or not stop.path:
        name = f"{stop.path} ({type(twin.get_submodule(stop.path)).__name__})" if stop.path else type(twin).__name__
        first = leaves.get(stop.path, stop.reason)
        before = f"{first}; and as it is, it stops without data: " if first != stop.reason else ""
        raise CaptureError(f"{name} cannot be captured: {before}{stop.reason}") from stop
    leaves[stop.path] = stop.reason


def outwards(path: str) -> list[str]:
    """Return a path and those of all modules around it, the innermost first, the model itself (`""`) last."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(len(parts), -1, -1)]


def kept_part(root: nn.Module, path: str, leaves: Collection[str]) -> str | None:
    """Return the path of the leaf that a module is or lies in, or None."""
    return next((p for p in outwards(path) if p and is_leaf(root.get_submodule(p), p, leaves)), None)
