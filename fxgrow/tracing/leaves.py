"""Leaves: the submodules that no trace goes into, because they are layers or because their forward cannot be traced."""
from __future__ import annotations

from collections.abc import Collection

from torch import nn

from fxgrow.errors import CaptureError
from fxgrow.graph import mentions
from fxgrow.layers import MultiheadAttention

TRACED_TORCH_MODULES = (nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
                        nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.ModuleList, nn.ModuleDict)


class LeafNeeded(Exception):
    """A module that cannot be traced through has to stay opaque."""

    def __init__(self, path: str, reason: str):
        super().__init__(reason)
        self.path, self.reason = path, reason


def is_leaf(module: nn.Module, path: str, leaves: Collection[str] = ()) -> bool:
    """Tell whether a module is called as it is: one of `leaves`, a layer, or a flag of its own that forward reads."""
    if path in leaves or isinstance(module, MultiheadAttention) or nn.utils.parametrize.is_parametrized(module):
        return True
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, TRACED_TORCH_MODULES):
        return True
    stateless = not module._modules and not module._parameters and not module._buffers
    return stateless and mentions(type(module))  # type: ignore[arg-type]  # classes are hashable


def keep_opaque(twin: nn.Module, leaves: dict[str, str], stop: LeafNeeded) -> None:
    """Add a module to `leaves`.

    Raises:
        CaptureError: it is the whole model, or was there already.
    """
    if stop.path in leaves or not stop.path:
        raise CaptureError(f"{stop.path or 'the model'} ({type(twin.get_submodule(stop.path)).__name__}) "
                           f"cannot be captured: {stop.reason}") from stop
    leaves[stop.path] = stop.reason
