"""Small networks of the kinds that growth must cope with, and a training loop; double precision throughout.
A bias that a batch norm takes away again has a gradient of rounding errors, which Adam would blow up: there is none."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from support import shake
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, groups: int = 1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False, groups=groups), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    def __init__(self, groups: int = 1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.block1, self.block2, self.fc = Block(6, groups), Block(6, groups), nn.Linear(6, 5)

    def forward(self, x):
        x = self.block2(self.block1(F.relu(self.bn(self.conv(x)))))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.bn, self.mix, self.fc = nn.BatchNorm2d(9), nn.Conv2d(9, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.bn(torch.cat([self.left(x), self.right(x)], 1)))
        return self.fc(F.relu(self.mix(x)).mean((2, 3)))


class Normed(nn.Module):
    """A residual stream that a LayerNorm (or an RMSNorm) reads."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.embed, self.norm, self.up, self.down = nn.Linear(5, 8), norm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.last, self.head = norm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.last(x + self.down(F.gelu(self.up(self.norm(x))))))


NETS = {"residual": Residual, "grouped": lambda: Residual(groups=3), "concat": Concat}
IMAGES = (6, 3, 8, 8)


def made(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A shaken network in train mode, and images for it."""
    torch.manual_seed(seed)
    model = shake(NETS[name]().double(), seed)
    return model.train(), torch.randn(IMAGES, dtype=torch.float64)


def backward(model: nn.Module, x: torch.Tensor, seed: int = 0) -> None:
    """The gradients of a loss that differs from step to step."""
    y = model(x)
    target = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    (y - target).square().sum().backward()


def train(model: nn.Module, optimizer, x: torch.Tensor, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        backward(model, x, step)
        optimizer.step()
