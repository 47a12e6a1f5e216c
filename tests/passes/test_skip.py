"""Skip: connections of weight zero, past layers, blocks and calls, from a value as it was when it was read."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from steps import archived, dead, network
from support import grow
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Skip, Widen


class Overwritten(nn.Module):
    """A block that writes to what it takes, and whose result is written to in turn."""

    def __init__(self, way: str):
        super().__init__()
        self.stem, self.block, self.last = nn.Conv2d(3, 4, 3), Block(way), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x += 1
        return self.last(F.relu(x, inplace=True))


class Block(nn.Module):
    def __init__(self, way: str):
        super().__init__()
        self.way, self.relu, self.conv = way, nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "layer":
            x = self.relu(x)
        elif self.way == "method":
            x = x.sub_(0.1)
        elif self.way == "view":
            x.flatten(1).mul_(2)
        elif self.way == "dropout":
            x = F.dropout(x, 0.5, self.training, True)
        return self.conv(x)


class Aliased(nn.Module):
    """The value of `view` is written to, and read under its other name."""

    def __init__(self):
        super().__init__()
        self.conv, self.view = nn.Conv2d(3, 4, 3), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.view(x)
        y += 1
        return x.mean((2, 3)) + y.mean()


class Two(nn.Module):
    """A block of two inputs and two outputs inside a network of one."""

    def __init__(self):
        super().__init__()
        self.pair, self.first, self.second = Pair(), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pair(self.first(x), self.second(x))
        return a + b


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(a + b), torch.tanh(a * b)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.last = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.tanh(F.conv2d(x, self.kernel, padding=1)), self.last, padding=1)


def picture() -> Tensor:
    return torch.randn(2, 3, 12, 12)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 1, enable_nested_tensor=False)


CASES = {
    "scalar": lambda: (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), picture(), "0"),
    "more channels": lambda: (nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh()), picture(), "0"),
    "stride": lambda: (nn.Sequential(nn.Conv2d(3, 6, 3, (2, 3), 1), nn.Tanh()), picture(), "0"),
    "pool": lambda: (nn.Sequential(nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 2, 1)), picture(), "1"),
    "global pool": lambda: (nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1)), picture(), "1"),
    "padded pool": lambda: (nn.Sequential(nn.Conv2d(3, 6, 2), nn.MaxPool2d(2, padding=1), nn.Tanh()), picture(), "1"),
    "1d": lambda: (nn.Sequential(nn.Conv1d(3, 6, 3, 2, 1), nn.Tanh()), torch.randn(2, 3, 8), "0"),
    "3d": lambda: (nn.Sequential(nn.Conv3d(3, 6, 3, 2, 1), nn.Tanh()), torch.randn(2, 3, 6, 6, 6), "0"),
    "linear": lambda: (nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(4, 3), "0"),
    "tokens": lambda: (nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(4, 5, 3), "2"),
    "block": lambda: (nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(True)),
                                    nn.Conv2d(6, 2, 3)), picture(), "0"),
    "transformer": lambda: (nn.Sequential(nn.Linear(3, 8), encoder(), nn.Linear(8, 2)), torch.randn(2, 5, 3), "1.layers.0"),
    "functional": lambda: (Functional(), picture(), "conv2d_1"),
    "layer of a functional network": lambda: (nn.Sequential(Functional(), nn.Tanh()), picture(), "0"),
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("weight", ["scalar", "channel", "matrix"])
@pytest.mark.parametrize("name", CASES)
def test_past_every_kind_of_layer(name, weight, tmp_path):
    model, x, where = CASES[name]()
    grown = grow(model, x, Skip(where, weight=weight))
    assert ("interpolate" in grown.model.code) == ("pool" in name)  # sizes that are rounded in other ways
    x = x.double()
    assert dead(grown, x, 1) == [set()]
    new = {n: p for n, p in grown.model.named_parameters() if grown.record.new_mask(n, p).any()}
    assert len(new) == 1 and not any(p.count_nonzero() for p in new.values())
    archived(grown, x, tmp_path / "grown.pt")


@pytest.mark.parametrize("way", ["none", "layer", "method", "view", "dropout"])
def test_the_input_is_read_before_it_is_overwritten(way):
    """With a weight of one, the connection adds what came in, and training runs."""
    model = Overwritten(way)
    x = picture().double()
    grown = grow(model, x, Skip("block"), train=way != "dropout")
    assert dead(grown, x, 1) == [set()]
    with torch.no_grad():
        grown.model.block.skip.weight.fill_(1)
        came = model.stem(x)
        wanted = model.last(F.relu(model.eval().block(came.clone()) + came + 1))
    assert torch.allclose(grown.model.eval()(x), wanted)


def test_a_connection_over_several_blocks():
    model, x = network("resnet18", wide=True), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Skip("layer1.0", to="layer2.1"))
    assert grown.model.get_submodule("layer1.0.skip").weight.shape == (128, 64, 1, 1)
    assert [o.name for o in grown.outcomes] == ["layer1.0 to layer2.1"]
    with pytest.raises(SelectionError, match="comes before it"):
        fxgrow.transform(model, x, Skip("layer2.1", to="layer1.0"))
    for to, count in (("layer9", "no"), ("layer1.0.relu", "2")):
        with pytest.raises(SelectionError, match=f"names {count} calls"):
            fxgrow.transform(model, x, Skip("layer1.0", to=to))


@pytest.mark.parametrize("name, where", [("resnet18", ["layer1.*", "layer2", "layer3.*.relu", "layer4.0.conv2"]),
                                         pytest.param("efficientnet_b0", ["features.[1-7].0", "classifier"],
                                                      marks=pytest.mark.sweep)])
def test_whole_networks_grow_learn_and_are_archived(name, where, tmp_path):
    model, x = network(name), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Skip(where), Widen("*.0.*", factor=1.25, seed=0), Skip(where, weight="channel"))
    assert dead(grown, x)[-1] == set()
    archived(grown, x, tmp_path / "grown.pt")


def test_a_glob_names_the_outermost_places():
    grown = grow(network("resnet18"), torch.randn(2, 3, 32, 32), Skip("layer1*"), Skip("layer2.*"), double=False)
    assert [o.name for o in grown.outcomes] == ["layer1", "layer2.0", "layer2.1"]


def test_the_result_compiles():
    x = picture()
    model = grow(Overwritten("layer"), x, Skip("block"), double=False).model
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


@pytest.mark.parametrize("model, where, reason", [
    (Two(), "pair", "gives 2 tensors"),
    (nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), "0", "no connection leads from"),
    (nn.Sequential(nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(24, 1)), "0", "which axis"),
    (nn.Sequential(nn.ConvTranspose1d(3, 3, 2, 2)), "0", "no stride leads from"),
    (Aliased(), "view", "read under another name"),
], ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_what_cannot_be_connected_is_refused_with_its_reason(model, where, reason):
    x = torch.randn(2, 4) if isinstance(model, Two) else torch.randn(2, 3, 12, 12) if isinstance(model, Aliased) \
        else torch.randn(2, 3, 4)
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(model, x, Skip(where))


def test_a_single_call_is_named_behind_its_module():
    assert [o.name for o in grow(Two(), torch.randn(2, 4), Skip("pair:tanh*")).outcomes] == ["pair:tanh", "pair:tanh_1"]


def test_options_that_make_no_sense_are_errors():
    with pytest.raises(GrowthError, match="choose one of scalar, channel, matrix"):
        Skip("x", weight="vector")
    with pytest.raises(SelectionError, match="names no layer, block or call; the nearest are"):
        fxgrow.transform(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), Skip("one"))
