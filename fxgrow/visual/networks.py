"""Networks for plots: captured, run on images, and checked."""
from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.common import one_line
from fxgrow.errors import DrawError
from fxgrow.graph import tensors_of
from fxgrow.models import dtype_of
from fxgrow.record import Grown, GrowthRecord, captured, record_in
from fxgrow.visual.activations import channel_axis
from fxgrow.visual.panels import plain

if TYPE_CHECKING:
    from torch import nn


Model: TypeAlias = "nn.Module | Grown"
Models: TypeAlias = "Model | Mapping[str, Model]"
MOST_LAYERS, FEW = 24, 4  # rows that one picture takes; channels that are shown unless they are named


@dataclass
class Network:
    """One column: its name, a copy of its graph in eval mode without gradients, and where its numbers come from.

    inside: it is the small network taken out of this one.
    """
    name: str
    gm: GraphModule
    record: GrowthRecord
    inside: Network | None = None


def networks(models: Models, example_inputs=None) -> list[Network]:
    """The networks to show; in front of a single grown one, the small network that is in it."""
    named = dict(models) if isinstance(models, Mapping) else {"": models}
    if not named:
        raise DrawError("there is no model to show: give at least one")
    found = [Network(plain(name), _frozen(captured(model, example_inputs)[1]), _record(model))
             for name, model in named.items()]
    if len(found) == 1 and found[0].record.lineage:
        only = found[0]
        small = captured(only.record.shrink(only.gm), example_inputs)[1]
        found = [Network("before: the small network in it", _frozen(small), GrowthRecord(), only),
                 Network(f"{only.name} (grown)" if only.name else "grown", only.gm, only.record)]
    return found


def image_shape(network: Network, size: Sequence[int] | None) -> tuple[int, int, int]:
    """Channels, height and width of the one image that a network takes; `size` says another height and width."""
    inputs: tuple = network.gm.meta.get("example_inputs") or ()
    only = inputs[0] if len(inputs) == 1 else None
    if not (isinstance(only, Tensor) and only.is_floating_point() and only.ndim == 4 and only.shape[1] in (1, 3)):
        told = ", ".join(str(list(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in inputs)
        raise DrawError(f"{network.name or 'the model'} takes {told or 'inputs that are not known'}, not one image "
                        "[N, 1 or 3, H, W]: only networks for images can be shown this way")
    height, width = size if size is not None else only.shape[2:]
    return int(only.shape[1]), int(height), int(width)


def logits(network: Network, inputs: Tensor) -> Tensor:
    """The logits of one image, [classes], float64.

    Raises:
        DrawError: the network does not take the image, or gives anything else.
    """
    output = _run(network, lambda: network.gm(inputs.to(dtype_of(network.gm))), inputs)
    if not (isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == 1):
        told = str(list(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DrawError(f"{network.name or 'the model'} gives {told}, not one logit a class ([N, classes]): give a "
                        "classifier, or look at a layer's channels")
    return output[0].double()


def check_target(network: Network, answer: Tensor, target: int) -> None:
    """Refuses a class that a network does not have."""
    if not 0 <= target < len(answer):
        raise DrawError(f"{network.name or 'the model'} has no class {target}: its classes are 0 to {len(answer) - 1}")


def channels_of(network: Network, upto: GraphModule, layer: str, inputs: Tensor) -> int:
    """How many channels a layer's output has."""
    value = _run(network, lambda: upto(inputs.to(dtype_of(network.gm))), inputs)
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2):
        told = str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise DrawError(f"{layer} gives {told}, which has no channels: name another layer")
    return value.shape[channel_axis(value)]


def _run(network: Network, call: Callable[[], Tensor], inputs: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return call()
    except (RuntimeError, ValueError, AssertionError) as error:
        raise DrawError(f"{network.name or 'the model'} does not run on an image {list(inputs.shape)}: "
                        f"{one_line(error)}; say another size") from error


def _frozen(gm: GraphModule) -> GraphModule:
    if any(t.is_meta for t in tensors_of(gm).values()):
        raise DrawError("a model on the meta device has no numbers to show: give one that has its weights")
    return copy.deepcopy(gm).eval().requires_grad_(False).cpu()


def _record(model: Model) -> GrowthRecord:
    return model.record if isinstance(model, Grown) else record_in(model) or GrowthRecord()
