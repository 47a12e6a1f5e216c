"""Initial values of new numbers: the free part of every method."""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxgrow.aten import wide
from fxgrow.rewrite import Drawn, New

Init = str | float | Callable[..., Tensor]
BLOCK = 1 << 18  # numbers
INITS = ("match_std", "kaiming", "xavier", "copy", "zero")


def deviation(x: Tensor) -> float:
    """Return the standard deviation of all numbers of `x`."""
    if x.is_complex():
        x = torch.view_as_real(x)
    flat, n = x.reshape(-1), x.numel()
    if n < 2 or x.is_meta:
        return 0.0
    # dot products, where these keep enough digits: Tensor.std is slow
    squares = total = 0.0
    for block in map(wide, flat.split(BLOCK)):  # each is read twice while it is in the cache
        squares, total = squares + float(block.dot(block)), total + float(block.sum())
    shift = total * total / n
    return math.sqrt((squares - shift) / (n - 1)) if squares > 2 * shift else float(wide(x).std())


class Draws:
    """The generators that new numbers are drawn from, and the deviations of old numbers.

    generator: torch's. uniform: numpy's for uniform numbers, which takes half the time. tensors: the old numbers by name.
    """

    def __init__(self, seed: int, tensors: Mapping[str, Tensor] | None = None):
        self.generator = torch.Generator().manual_seed(seed)
        self.uniform = np.random.Generator(np.random.SFC64(seed))
        self.room = np.empty(BLOCK, np.float32)  # where numbers are drawn before they are written to their places
        self.tensors = tensors or {}
        self._deviations: dict[str, float] = {}

    def room_for(self, shape: Sequence[int], kind: type) -> np.ndarray:
        """Return memory to draw numbers in: for a block, the same as for the one before, since new memory takes time."""
        count = math.prod(shape)
        if count > BLOCK:
            return np.empty(shape, kind)
        if self.room.dtype != kind:
            self.room = np.empty(BLOCK, kind)
        return self.room[:count].reshape(shape)

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Take old numbers from elsewhere from now on."""
        self.tensors = tensors
        self._deviations.clear()

    def deviation(self, name: str) -> float:
        """Return the standard deviation of a tensor of old numbers."""
        if name not in self._deviations:
            self._deviations[name] = deviation(self.tensors[name].detach())
        return self._deviations[name]


@dataclass
class RowStatistics:
    """Mean (shape: that of the tensor, 1 along its rows) and deviation of each row, whose numbers lie along `dims`."""
    mean: Tensor
    deviation: Tensor
    dims: tuple[int, ...]


@dataclass
class Drawing:
    """Everything random about the growth of one class from n to m positions.

    source: for each of the m - n new positions, the old one it starts from (shape `[m - n]`).
    shares: for each of the m positions, its share of its old position (shape `[m]`; shares of one position sum to 1).
    noise: the deviation of the noise on copies, as a fraction of the kernel's.
    weight: the average's weights, one for each old position (shape `[n]`), or None for equal ones.
    per_position: whether the tensor being grown holds one number for each position (a bias, a norm's weight).
    std: the standard deviation of the existing kernel, if it has been computed.
    rows: the `RowStatistics` of the tensor being grown, if a norm takes such.
    """
    n: int
    m: int
    init: Init
    source: Tensor
    shares: Tensor
    draws: Draws
    noise: float = 0.0
    weight: Tensor | None = None
    per_position: bool = False
    std: float | None = None
    rows: Any = None

    @property
    def constant(self) -> bool:
        """Return whether all new positions are the mean of the old ones: those of a bias, norm weight or statistic."""
        return self.per_position and self.init != "copy"

    def new(self, x: Tensor, axis: int, count: int, source: Tensor) -> Tensor:
        """Return `count` new positions along `axis` of `x` (shape of `x` with that axis replaced)."""
        shape = (*x.shape[:axis], count, *x.shape[axis + 1:])
        if self.init == "copy":
            return x.index_select(axis, source.to(x.device))
        if self.constant:
            return x.mean(axis, keepdim=True).expand(shape)
        if callable(self.init):
            return self.init(shape, self.draws.generator).to(x)
        std = self._std(x)
        return self._uniform(shape, std, x).to(x, copy=True) if std else x.new_zeros(shape)

    def in_turn(self, x: Tensor, axis: int, *signs: int) -> New:
        """Return the new positions along `axis` of `x`, the same new numbers times each sign in turn."""
        if self.init == "copy" or self.constant or callable(self.init):
            new = self.new(x, axis, (self.m - self.n) // len(signs), self.source[::len(signs)])
            return tuple(new if sign > 0 else -new for sign in signs)
        std = self._std(x)
        return Drawn(lambda shape: self._uniform(shape, std, x), signs) if std else None

    def _uniform(self, shape: Sequence[int], std: float, like: Tensor) -> Tensor:
        """Return numbers of a uniform distribution with this deviation, in the precision of `like` or a higher one.

        They are there until the next ones are drawn.
        """
        if like.is_complex():
            return torch.view_as_complex(self._uniform((*shape, 2), std, torch.view_as_real(like)))
        bound, kind = math.sqrt(3.0) * std, np.float64 if like.dtype is torch.float64 else np.float32
        drawn = self.draws.uniform.random(dtype=kind, out=self.draws.room_for(shape, kind))
        return torch.from_numpy(drawn).mul_(2 * bound).sub_(bound)

    def _std(self, x: Tensor) -> float:
        x = torch.view_as_real(x) if x.is_complex() else x
        if x.is_meta or self.init == "zero":
            return 0.0
        if self.init == "match_std":
            return self.std if self.std is not None else deviation(x)
        fan_out, fan_in = x.shape[0] * math.prod(x.shape[2:]), math.prod(x.shape[1:])
        if self.init == "kaiming":
            return math.sqrt(2.0 / max(fan_in, 1))
        if self.init == "xavier":
            return math.sqrt(2.0 / max(fan_in + fan_out, 1))
        return float(self.init)  # type: ignore[arg-type]  # a number: INITS and callables are dealt with
