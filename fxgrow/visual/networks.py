"""Networks for plots: captured, run on images, and checked."""
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.common import one_line
from fxgrow.errors import DrawError
from fxgrow.graph import Captured, tensors_of
from fxgrow.models import dtype_of
from fxgrow.record import Grown, GrowthRecord, captured, new_numbers, record_in
from fxgrow.visual.activations import channel_axis
from fxgrow.visual.filters import convolutions, out_first
from fxgrow.visual.panels import plain

Model: TypeAlias = nn.Module | Grown
Models: TypeAlias = Model | Mapping[str, Model]


@dataclass
class Network:
    """One column of a picture: its name, a copy of its graph in eval mode without gradients, where its numbers come from.

    inside: it is the small network taken out of this one.
    """
    name: str
    gm: GraphModule
    record: GrowthRecord
    inside: "Network | None" = None


def networks(models: Models, example_inputs=None) -> list[Network]:
    """Capture the networks to show; in front of a single grown one, the small network that is in it."""
    named = dict(models) if isinstance(models, Mapping) else {"": models}
    if not named:
        raise DrawError("there is no model to show: give at least one")
    shown = [Network(plain(name), _frozen(captured(model, example_inputs)[1]), record_in(model) or GrowthRecord())
             for name, model in named.items()]
    only = shown[0]
    if len(shown) > 1 or not only.record.lineage:
        return shown
    small = captured(only.record.shrink(only.gm), example_inputs)[1]
    return [Network("before: the small network in it", _frozen(small), GrowthRecord(), only),
            Network(f"{only.name} (grown)" if only.name else "grown", only.gm, only.record)]


def weight_of(network: Network, name: str) -> tuple[Tensor, Tensor]:
    """Return a convolution's weight as [out, in, *kernel], and where its numbers are new."""
    weight, convolution = tensors_of(network.gm)[name].detach(), convolutions(network.gm)[name]
    new = new_numbers(network.record.entry(name, weight.ndim), weight)
    if not convolution.transposed:
        return weight, new
    return out_first(weight, convolution.groups), out_first(new, convolution.groups)


def image_shape(network: Network, size: Sequence[int] | None) -> tuple[int, int, int]:
    """Return channels, height and width of the one image that a network takes; `size` says another height and width."""
    inputs: tuple = Captured(network.gm).inputs
    image = inputs[0] if len(inputs) == 1 else None
    if not (isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 4 and image.shape[1] in (1, 3)):
        shapes = ", ".join(str(list(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in inputs)
        raise DrawError(f"{network.name or 'the model'} takes {shapes or 'inputs that are not known'}, not one image "
                        "[N, 1 or 3, H, W]: only networks for images can be shown this way")
    height, width = size if size is not None else image.shape[2:]
    return int(image.shape[1]), int(height), int(width)


def logits(network: Network, inputs: Tensor) -> Tensor:
    """Return the logits of one image, [classes], float64; raise DrawError where a network gives anything else."""
    output = _run(network, network.gm, inputs)
    if not (isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == 1):
        raise DrawError(f"{network.name or 'the model'} gives {_shape(output)}, not one logit a class ([N, classes]): give "
                        "a classifier, or look at a layer's channels")
    return output[0].double()


def check_target(network: Network, answer: Tensor, target: int) -> None:
    """Raise DrawError for a class that a network does not have."""
    if not 0 <= target < len(answer):
        raise DrawError(f"{network.name or 'the model'} has no class {target}: its classes are 0 to {len(answer) - 1}")


def channels_of(network: Network, upto: GraphModule, layer: str, inputs: Tensor) -> int:
    """Return the number of channels of a layer's output."""
    value = _run(network, upto, inputs)
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2):
        raise DrawError(f"{layer} gives {_shape(value)}, which has no channels: name another layer")
    return value.shape[channel_axis(value)]


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _run(network: Network, graph: GraphModule, inputs: Tensor) -> object:
    try:
        with torch.no_grad():
            return graph(inputs.to(dtype_of(network.gm)))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise DrawError(f"{network.name or 'the model'} does not run on an image {list(inputs.shape)}: "
                        f"{one_line(error)}; say another size") from error


def _frozen(gm: GraphModule) -> GraphModule:
    if any(t.is_meta for t in tensors_of(gm).values()):
        raise DrawError("a model on the meta device has no numbers to show: give one that has its weights")
    return copy.deepcopy(gm).eval().requires_grad_(False).cpu()
