"""`residual="fold"`: one volume of a residual stream grows alone, and the skip path folds its pairs."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import grow, shake
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.layers import fold_pairs
from fxgrow.passes import Widen

STEPS = {
    "after": lambda x, f: torch.relu(x + f(x)),
    "before": lambda x, f: x + f(torch.relu(x)),
    "in place": lambda x, f: f(x).add_(x).relu_(),
    "onto the stream": lambda x, f: torch.tanh(x.__iadd__(f(x))),
    "written to, then read": lambda x, f: (x.add_(f(x)), torch.tanh(x))[1],
    "twice": lambda x, f: x + f(x) + x,
}


class Residual(nn.Module):
    """A stem, blocks of the kinds given, and a head that reads the stream."""

    def __init__(self, *kinds: str, width: int = 6):
        super().__init__()
        self.kinds = kinds
        self.stem, self.head = nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(width, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
                                                  nn.Conv2d(5, width, 1), nn.BatchNorm2d(width)) for _ in kinds)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, block in zip(self.kinds, self.blocks):
            x = STEPS[kind](x, block)
        return self.head(x)


def picture() -> Tensor:
    return torch.randn(2, 3, 7, 7)


def folds(model: nn.Module) -> list[tuple[int, int]]:
    return [node.args[2:] for node in model.graph.nodes if node.target is fold_pairs]


def widths(model: nn.Module) -> list[int]:
    return [model.stem.out_channels, *(block.get_submodule("3").out_channels for block in model.blocks.children())]


def test_one_volume_grows_between_two_additions():
    model = Residual("after", "before", "after")
    grown = grow(model, picture(), Widen("blocks.1.3", by=4, residual="fold", seed=0))
    assert widths(grown.model) == [6, 6, 10, 6] and folds(grown.model) == [(6, 10), (6, 6)]
    assert "x_old + x_L - x_R" in grown.explain()


def test_each_volume_grows_alone():
    grown = grow(Residual("after", "before"), picture(), Widen(["stem", "blocks.*.3"], by=2, residual="fold", seed=0))
    assert widths(grown.model) == [8, 8, 8] and folds(grown.model) == [(6, 8), (6, 8)]


def test_more_pairs_than_positions_and_no_stream_at_all():
    grown = grow(Residual("after", "after"), picture(), Widen("stem", factor=6, residual="fold", seed=0))
    assert widths(grown.model) == [36, 6, 6]
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    assert not folds(grow(plain, picture(), Widen(factor=2, residual="fold", seed=0)).model)


def test_old_numbers_get_the_gradients_they_had():
    model, x = shake(Residual("after", "before")).double(), picture().double()
    grown = fxgrow.transform(model, x, [Widen("stem", by=4, residual="fold", seed=0)])
    for m in (model, grown.model):
        m(x).square().sum().backward()
    for name, old in model.named_parameters():
        new = grown.model.get_parameter(name).grad
        if name.endswith("0.weight") and name.startswith("blocks.0"):
            assert new[:, 6:].abs().min() > 0
        torch.testing.assert_close(new[tuple(slice(s) for s in old.shape)], old.grad)


def test_what_folds_no_pairs_is_refused_or_left_alone():
    with pytest.raises(GrowthError, match="pairs of r2r"):
        Widen(factor=2, method="netmorph", residual="fold")

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.mix = nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.stem(x)
            return (x + self.mix(self.norm(x))).sum()

    with pytest.raises(SelectionError, match="normalises over it"):
        fxgrow.transform(Normed(), torch.randn(4, 3), [Widen("stem", factor=2, residual="fold")])


@proves(25)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3), st.data())
def test_folding_composes_with_every_other_widening(kinds, data):
    torch.manual_seed(0)
    methods = data.draw(st.lists(st.sampled_from(["r2r", "net2net", "netmorph", "fold"]), min_size=1, max_size=3))
    where = ["stem", "blocks.*.3", "blocks.0.3"]
    steps = [Widen(where[:1 + data.draw(st.integers(0, 2))] if m == "fold" else None, factor=1.5, seed=i,
                   **({"residual": "fold"} if m == "fold" else {"method": m})) for i, m in enumerate(["fold", *methods])]
    grown = grow(Residual(*kinds), picture(), steps[0])
    for step in steps[1:]:
        try:
            grown = grow(grown.model, picture(), step)
        except SelectionError as why:
            assert step.residual == "fold", why  # only volumes that are folded already
