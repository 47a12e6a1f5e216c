"""Channels that are read as space: new ones are zero where their neighbours would see them, by the weights in front."""
import pytest
import torch
import torch.nn.functional as F
from learning import waiting
from support import shake
from torch import nn

import fxgrow
from fxgrow.passes import Deepen, Widen


class Attention(nn.Module):
    """ECA: the mean of each channel, and a gate of it and its neighbours."""

    def __init__(self, kernel: int = 3, mode: str = "zeros"):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, padding_mode=mode, bias=kernel > 3)

    def forward(self, x):
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.transpose(1, 2).unsqueeze(3)


class Standardised(nn.Conv2d):
    """A convolution of standardised rows, with a gain (as NFNets have)."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        rows = F.batch_norm(self.weight.view(1, self.out_channels, -1), None, None, weight=(self.gain * 0.3).view(-1),
                            training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, rows, self.bias, padding=self.padding)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return F.relu(x + self.layers(x))


def conv(i, o):
    return nn.Conv2d(i, o, 3, padding=1, bias=False)


NETWORKS = {
    "behind a norm": lambda: [conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(),
                              Block(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.BatchNorm2d(8), Attention()),
                              Block(conv(8, 8), nn.BatchNorm2d(8), Attention(5))],
    "behind an activation": lambda: [conv(3, 8), nn.BatchNorm2d(8), nn.SiLU(), Attention(), conv(8, 8), nn.GELU()],
    "behind a convolution": lambda: [nn.Conv2d(3, 8, 3), Attention(), nn.SiLU(), conv(8, 8), nn.Tanh()],
    "behind standardised rows": lambda: [conv(3, 8), nn.SiLU(), Block(Standardised(8, 8, 3, padding=1), Attention())],
}


def network(layers: list[nn.Module]) -> nn.Module:
    return shake(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double())


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_are_read_as_space_grow_and_learn(name):
    model, x = network(NETWORKS[name]()), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    assert sum(p.numel() for p in grown.model.parameters()) > 2.5 * sum(p.numel() for p in model.parameters())
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
    said = " ".join(o.certificate for o in grown.outcomes)
    assert not [n for n in waiting(grown, x) if n not in said]


def test_they_grow_again_and_come_back_from_a_file(tmp_path):
    model, x = network(NETWORKS["behind a norm"]()), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    steps = [Widen(factor=1.5, method="netmorph", seed=0), Widen(factor=2, seed=1), Deepen(seed=2)]
    grown = fxgrow.transform(model, x, steps)
    assert fxgrow.verify(model, grown.model, x).ok
    fxgrow.save(grown, tmp_path / "grown.fxgrow")
    assert fxgrow.verify(model, fxgrow.load(tmp_path / "grown.fxgrow"), x).ok


class Mixer(nn.Module):
    """Tokens as channels, which a kernel of one mixes at each of the numbers of a token alone."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.mix = nn.Sequential(nn.Conv1d(5, 6, 1), nn.GELU(), nn.Conv1d(6, 5, 1))

    def forward(self, x):
        h = self.first(x)
        return self.last(self.norm(h + self.mix(self.norm(h))))


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_where_each_number_is_mixed_alone_it_may_be_any(method):
    model, x = shake(Mixer().double()), torch.randn(4, 5, 3, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, method=method, seed=0))
    assert grown.model.first.out_features == 16 and grown.model.mix.get_submodule("0").out_channels == 12
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")


@pytest.mark.parametrize("layers, why", {
    "dead": ([conv(3, 8), nn.ReLU(), Attention()], "would never learn"),
    "dead behind a norm": ([conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Attention()], "would never learn"),
    "circular": ([conv(3, 8), nn.SiLU(), Attention(mode="circular")], "it is spatial"),
    "other than zero": ([conv(3, 8), nn.Softplus(), Attention()], "gives no zeros"),
}.values())
def test_what_would_never_learn_or_is_no_zero_is_left_alone(layers, why):
    model, x = network(layers), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(fxgrow.FxgrowError, match="nothing in the model can grow"):
        fxgrow.transform(model, x, Widen(factor=2, seed=0))
    assert any(why in row["reason"] for row in fxgrow.axes(model, x).to_json())
