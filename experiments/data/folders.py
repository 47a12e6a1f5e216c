"""Folders of images, a subfolder a class, and ImageNet as torchvision lays it out: read from the disk one by one.

O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2014, https://arxiv.org/abs/1409.0575
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxgrow.experiments.data.registry import DataError, Examples, Parts, Request, Source, library, register, root_of

# of ImageNet's train part, as every published model takes them: constants, not taken from the data at hand
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
LAYOUT = "PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE with PATH/test (or PATH/val) beside it"


class Images(Examples):
    """Some of a folder's files, read when they are asked for. Shape [3, size, size]."""

    def __init__(self, files: list[str], y: Tensor, rows: Tensor, transform: Callable, random: bool):
        super().__init__(y, rows, random)
        self.files, self.transform = files, transform

    def read(self, row: int) -> Tensor:
        """Return one image, transformed."""
        from PIL import Image
        try:
            with Image.open(self.files[row]) as image:
                pixels = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
            raise DataError(f"{self.files[row]} is no image that can be read ({error}): replace or remove it") from error
        return self.transform(pixels)


@dataclass
class Folder(Source):
    """Files and labels of the train part, and of the test part if the layout has one."""
    files: list[str]
    labels: Tensor
    class_names: tuple[str, ...]
    size: int
    test: tuple[list[str], Tensor] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an image, channels in front."""
        return 3, self.size, self.size

    def parts(self, train: Tensor, validation: Tensor, test: Tensor, augment: bool | None) -> Parts:
        """Return images in random parts and mirrors to train on, and their middles, an eighth cut away, else."""
        t = library("torchvision.transforms", "torchvision", "imagefolder")
        last = [t.ToTensor(), t.Normalize(MEAN, STD)]
        middle = t.Compose([t.Resize(self.size * 8 // 7), t.CenterCrop(self.size), *last])
        varied = t.Compose([t.RandomResizedCrop(self.size), t.RandomHorizontalFlip(), *last])
        files, labels = self.test or (self.files, self.labels)
        return (Images(self.files, self.labels, train, middle if augment is False else varied, augment is not False),
                Images(self.files, self.labels, validation, middle, False), Images(files, labels, test, middle, False))


@register("imagefolder", path=True)
def imagefolder(request: Request) -> Folder:
    """Read `imagefolder:PATH`, 3 x 224 x 224 or the size asked for.

    PATH has one folder a class, or PATH/train has, and PATH/test or PATH/val (test where there are both) is the test part.
    """
    path = Path(request.path)
    if not request.path or not path.is_dir():
        raise DataError(f"there is no folder {path}: name one as imagefolder:PATH, laid out as {LAYOUT}")
    read = library("torchvision.datasets", "torchvision", "imagefolder").ImageFolder
    if not (path / "train").is_dir():
        return _folder(_listed(read, path), request.size)
    second = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    return _folder(_listed(read, path / "train"), request.size, second and _listed(read, second))


@register("imagenet")
def imagenet(request: Request) -> Folder:
    """Read the ILSVRC 2012 archives in `root`, which torchvision unpacks; its validation images are the test part."""
    read = library("torchvision.datasets", "torchvision", "imagenet").ImageNet
    root = root_of(request, can_fetch=False)
    try:
        parts = [read(root, split=split) for split in ("train", "val")]
    except Exception as error:
        raise DataError(f"imagenet cannot be read from {root} ({str(error).strip().splitlines()[0]}): put the archives "
                        "ILSVRC2012_devkit_t12, _img_train and _img_val there (https://image-net.org)") from error
    return _folder(parts[0], request.size, parts[1])


def _listed(read: Callable[[Path], Any], path: Path) -> Any:
    try:
        return read(path)
    except (FileNotFoundError, OSError) as error:
        raise DataError(f"{path} is no folder of images ({error}); it should be laid out as {LAYOUT}") from error


def _folder(train: Any, size: int | None, test: Any = None) -> Folder:
    """Return the files that torchvision lists, the test part's labels renumbered as the train part's."""
    names = [name if isinstance(name, str) else ", ".join(name) for name in train.classes]
    pair = None
    if test is not None:
        index_of, name_of = _indices(train), {index: name for name, index in _indices(test).items()}
        strange = [name for name in name_of.values() if name not in index_of]
        if strange:
            raise DataError(f"{test.root} has a class {strange[0]!r} that {train.root} has not: give both the same folders")
        pair = [file for file, _ in test.samples], torch.tensor([index_of[name_of[label]] for label in test.targets])
    return Folder([file for file, _ in train.samples], torch.tensor(train.targets), tuple(names), size or SIZE, pair)


def _indices(part: Any) -> dict[str, int]:
    """Return the label of each class folder; ImageNet's are called by WordNet numbers."""
    return getattr(part, "wnid_to_idx", part.class_to_idx)
