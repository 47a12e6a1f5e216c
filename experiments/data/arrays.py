"""Data sets that fit into memory: tensors of examples and labels, normalised by what the train part says."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.common import brief
from fxgrow.experiments.data.registry import Data, DataError, Examples, Parts, Source, parted


class Tensors(Examples):
    """Some rows of a tensor of any number type, [N, channels, ...], normalised by `mean` and `std` of each channel.

    augment: acts on a normalised example; random numbers come from torch's generator.
    """

    def __init__(self, x: Tensor, y: Tensor, rows: Tensor, mean: Tensor, std: Tensor, augment: Callable | None = None):
        super().__init__(y, rows, random=augment is not None)
        self.x, self.augment = x, augment
        self.mean, self.std = (t.float().view(-1, *[1] * (x.ndim - 2)) for t in (mean, std))

    def read(self, row: int) -> Tensor:
        """Return one example, normalised."""
        x = (self.x[row].float() - self.mean) / self.std
        return self.augment(x) if self.augment else x

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return a batch's examples to a DataLoader, normalised together; an augmentation acts on each."""
        rows = self.rows[indices]
        x = ((self.x[rows].float() - self.mean) / self.std).unbind()
        return list(zip(map(self.augment, x) if self.augment else x, self.y[rows].tolist()))


@dataclass
class Arrays(Source):
    """A data set in memory; `test` is None where a test part must be cut from `x`."""
    x: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    test: tuple[Tensor, Tensor] | None = None
    usual: Callable | None = None  # the augmentation that papers use on these data

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an example."""
        return tuple(self.x.shape[1:])

    def parts(self, train: Tensor, validation: Tensor, test: Tensor, augment: bool | None) -> Parts:
        """Return the three parts, normalised by mean and standard deviation of each channel of the train part."""
        mean, std = statistics(self.x[train])
        change = {None: self.usual, False: None}.get(augment, self.usual or padded_crop(self.input_shape))
        x, y = self.test or (self.x, self.labels)
        return (Tensors(self.x, self.labels, train, mean, std, change),
                Tensors(self.x, self.labels, validation, mean, std), Tensors(x, y, test, mean, std))


def as_data(given: Any, *, validation: float = 0.1, seed: int = 0, augment: bool | None = None,
            limit: int | None = None) -> Data:
    """Return data of one's own as `load_data` gives those with a name.

    Args:
        given: a pair of tensors, examples [N, channels, ...] and whole numbers [N] that count classes from 0; a `Source`
            such as `Arrays`, which may have a test part and names of classes; or `Data`, which stay as they are.

    Raises:
        DataError: it is something else, or the tensors do not go together.
    """
    if isinstance(given, Data):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(t, Tensor) for t in given):
        x, y = given
        if y.ndim != 1 or len(x) != len(y) or x.ndim < 2 or y.is_floating_point() or not len(y):
            raise DataError(f"the data are examples {list(x.shape)} and labels {list(y.shape)} of {y.dtype}: give examples "
                            "[N, channels, ...] and N whole numbers that count classes from 0")
        given = Arrays(channels_first(x), y.long(), tuple(str(c) for c in range(int(y.max()) + 1)))
    if not isinstance(given, Source):
        raise DataError(f"the data are {brief(given)}: give a pair of tensors (examples, labels), Arrays, or what load_data "
                        "gives")
    return parted(given, "the data given", validation, seed, augment, limit)


def channels_first(x: Tensor) -> Tensor:
    """Return pictures [N, height, width, channels] of bytes, as people keep them, as [N, channels, height, width]."""
    kept = x.ndim == 4 and x.dtype is torch.uint8 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return x.permute(0, 3, 1, 2).contiguous() if kept else x


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel (1 where one is constant), in float64. Shape [channels] each."""
    dims, count = [0, *range(2, x.ndim)], x.numel() // x.shape[1]
    parts = x.split(1000)  # so that the float64 copies stay small
    mean = sum(p.double().sum(dims) for p in parts) / count
    around = mean.view(-1, *[1] * (x.ndim - 2))
    std = (sum((p.double() - around).square().sum(dims) for p in parts) / count).sqrt()
    return mean, torch.where(std > 1e-12 * mean.abs(), std, 1.0)


class padded_crop:
    """Cut a window of its own size out of an example with an eighth of zeros on each side; at random its mirror.

    The augmentation of the CIFAR experiments of He et al. 2015, where an eighth is four pixels. For sequences: a shift.
    """

    def __init__(self, input_shape: tuple[int, ...], flip: bool = False):
        self.flip, self.pad = flip, [max(1, size // 8) for size in input_shape[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Return one window, of the shape of `x`."""
        x = x.flip(-1) if self.flip and torch.rand(()) < 0.5 else x
        out = torch.zeros_like(x)
        source, target = [slice(None)], [slice(None)]
        for pad, size in zip(self.pad, x.shape[1:]):
            shift = int(torch.randint(-pad, pad + 1, ()))
            source.append(slice(max(0, -shift), size - max(0, shift)))
            target.append(slice(max(0, shift), size - max(0, -shift)))
        out[tuple(target)] = x[tuple(source)]
        return out
