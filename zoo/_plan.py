"""Networks of parallel layers written as plans, close to how their papers print them.

`"1x1:64 3x3:96"` is a chain of two units, each a convolution without bias, batch norm and ReLU. Behind the channels, `/2`
is the stride and `v` means that nothing is padded ("valid"). `max` and `avg` are 3 x 3 poolings of stride 1, padded;
`max/2v` is one of stride 2 that is not. A list is a chain of plans; a tuple has its plans side by side, their channels
concatenated. A sequence is read as an image of one row: of `7x1:64` a kernel of one number is left, of `1x7:64` seven.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._layers import init_convolutions, of_dims, scaled
from .registry import ZooError

Plan = Any  # str | list[Plan] | tuple[Plan, ...] | Residual
STEP = re.compile(r"(?:(max|avg)|(\d+)x(\d+):(\d+))(?:/(\d))?(v?)")
EPS = 1e-3  # of the batch norms of the Inception papers


@dataclass(frozen=True)
class Residual:
    """relu(x + scale * conv(plan(x))), the convolution 1 x 1 with a bias. `last`: without the ReLU."""
    plan: Plan
    scale: float
    last: bool = False


class Unit(nn.Module):
    """relu(bn(conv(x))), for images (a kernel of two sizes) or sequences (of one)."""

    def __init__(self, channels: int, out: int, kernel: tuple[int, ...], stride: int, padding: tuple[int, ...]):
        super().__init__()
        self.conv = of_dims("Conv", len(kernel))(channels, out, kernel, stride, padding, bias=False)
        self.bn, self.relu = of_dims("BatchNorm", len(kernel))(out, eps=EPS), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Parallel(nn.Module):
    """Branches that read the same input, their outputs concatenated along the channels."""

    def __init__(self, branches: Sequence[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class ResidualParallel(nn.Module):
    """relu(x + scale * conv(branches(x)))."""

    def __init__(self, branches: nn.Module, channels: int, out: int, scale: float, last: bool, dims: int = 2):
        super().__init__()
        self.branches, self.scale = branches, scale
        self.conv, self.relu = of_dims("Conv", dims)(channels, out, 1), nn.Identity() if last else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.scale * self.conv(self.branches(x)))


def built(plan: Plan, channels: int, r: float, dims: int = 2) -> tuple[nn.Module, int]:
    """Return the module of a plan for `channels` input channels, every width times r, and how many channels it gives."""
    if isinstance(plan, Residual):
        inner, out = built(plan.plan, channels, r, dims)
        return ResidualParallel(inner, out, channels, plan.scale, plan.last, dims), channels
    if isinstance(plan, tuple):
        branches = [built(branch, channels, r, dims) for branch in plan]
        return Parallel([module for module, _ in branches]), sum(out for _, out in branches)
    modules = []
    parts, build = (plan.split(), _step) if isinstance(plan, str) else (plan, built)
    for part in parts:
        module, channels = build(part, channels, r, dims)
        modules.append(module)
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules), channels


def _step(text: str, channels: int, r: float, dims: int) -> tuple[nn.Module, int]:
    match = STEP.fullmatch(text)
    if match is None:
        raise ZooError(f"{text!r} is no step of a plan: write 3x3:64, 3x3:64/2v, max or avg")
    pool, high, wide, width, steps, valid = match.groups()
    stride = int(steps or 1)
    if pool == "max":
        return of_dims("MaxPool", dims)(3, stride, 0 if valid else 1), channels
    if pool == "avg":
        return of_dims("AvgPool", dims)(3, stride, 0 if valid else 1, count_include_pad=False), channels
    kernel, out = (int(high), int(wide))[2 - dims:], scaled(int(width), r)
    return Unit(channels, out, kernel, stride, tuple(0 if valid else size // 2 for size in kernel)), out


class Planned(nn.Module):
    """The stages of a plan by name, every width times r, the mean over the image or sequence, dropout, a linear layer."""

    def __init__(self, stages: dict[str, Plan], r: float, input_shape: tuple[int, ...], num_classes: int,
                 dropout: float = 0.0):
        super().__init__()
        self.input_shape = input_shape
        self.features, channels, dims = nn.Sequential(), input_shape[0], len(input_shape) - 1
        for name, plan in stages.items():
            module, channels = built(plan, channels, r, dims)
            self.features.add_module(name, module)
        self.avgpool = of_dims("AdaptiveAvgPool", dims)(1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(channels, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(torch.flatten(self.avgpool(self.features(x)), 1)))
