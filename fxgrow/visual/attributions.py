"""What of a photograph a network looks at: attributions by captum, and the photograph as the network takes it.

Of captum's methods those are offered that need no hooks, so that functional and grown networks are served alike; and guided
backpropagation, for which functions become layers first.
"""
import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.common import one_line
from fxgrow.errors import DrawError
from fxgrow.graph import title, writes_in_place
from fxgrow.visual.filters import BLUE, VERMILION

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision's and timm's models expect
GUIDED = "guided-backprop"  # follows from how a network computes, too: here pairs of new channels do not cancel
SIGNED = ("integrated-gradients", "input-x-gradient", "occlusion", GUIDED)
METHODS = ("saliency", *SIGNED[:-1])  # these follow from what a network computes alone, and stay as they are under growth
BATCH = 8  # images at once, where a method needs many


def read_image(path: str | os.PathLike, channels: int, size: Sequence[int]) -> Tensor:
    """Read a photograph as numbers from 0 to 1, [channels, H, W].

    It is turned upright, scaled bilinearly so that `size` (H, W) covers 7/8 of its shorter side, and cut to its middle.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DrawError(f"photographs need Pillow ({error}): pip install 'fxgrow[plots]'") from error
    height, width = size
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DrawError(f"{os.fspath(path)} cannot be read as an image ({one_line(error)}): give a .jpg or .png file"
                        ) from error
    scale = max(round(height * 8 / 7) / image.height, round(width * 8 / 7) / image.width)
    image = image.resize((max(width, int(image.width * scale)), max(height, int(image.height * scale))),
                         Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = numpy.asarray(image.crop((left, top, left + width, top + height)), dtype=numpy.float64) / 255
    return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)


def spread(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel, float64 [channels, 1, 1]; None: ImageNet's, for grey its mean."""
    return _per_channel("mean", mean, MEAN, channels), _per_channel("std", std, STD, channels)


def _per_channel(name: str, given: Sequence[float] | None, usual: Sequence[float], channels: int) -> Tensor:
    if given is None:
        given = usual if channels == 3 else [sum(usual) / 3]
    values = list(given) * channels if len(given) == 1 else list(given)
    if len(values) != channels or (name == "std" and not min(values) > 0):
        bound = ", above 0" if name == "std" else ""
        raise DrawError(f"{name} {values}: give {channels} numbers, one a channel{bound}")
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def with_relus(gm: GraphModule) -> GraphModule:
    """Return a copy of a network in which each ReLU, also a function, is a layer of its own, which captum finds."""
    copied = copy.deepcopy(gm)
    for i, node in enumerate([n for n in copied.graph.nodes if _is_relu(copied, n)]):
        copied.add_submodule(f"guided_relu_{i}", nn.ReLU())
        with copied.graph.inserting_after(node):
            fresh = copied.graph.call_module(f"guided_relu_{i}", (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(fresh)
        copied.graph.erase_node(node)
    if not any(isinstance(m, nn.ReLU) for m in copied.modules()):
        raise DrawError("guided backpropagation holds back what is negative at ReLUs, and this model has none: choose "
                        "saliency")
    copied.recompile()
    return copied


def _is_relu(gm: GraphModule, node: Node) -> bool:
    """Tell whether a node is a ReLU; not where it writes to memory that others read later."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    return title(gm, node).lower() == "relu" and not (writes_in_place(node) and len(node.all_input_nodes[0].users) > 1)


def attribute(forward: GraphModule, inputs: Tensor, target: int, method: str, steps: int = 50) -> Tensor:
    """Return how much each pixel counts for one class, [H, W].

    Args:
        forward: a captured network, images [N, C, H, W] to logits [N, classes].
        inputs: one normalised image, [1, C, H, W].
        method: `saliency`, the largest absolute gradient over the channels (Simonyan et al., arXiv:1312.6034);
            `input-x-gradient` (Shrikumar et al., arXiv:1605.01713); `guided-backprop`, the gradient without what is negative
            at a ReLU (Springenberg et al., arXiv:1412.6806), of a network with ReLUs; `integrated-gradients` from the mean
            image (Sundararajan et al., arXiv:1703.01365); `occlusion`, what the logit loses when a square is replaced by the
            mean image (Zeiler and Fergus, arXiv:1311.2901). All but the first are sums over the channels and have a sign.
        steps: of integrated gradients.
    """
    try:
        from captum import attr
    except ImportError as error:
        raise DrawError(f"attributions need captum ({error}): pip install 'fxgrow[plots]'") from error
    inputs = inputs.detach().clone()
    found: Any
    with torch.enable_grad():
        if method == "saliency":
            return attr.Saliency(forward).attribute(inputs.requires_grad_(), target=target).detach()[0].amax(0)
        if method == "input-x-gradient":
            found = attr.InputXGradient(forward).attribute(inputs.requires_grad_(), target=target)
        elif method == GUIDED:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Setting backward hooks")
                found = attr.GuidedBackprop(with_relus(forward)).attribute(inputs.requires_grad_(), target=target)
        elif method == "integrated-gradients":
            found = attr.IntegratedGradients(forward).attribute(inputs, target=target, n_steps=steps,
                                                                internal_batch_size=BATCH)
        elif method == "occlusion":
            side = [max(1, n // 14) for n in inputs.shape[2:]]
            window = (inputs.shape[1], *(min(2 * s, n) for s, n in zip(side, inputs.shape[2:])))
            with torch.no_grad():
                found = attr.Occlusion(forward).attribute(inputs, window, strides=(inputs.shape[1], *side), target=target,
                                                          perturbations_per_eval=BATCH)
        else:
            raise DrawError(f"there is no attribution {method!r}: choose {', '.join((*METHODS, GUIDED))}")
    return found.detach()[0].sum(0)


def overlay(photo: Tensor, values: Tensor, limit: float) -> numpy.ndarray:
    """Lay attributions [H, W] over a photograph [C, H, W] in light grey; return uint8 [H, W, 3].

    What speaks for the class is vermilion, what speaks against it blue; from `limit` on they hide the photograph.
    """
    grey = (0.45 + 0.5 * photo.mean(0)).unsqueeze(-1)
    share = (values.double().cpu() / (limit or 1.0)).nan_to_num(0).clamp(-1, 1).unsqueeze(-1)
    colour = torch.where(share > 0, torch.tensor(VERMILION) / 255, torch.tensor(BLUE) / 255)
    return ((grey * (1 - share.abs()) + colour * share.abs()) * 255).round().to(torch.uint8).numpy()
