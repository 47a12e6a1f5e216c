"""SqueezeExcite: gates behind layers and blocks that are exactly one, and learn from the second step on."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from steps import archived, dead, network
from support import grow
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Activation, Kernel, Skip, SqueezeExcite, Widen


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.last = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(4, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(x, self.kernel)), self.last)


class Mixer(nn.Module):
    """Layers along two axes: which one the channels are on is a matter of opinion."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).transpose(1, 2)).transpose(1, 2)


class Overwriting(nn.Module):
    """What the gate reads is written to afterwards."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.last = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x += 1
        return self.last(self.relu(x))


CASES = {
    "image": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(True), nn.Conv2d(8, 4, 3)), (4, 3, 9, 9),
              "1", nn.Conv2d),
    "sound": (lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), (4, 3, 9), "0", nn.Conv1d),
    "volume": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 3)), (4, 3, 6, 6, 6), "0", nn.Conv3d),
    "features": (lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), (6, 3), "1", nn.Linear),
    "tokens": (lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)), (6, 5, 3), "1", nn.Linear),
    "functional": (Functional, (4, 3, 9, 9), "relu", nn.Conv2d),
    "overwriting": (Overwriting, (4, 3, 9, 9), "conv", nn.Conv2d),
}


@pytest.mark.parametrize("name", CASES)
def test_behind_every_kind_of_layer(name, tmp_path):
    make, shape, where, kind = CASES[name]
    x = torch.randn(shape)
    grown = grow(make(), x, SqueezeExcite(where, seed=0))
    gate = grown.model.se
    assert type(gate.fc1) is type(gate.fc2) is kind
    x = x.double()
    assert dead(grown, x) == [{"se.fc1.weight", "se.fc1.bias"}, set()]
    archived(grown, x, tmp_path / "grown.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gate_is_exactly_one(dtype):
    model, x = CASES["image"][0]().to(dtype), torch.randn(4, 3, 9, 9, dtype=dtype)
    grown = fxgrow.transform(model, x, SqueezeExcite("2", seed=0))
    assert fxgrow.verify(model, grown.model, x).max_abs_error == 0


@pytest.mark.parametrize("name, where, gates", [("resnet18", "*.bn2", 8), ("resnet18", ["layer1.*", "layer2.0"], 3),
                                                pytest.param("efficientnet_b0", "features.[1-8].0", 8,
                                                             marks=pytest.mark.sweep)])
def test_whole_networks_grow_learn_and_are_archived(name, where, gates, tmp_path):
    model, x = network(name), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, SqueezeExcite(where, reduction=8, seed=0), Widen("*.fc1", factor=1.5, seed=0))
    names = [o.name for o in grown.outcomes if o.method == "gates of one"]
    assert len(names) == gates
    first, second = dead(grown, x)
    assert first and all("fc" in n for n in first) and not second
    archived(grown, x, tmp_path / "grown.pt")


def test_where_its_layers_are():
    model = grow(network("resnet18", wide=True), torch.randn(2, 3, 32, 32),
                 SqueezeExcite(["layer1.*.bn2", "layer2.0"], seed=0), SqueezeExcite("layer2.0", seed=1), double=False).model
    assert model.layer1.get_submodule("1").se.fc2.weight.shape == (64, 8, 1, 1)
    assert list(model.layer2.get_submodule("0")._modules)[-2:] == ["se", "se_2"]


def test_one_seed_one_network():
    def made(seed):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
        return fxgrow.transform(model, torch.zeros(2, 3), SqueezeExcite("0", seed=seed))

    a, b, c, d, e = (made(seed) for seed in (0, 0, 1, None, None))
    weights = [g.model.se.fc1.weight for g in (a, b, c, d, e)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[3], weights[4]) and isinstance(d.record.lineage[0]["seed"], int)


def test_with_other_passes_before_and_behind(tmp_path):
    model, x = network("resnet18"), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Kernel("layer1", size=5), SqueezeExcite("layer1.*.bn2", seed=0), Skip("layer1.*"),
                 Widen("layer1.*", factor=1.5, method="netmorph", seed=0), Activation("layer1.*.bn1", to="tanh"),
                 SqueezeExcite("layer1.*.se.fc1", seed=1), Kernel("layer1.0.se.fc1", size=3))
    archived(grown, x, tmp_path / "grown.pt")


def test_the_result_compiles():
    x = torch.randn(4, 3, 9, 9)
    model = grow(Overwriting(), x, SqueezeExcite("conv", seed=0), double=False).model
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


def test_what_has_no_channels_is_refused_with_its_reason():
    with pytest.raises(SelectionError, match="channels are on is not clear: 2 of them are made by layers"):
        fxgrow.transform(Mixer(), torch.randn(2, 5, 3), SqueezeExcite("second"))
    with pytest.raises(SelectionError, match="not clear: none of them is"):
        fxgrow.transform(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3)), torch.randn(2, 3, 5, 5), SqueezeExcite("0"))
    with pytest.raises(GrowthError, match="at least 1"):
        SqueezeExcite("0", reduction=0)
