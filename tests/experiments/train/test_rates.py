"""Learning rates by hand."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fxgrow.experiments.train import TrainConfig, rate
from fxgrow.loops import OPTIONS, Rates, after_growth, scale_decay

DEFAULTS = {name: default for name, (_, default) in OPTIONS.items()}


def rates(total=10, at=None, **settings):
    config = TrainConfig(**{"steps": total, "lr": 2.0, **settings})
    return [rate(config, at or Rates(), step, total) for step in range(total)]


def test_shapes():
    assert rates(schedule="constant") == [2.0] * 10
    assert rates(schedule="cosine")[5] == pytest.approx(1.0)
    assert rates(schedule="cosine", final_lr=0.5)[5] == pytest.approx(1.5)
    assert rates(schedule="linear") == pytest.approx([2 * (1 - t / 10) for t in range(10)])
    assert rates(schedule="step", milestones=[0.3, 0.8], gamma=0.5) == [2.0] * 3 + [1.0] * 5 + [0.5] * 2
    assert rates(schedule="wsd", decay=0.4) == pytest.approx([2.0] * 6 + [2.0, 1.5, 1.0, 0.5])


def test_warmup_in_steps_and_as_a_share():
    assert rates(schedule="constant", warmup=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(schedule="constant", warmup=0.2)[:3] == [1.0, 2.0, 2.0]
    assert rates(schedule="linear", warmup=2) == pytest.approx([1.0, 2.0] + [2 * (1 - t / 8) for t in range(8)])
    assert rates(schedule="wsd", warmup=2, decay=0.2) == pytest.approx([1.0] + [2.0] * 8 + [1.0])


def test_what_a_growth_makes_of_the_rate():
    def grown(**options):
        return after_growth(Rates(scale=0.5, decay_scale=0.5), {**DEFAULTS, **options}, 4, ratio=0.25, warmup=1)

    assert grown() == Rates(scale=0.5, decay_scale=0.5)
    assert grown(lr="ratio") == Rates(scale=0.125, decay_scale=0.5)
    assert grown(decay="ratio") == Rates(scale=0.5, decay_scale=0.125)
    assert grown(lr="parts", new=2.0) == Rates(scale=0.5, decay_scale=0.5)  # by hooks, see test_trainer
    assert grown(lr="restart") == Rates(scale=0.5, decay_scale=0.5, start=4)
    assert grown(lr="rewarm", rewarm=3) == Rates(scale=0.5, decay_scale=0.5, rewarm_from=4, rewarm_steps=3)
    assert grown(lr="rewarm").rewarm_steps == 1  # as the first one


def test_ratio_rewarm_and_restart_in_numbers():
    assert rates(schedule="constant", at=Rates(scale=0.25)) == [0.5] * 10
    rewarmed = rates(schedule="linear", at=Rates(rewarm_from=4, rewarm_steps=2))
    assert rewarmed[4:7] == pytest.approx([1.2 * 0.5, 1.0, 0.8])
    # the full rate again, decayed over what is left
    assert [rate(TrainConfig(steps=10, lr=2.0, schedule="linear"), Rates(start=6), t, 10) for t in range(6, 10)] == \
        pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert rate(TrainConfig(steps=10, lr=2.0, schedule="cosine"), Rates(start=6), 8, 10) == pytest.approx(
        1 + math.cos(math.pi / 2))


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5),
                                       lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)], ids=["sgd", "adamw"])
def test_weight_decay_of_parts(optimizer):
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0]])
    made = optimizer(layer.parameters())
    handle = scale_decay(made, layer, {"weight": torch.tensor([[1.0, 3.0]])})
    layer.weight.grad = torch.zeros(1, 2)
    made.step()
    assert torch.allclose(layer.weight, torch.tensor([[1.0 * (1 - 0.1 * 0.5), -2.0 * (1 - 0.1 * 0.5 * 3)]]))
    handle.remove()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.zeros(1, 2)
    made.step()
    assert torch.allclose(layer.weight, before * 0.95)
