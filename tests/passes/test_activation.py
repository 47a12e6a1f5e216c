"""Activation: activations that start as the identity, or as the present one, with a slope that learns at once."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from steps import archived, dead, network
from support import grow
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Activation, Skip, Widen
from fxgrow.passes.activation import ACTIVATIONS


class Functional(nn.Module):
    def __init__(self, inplace: bool):
        super().__init__()
        self.inplace = inplace
        self.kernel, self.last = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(4, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(x, self.kernel), inplace=self.inplace), self.last)


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 4, 3))


def tokens() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))


@pytest.mark.thinned(6)
@pytest.mark.parametrize("weight", ["scalar", "channel"])
@pytest.mark.parametrize("to", ACTIVATIONS)
@pytest.mark.parametrize("make, shape", [(images, (4, 3, 9, 9)), (tokens, (4, 5, 3))], ids=["images", "tokens"])
def test_every_activation_starts_as_the_identity_and_learns(make, shape, to, weight, tmp_path):
    x = torch.randn(shape)
    grown = grow(make(), x, Activation(["0", "1"], to=to, weight=weight))
    x = x.double()
    new = {n: p for n, p in grown.model.named_parameters() if grown.record.new_mask(n, p).any()}
    assert [p.numel() for p in new.values()] == ([1, 1] if weight == "scalar" else [8, 8])
    assert dead(grown, x, 1) == [set()]
    archived(grown, x, tmp_path / "grown.pt")


def test_what_it_bends_into():
    """At a = 0 it is the activation, in between it is the blend of both."""
    model, x = images().double(), torch.randn(4, 3, 9, 9, dtype=torch.float64)
    for to in ACTIVATIONS:
        grown = fxgrow.transform(model, x, Activation("3", to=to)).model.eval()
        (a,) = grown.activation.parameters()
        y = model.eval()(x)
        for value in (1.0, 0.25, 0.0):
            with torch.no_grad():
                a.fill_(value)
            assert torch.allclose(grown(x), (1 - value) * ACTIVATIONS[to](y) + value * y)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("weight", ["scalar", "channel"])
@pytest.mark.parametrize("to", ["identity", "silu"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", ["layer", "call"])
def test_a_present_activation_is_bent_into_another(kind, inplace, to, weight, tmp_path):
    """An activation in place overwrites what the new one needs."""
    x = torch.randn(4, 3, 9, 9)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace), nn.Conv2d(8, 4, 3))
    model, where = (Functional(inplace), "relu") if kind == "call" else (layers, "1")
    grown = grow(model, x, Activation(where, to=to, mode="replace", weight=weight))
    x = x.double()
    assert dead(grown, x, 1) == [set()]
    archived(grown, x, tmp_path / "grown.pt")
    with torch.no_grad():
        grown.model.activation.a.fill_(1)
        new = ACTIVATIONS.get(to, lambda y: y)
        wanted = F.conv2d(new(F.conv2d(x, model.kernel)), model.last) if kind == "call" else model[2](new(model[0](x)))
    assert torch.allclose(grown.model(x), wanted)


@pytest.mark.parametrize("name, insert, replace", [
    ("resnet18", ["layer1.*", "layer2.*.conv2", "fc"], "*.relu"),
    pytest.param("efficientnet_b0", ["features.[2-7].0", "classifier.1"], "features.0.2",
                 marks=pytest.mark.sweep)])
def test_whole_networks_grow_learn_and_are_archived(name, insert, replace, tmp_path):
    model, x = network(name), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Activation(insert, to="gelu", weight="channel"), Widen("*.0.*", factor=1.25, seed=0),
                 Activation(replace, to="identity", mode="replace"), Skip(insert[0]))
    assert dead(grown, x) == [set(), set()]
    archived(grown, x, tmp_path / "grown.pt")


def test_a_layer_called_twice_gets_two():
    grown = grow(network("resnet18"), torch.randn(2, 3, 32, 32), Activation("layer1.0.relu", to="silu", mode="replace"),
                 double=False)
    assert list(grown.model.layer1.get_submodule("0")._modules)[-2:] == ["activation", "activation_2"]


def test_a_relu_is_the_stock_prelu_which_later_widenings_know():
    grown = grow(images(), torch.randn(4, 3, 9, 9), Activation("1", weight="channel"), Widen("0", by=4, seed=0))
    layer = grown.model.activation
    assert type(layer) is nn.PReLU and layer.num_parameters == 12 and layer.weight[:8].eq(1).all()


def test_the_result_compiles():
    x = torch.randn(4, 3, 9, 9)
    model = grow(images(), x, Activation("0", to="mish"), Activation("2", to="relu", mode="replace"), double=False).model
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


@pytest.mark.parametrize("where, options, reason", [
    ("1", {}, "a relu next to a relu"), ("0", {}, "a relu next to a relu"),
    ("0", {"to": "silu", "mode": "replace"}, "differ in size"),
])
def test_what_would_not_work_is_refused_with_its_reason(where, options, reason):
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 9, 9),
                         Activation(where, **options))


@pytest.mark.parametrize("where, options", [("2", {"to": "relu"}), ("3", {"to": "elu"}), ("1", {"mode": "replace"})])
def test_one_that_changes_nothing_and_would_never_learn_is_refused(where, options):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1))
    with pytest.raises(SelectionError, match="would never learn"):
        fxgrow.transform(model, torch.randn(2, 3, 16, 16), Activation(where, **options))


@pytest.mark.parametrize("options", [{"to": "cube"}, {"to": "identity"}, {"mode": "swap"}, {"weight": "matrix"}])
def test_options_that_make_no_sense_are_errors(options):
    with pytest.raises(GrowthError, match="choose one of"):
        Activation("0", **options)
