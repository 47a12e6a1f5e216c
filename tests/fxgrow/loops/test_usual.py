"""What a network grows by where the schedule says no passes: deeper where blocks stand in a row, wider elsewhere."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from training import clusters, trainer

import fxgrow
from fxgrow.loops import Ahead, Auto, parse_growth
from fxgrow.loops.usual import Usual


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.fc2(self.fc1(self.norm(x)).relu())


def network(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Sequential(*(Block() for _ in range(blocks)))] if blocks else [nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6)]
    model = nn.Sequential(*body, nn.Linear(6, 3))
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("blocks, name, chosen, grown", [
    (2, "deepen", "deeper by netmorph, as there are blocks that can stand in a row (0.0 to 0.1)", 4),
    (1, "deepen", "deeper by netmorph, as there are blocks that can stand in a row (0.0)", 2),
    (0, "widen", "twice as wide by r2r, as there are no blocks that could stand in a row", 0)])
def test_what_is_chosen_and_that_it_is_exact(dtype, bound, blocks, name, chosen, grown):
    model = network(blocks).to(dtype)
    bigger = fxgrow.transform(model, torch.randn(4, 6, dtype=dtype), Usual(seed=1))
    step, = bigger.step.lineage
    assert step["pass"] == name and step["chosen"] == chosen
    assert sum(isinstance(m, nn.BatchNorm1d) for m in bigger.model.modules()) == grown
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, bigger.model))
    assert after > before
    x = torch.randn(7, 6, dtype=dtype)
    for train in (False, True):
        old, new = (m.train(train)(x) for m in (model, bigger.model))
        assert (old - new).abs().max() <= bound * old.abs().max()


def test_a_run_says_what_it_has_chosen():
    run = trainer("auto max_size=8", model=network(1), data=clusters(train=400, spread=1.5), steps=150, batch_size=40,
                  eval_every=100, schedule="constant")
    run.fit()
    assert run.history.growths
    for growth in run.history.growths:
        assert growth["preserving"] and "; deeper by netmorph, as there are blocks" in growth["why"]


def test_a_growth_that_is_said_is_not_chosen():
    auto = Auto(100, 10)
    for step in range(1, 41):
        auto.stepped(step, 1.0)
    assert auto.due(parse_growth("auto: widen by=1"), 40, 0, lambda: Ahead([1, 2], [10, 20])) and auto.why.endswith("a FLOP")
