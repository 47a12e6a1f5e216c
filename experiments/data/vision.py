"""MNIST, CIFAR-10, CIFAR-100 and SVHN, read and fetched by torchvision.

torchvision compares what it fetches with known checksums, and CIFAR's and SVHN's files whenever they are read.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", http://yann.lecun.com/exdb/mnist/
A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
Y. Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011,
http://ufldl.stanford.edu/housenumbers
"""
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxgrow.experiments.data.arrays import Arrays, padded_crop
from fxgrow.experiments.data.registry import DataError, Request, library, register, root_of


@register("mnist")
def mnist(request: Request) -> Arrays:
    """Read 60,000 and 10,000 images, 1 x 28 x 28, of ten digits; not augmented."""
    return _read(request, "MNIST", {"train": True}, {"train": False})


@register("cifar10")
def cifar10(request: Request) -> Arrays:
    """Read 50,000 and 10,000 images, 3 x 32 x 32, of ten classes; augmented by shifts of up to 4 pixels and mirroring."""
    return _read(request, "CIFAR10", {"train": True}, {"train": False}, shift=True, flip=True)


@register("cifar100")
def cifar100(request: Request) -> Arrays:
    """Read 50,000 and 10,000 images, 3 x 32 x 32, of a hundred classes; augmented as cifar10."""
    return _read(request, "CIFAR100", {"train": True}, {"train": False}, shift=True, flip=True)


@register("svhn")
def svhn(request: Request) -> Arrays:
    """Read 73,257 and 26,032 images, 3 x 32 x 32, of ten digits; shifted only, as a mirrored digit is another sign."""
    return _read(request, "SVHN", {"split": "train"}, {"split": "test"}, shift=True)


def _read(request: Request, kind: str, train: dict, test: dict, *, shift: bool = False, flip: bool = False) -> Arrays:
    build = getattr(library("torchvision.datasets", "torchvision", request.name), kind)
    root = root_of(request, can_fetch=True)
    try:
        parts = [build(root, download=request.download, **part) for part in (train, test)]
    except Exception as error:  # the files are anyone's: readers fail in as many ways as files can be broken
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{request.name} cannot be read from {root} ({why}): fetch it with download=True, or put "
                        "torchvision's files there") from error
    x, y = _pair(parts[0])
    names = getattr(parts[0], "classes", range(10))
    return Arrays(x, y, tuple(str(n) for n in names), _pair(parts[1]), padded_crop(x.shape[1:], flip) if shift else None)


def _pair(part: Any) -> tuple[Tensor, Tensor]:
    """Return images with the channels in front, and labels."""
    x = torch.from_numpy(np.asarray(part.data))
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[1] != 3:
        x = x.permute(0, 3, 1, 2)
    return x.contiguous(), torch.as_tensor(np.asarray(getattr(part, "targets", getattr(part, "labels", None)))).long()
