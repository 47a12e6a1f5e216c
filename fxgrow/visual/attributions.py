"""What of a photograph a network looks at: attributions by captum, and the photograph as the network takes it.

Of captum's methods those are offered that need no hooks, so that functional and grown networks are served alike.
"""
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from fxgrow.common import one_line
from fxgrow.errors import DrawError
from fxgrow.visual.filters import BLUE, VERMILION

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision's and timm's models expect
SIGNED = ("integrated-gradients", "input-x-gradient", "occlusion")
METHODS = ("saliency", *SIGNED)
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


def attribute(forward: Callable[[Tensor], Tensor], inputs: Tensor, target: int, method: str, steps: int = 50) -> Tensor:
    """Return how much each pixel counts for one class, [H, W].

    Args:
        forward: images [N, C, H, W] to logits [N, classes].
        inputs: one normalised image, [1, C, H, W].
        method: `saliency`, the largest absolute gradient over the channels (Simonyan et al., arXiv:1312.6034);
            `input-x-gradient` (Shrikumar et al., arXiv:1605.01713); `integrated-gradients` from the mean image (Sundararajan
            et al., arXiv:1703.01365); `occlusion`, what the logit loses when a square is replaced by the mean image (Zeiler
            and Fergus, arXiv:1311.2901). The last three are sums over the channels and have a sign.
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
            raise DrawError(f"there is no attribution {method!r}: choose {', '.join(METHODS)}")
    return found.detach()[0].sum(0)


def overlay(photo: Tensor, values: Tensor, limit: float) -> numpy.ndarray:
    """Lay attributions [H, W] over a photograph [C, H, W] in light grey; return uint8 [H, W, 3].

    What speaks for the class is vermilion, what speaks against it blue; from `limit` on they hide the photograph.
    """
    grey = (0.45 + 0.5 * photo.mean(0)).unsqueeze(-1)
    share = (values.double().cpu() / (limit or 1.0)).nan_to_num(0).clamp(-1, 1).unsqueeze(-1)
    colour = torch.where(share > 0, torch.tensor(VERMILION) / 255, torch.tensor(BLUE) / 255)
    return ((grey * (1 - share.abs()) + colour * share.abs()) * 255).round().to(torch.uint8).numpy()
