"""Small data and networks to train, and the comparison of two trainers."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fxgrow.experiments.train import TrainConfig, Trainer


@dataclass
class Clusters:
    """Points around one centre for each class, as `fxgrow.experiments.data.Data` holds them."""
    train: Any
    validation: Any
    test: Any
    classes: int = 3
    input_shape: tuple[int, ...] = (6,)


def clusters(train: int = 40, validation: int = 12, shape: tuple[int, ...] = (6,), spread: float = 0.6) -> Clusters:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, *shape, generator=generator)

    def part(count: int) -> TensorDataset:
        y = torch.arange(count) % 3
        x = centres[y] + spread * torch.randn(count, *shape, generator=generator)
        return TensorDataset(x, y)

    return Clusters(part(train), part(validation), part(12), input_shape=shape)


class Tied(nn.Module):
    """Two layers that share a weight, behind a batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.inp, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.a, self.b, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.inp(x))))
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


def perceptron(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def trainer(*grow: str, model: nn.Module | None = None, data: Any = None, out=None, watchers=(), **settings) -> Trainer:
    """A trainer of ten steps an epoch over clusters."""
    config = TrainConfig(**{"steps": 30, "batch_size": 4, "lr": 0.05, "grow": list(grow), **settings})
    return Trainer(model or perceptron(), data or clusters(), config, out, watchers=watchers)


def assert_same(a: Trainer, b: Trainer) -> None:
    """Bit by bit: the network, what its optimizer holds, and the history (seconds aside)."""
    one, two = a.model.state_dict(), b.model.state_dict()
    assert list(one) == list(two)
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    one, two = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert one["param_groups"] == two["param_groups"] and one["state"].keys() == two["state"].keys()
    for i, held in one["state"].items():
        assert held.keys() == two["state"][i].keys()
        for key, value in held.items():
            assert torch.equal(value, two["state"][i][key]) if isinstance(value, Tensor) else value == two["state"][i][key]
    assert plain(a.history.rows) == plain(b.history.rows)
    assert plain(a.history.growths) == plain(b.history.growths)
    assert (a.step, a.flops, a.eval_flops, a.stopped, a.fired) == (b.step, b.flops, b.eval_flops, b.stopped, b.fired)


def plain(rows: list[dict]) -> list[dict]:
    return [{k: list(v) if isinstance(v, tuple) else v for k, v in row.items() if k != "seconds"} for row in rows]
