"""Data sets that fit into memory: tensors of examples and labels, normalised by what the train part says."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fxgrow.common import brief
from fxgrow.experiments.data.draws import first_numbers
from fxgrow.experiments.data.registry import Data, DataError, Examples, Parts, Source, numbered, parted

ONCE = 2 ** 28  # bytes: data that take no more as float32 are normalised once, larger ones (CIFAR's) batch by batch


class Resident:
    """A tensor in the memory of this machine, copied once to the device that asks for it, if there is room."""

    def __init__(self, tensor: Tensor):
        self.tensor = self.copy = tensor

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on a device; the one in memory where it would fill more than half of what is free there."""
        if self.copy.device.type != device.type:
            fits = device.type != "cuda" or self.tensor.nbytes < torch.cuda.mem_get_info(device)[0] / 2
            self.copy = self.tensor.to(device) if fits else self.tensor
        return self.copy

    def __getstate__(self) -> dict[str, Tensor]:
        return {"tensor": self.tensor, "copy": self.tensor}


class Tensors(Examples):
    """Some rows of a tensor of any number type, [N, channels, ...], normalised by `mean` and `std` of each channel.

    normalised: whether `x` is so already. augment: acts on a normalised example; random numbers come from torch's
    generator. One that has `draw` and `apply` (`padded_crop`) acts on whole batches. target_scale: what targets were
    divided by.
    """

    def __init__(self, x: Resident, y: Tensor, rows: Tensor, mean: Tensor, std: Tensor, normalised: bool = False,
                 augment: Callable | None = None, target_scale: Tensor | float = 1.0):
        super().__init__(y, rows, random=augment is not None)
        self.x, self.normalised, self.augment, self.target_scale = x, normalised, augment, target_scale
        self.mean, self.std = (t.float().view(-1, *[1] * (x.tensor.ndim - 2)) for t in (mean, std))
        self.together = augment is None or hasattr(augment, "apply")

    def read(self, row: int) -> Tensor:
        """Return one example, normalised."""
        x = self.x.tensor[row]
        x = x if self.normalised else (x.float() - self.mean) / self.std
        return self.augment(x) if self.augment else x

    def draw(self, seeds: np.ndarray) -> Tensor | None:
        """Return what the augmentation draws."""
        return self.augment.draw(seeds) if self.augment else None  # type: ignore[attr-defined]

    def take(self, rows: Tensor, drawn: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a batch, normalised and augmented on the device."""
        store = self.x.on(device)
        x = store.index_select(0, rows.to(store.device)).to(device, torch.float32)  # faster than store[rows]
        if not self.normalised:
            x.sub_(self.mean.to(device)).div_(self.std.to(device))
        if self.augment is not None and drawn is not None:
            x = self.augment.apply(x, drawn.to(device))  # type: ignore[attr-defined]
        return x, self.y[rows].to(device)


@dataclass
class Arrays(Source):
    """A data set in memory; `test` is None where a test part must be cut from `x`.

    labels: whole numbers [N] that count classes from 0; [N, height, width] such for each pixel (segmentation); or fractions
    [N] or [N, k] to predict (regression), for which `class_names` says what they are.
    """
    x: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    test: tuple[Tensor, Tensor] | None = None
    usual: Callable | None = None  # the augmentation that papers use on these data

    @property
    def task(self) -> str:  # type: ignore[override]
        """Return what the labels are for."""
        if self.labels.is_floating_point():
            return "regression"
        return "segmentation" if self.labels.ndim > 1 else "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an example."""
        return tuple(self.x.shape[1:])

    def parts(self, train: Tensor, validation: Tensor, test: Tensor, augment: bool | None) -> Parts:
        """Return the three parts, normalised by mean and standard deviation of each channel of the train part.

        So are numbers to predict. What moves pixels would move them away from the classes of pixels: these are left alone.
        """
        given = {"examples": (self.x, *(self.test or ())[:1]), "targets": (self.labels, *(self.test or ())[1:])}
        for what, tensors in given.items():
            if not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
                raise DataError(f"the {what} hold numbers that are not finite: clean them first")
        mean, std = statistics(self.x[train])
        change = {None: self.usual, False: None}.get(augment, self.usual or padded_crop(self.input_shape))
        if self.task == "segmentation" or self.x.ndim < 3:
            change = None
        labels, test_labels = self.labels, self.labels if self.test is None else self.test[1]
        scale: Tensor | float = 1.0
        if self.task == "regression":
            if (labels[train] == labels[train][:1]).all():
                raise DataError("all targets to train on are the same: there is nothing to predict")
            about, scale = statistics(labels[train].view(len(train), -1))
            labels, test_labels = (((y - about.view(y.shape[1:])) / scale.view(y.shape[1:])).float()
                                   for y in (labels, test_labels))
        once = 4 * self.x.numel() < ONCE
        x, *others = (Resident(_normalised(t, mean, std) if once else t) for t in (self.x, *(self.test or ())[:1]))
        return (Tensors(x, labels, train, mean, std, once, change, scale),
                Tensors(x, labels, validation, mean, std, once, None, scale),
                Tensors((others or [x])[0], test_labels, test, mean, std, once, None, scale))


def _normalised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    mean, std = (t.float().view(-1, *[1] * (x.ndim - 2)) for t in (mean, std))
    return x.to(torch.float32, copy=True).sub_(mean).div_(std)


def as_data(given: Any, *, validation: float = 0.1, seed: int = 0, augment: bool | None = None,
            limit: int | None = None) -> Data:
    """Return data of one's own as `load_data` gives those with a name.

    Args:
        given: a pair of tensors, examples [N, channels, ...] and targets as `Arrays` has them; a `Source` such as `Arrays`,
            which may have a test part and names of classes; or `Data`, which stay as they are.

    Raises:
        DataError: it is something else, or the tensors do not go together.
    """
    if isinstance(given, Data):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(t, Tensor) for t in given):
        x, y = given
        x = channels_first(x)
        fits = y.ndim in (1, 2) if y.is_floating_point() else y.shape[1:] in (x.shape[2:], ())
        if len(x) != len(y) or x.ndim < 2 or y.ndim == 0 or not fits or not len(y):
            raise DataError(f"the data are examples {list(x.shape)} and labels {list(y.shape)} of {y.dtype}: give examples "
                            "[N, channels, ...] and N whole numbers that count classes from 0, such for each pixel "
                            "[N, height, width], or fractions to predict, [N] or [N, k]")
        names = tuple(map(str, range(y[0].numel()))) if y.is_floating_point() else numbered("the data given", y)
        given = Arrays(x, y if y.is_floating_point() else y.long(), names)
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
    `draw` and `apply` do to a batch, bit by bit, what calls do to its examples one by one, each behind its seed.
    """

    def __init__(self, input_shape: tuple[int, ...], flip: bool = False):
        self.flip, self.pad = flip, [max(1, size // 8) for size in input_shape[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Return one window, of the shape of `x`."""
        mirrored = int(self.flip and torch.rand(()) < 0.5)
        shifts = [int(torch.randint(-pad, pad + 1, ())) for pad in self.pad]
        return self.apply(x[None], torch.tensor([[mirrored, *shifts]]))[0]

    def draw(self, seeds: np.ndarray) -> Tensor:
        """Return 1 where an example is mirrored, and how far it is shifted along each axis. int64, shape [n, 1 + axes]."""
        numbers = first_numbers(seeds, self.flip + len(self.pad)).astype(np.int64)
        mirrored = (numbers[0] & 0xFFFFFF) < 1 << 23 if self.flip else np.zeros(len(seeds))
        shifts = [n % (2 * pad + 1) - pad for n, pad in zip(numbers[self.flip:], self.pad)]
        return torch.from_numpy(np.stack([mirrored, *shifts], 1).astype(np.int64))

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Return the windows of a batch, of the shape of `x`, by one index into the padded examples."""
        padded = F.pad(x, [side for pad in reversed(self.pad) for side in (pad, pad)])
        index = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        for axis, (pad, size) in enumerate(zip(self.pad, x.shape[2:])):
            at = torch.arange(pad, pad + size, device=x.device) - drawn[:, axis + 1:axis + 2]
            if self.flip and axis == len(self.pad) - 1:
                at = torch.where(drawn[:, :1] > 0, size + 2 * pad - 1 - at, at)
            index = (index[:, :, None] * (size + 2 * pad) + at[:, None]).flatten(1)
        return padded.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)).view(x.shape)
