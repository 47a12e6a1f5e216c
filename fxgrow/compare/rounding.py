"""How far a model of 16-bit numbers is from itself in float32: what its type alone makes of it."""
from typing import Any

import torch
from torch import nn

from fxgrow.aten import HALF, tree_leaves, wide_values
from fxgrow.compare.running import Twin
from fxgrow.graph import is_captured, uncached
from fxgrow.tracing import Inputs, compare_outputs


def names_half(model: nn.Module) -> bool:
    """Tell whether the graph of a captured model says of some value that it has 16 bits."""
    nodes = model.graph.nodes if is_captured(model) else ()  # type: ignore[union-attr]
    return any(isinstance(v, torch.dtype) and v in HALF for node in nodes for v in tree_leaves((node.args, node.kwargs)))


def rounding_between(exact: Any, ours: Any) -> float:
    """Return how far what a model of 16 bits gives is from what it gives in float32, relative to the largest number."""
    return compare_outputs(wide_values(exact), wide_values(ours), 0.0).relative


def rounding_of(model: nn.Module, inputs: Inputs, seed: int = 0) -> float | None:
    """Return how far a model is from itself in float32; None of other numbers than 16-bit ones, or where that cannot run."""
    if not any(p.dtype in HALF for p in model.parameters()) or names_half(model):
        return None
    try:
        twin = Twin(model, "eval")
        with uncached(twin.model):
            ours = twin.run(inputs, seed)
            return rounding_between(Twin(twin.model.float(), "eval").run(wide_values(inputs), seed), ours)
    except Exception:  # its code may ask for 16 bits
        return None


def rounding_note(dtype: torch.dtype, error: float) -> str:
    """Say how far the first model is from itself in float32."""
    return f"in {str(dtype).removeprefix('torch.')} the first model is {error:.2g} from itself in float32"
