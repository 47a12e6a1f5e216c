"""Every model of the zoo grown by every method: the same function, with shaken weights and statistics.

`grow` compares in double precision, in eval and in train mode, and allows a relative error of 1e-9.
"""
import pytest
import torch
from support import grow, size, still

import fxgrow
from fxgrow.passes import Deepen, Widen
from fxgrow.zoo import create_model, list_models, options_for

METHODS = ["r2r", "net2net", "netmorph"]
# narrow, on small inputs: what grows is the same as in the whole network
NARROW = {
    "cifar_resnet10": {"r": 2 ** -3, "size": 16}, "cifar_resnet18": {"r": 2 ** -3, "size": 16}, "mlp": {"r": 2 ** -3},
    "resnet1d": {"r": 0.25}, "mnist_resnet": {"size": 12}, "residual3": {"r": 0.5, "size": 8},
    "net2net_conv": {"r": 0.25, "size": 8}, "inception_v4_small": {"r": 2 ** -4, "size": 16},
    "inception_v4_1d": {"r": 2 ** -4}, "inception_resnet_v2_1d": {"r": 2 ** -4},
    "inception_resnet_v2_small": {"r": 2 ** -4, "size": 16}, "inception_bn": {"r": 2 ** -4, "size": 48, "num_classes": 10},
    "inception_v4": {"r": 2 ** -5, "size": 91, "num_classes": 10},
    "inception_resnet_v2": {"r": 2 ** -5, "size": 91, "num_classes": 10}}
ELSEWHERE = {"convnext32", "gpt", "vit_small32"}  # grown in the test of their own file

# net2net's new layers in these are a convolution with its batch norm, which undoes running statistics, not those of a batch
IDENTITY_LAYERS = {"inception_bn", "inception_resnet_v2_1d", "inception_resnet_v2_small", "inception_v4", "inception_v4_1d",
                   "inception_v4_small"}


def narrow(name: str):
    torch.manual_seed(0)
    model = still(create_model(name, **NARROW[name]))
    return model, torch.randn(2, *model.input_shape)


def test_every_model_is_grown():
    assert sorted({*NARROW, *ELSEWHERE}) == list_models()


@pytest.mark.thinned(10)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NARROW)
def test_widened(name, method):
    model, x = narrow(name)
    grown = grow(model, x, Widen(factor=2, method=method, seed=0))
    assert size(grown.model) > (2 if name == "mlp" else 3.6) * size(model)
    left = [o.reason for o in grown.outcomes if not o.method]
    assert all("the model's input" in why or "the model's output" in why for why in left), left
    assert {o.method for o in grown.outcomes if o.method} == {method}


@pytest.mark.thinned(21)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NARROW)
def test_deepened(name, method):
    model, x = narrow(name)
    grown = grow(model, x, Deepen(method=method, seed=0), train=method != "net2net" or name not in IDENTITY_LAYERS)
    assert size(grown.model) > size(model)
    assert {o.method for o in grown.outcomes if not o.reason} <= {method, "netmorph"}
    assert method in {o.method for o in grown.outcomes}


@pytest.mark.thinned(7)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("branch, width", [("0", 6), ("1.1", 6), ("2.2", 6), ("3.1", 6)])
def test_one_of_the_parallel_layers(branch, width, method):
    """Readers of a concatenation get their new columns in the middle of the old ones."""
    model, x = narrow("inception_v4_small")
    layer = f"features.a.branches.{branch}.conv"
    assert model.get_submodule(layer).out_channels == width
    grown = grow(model, x, Widen(layer, by=width, method=method, fallback="never", seed=0))
    assert grown.model.get_submodule(layer).out_channels == 2 * width
    assert grown.model.get_submodule("features.reduction_a.branches.0.conv").in_channels == 5 * width


@pytest.mark.parametrize("method", METHODS)
def test_every_parallel_layer_of_a_residual_block(method):
    """The stream around the block stays as wide as it was."""
    model, x = narrow("inception_resnet_v2_small")
    grown = grow(model, x, Widen("features.b.branches.*", factor=2, method=method, fallback="never", seed=0))
    before, after = model.features.b.conv, grown.model.get_submodule("features.b.conv")
    assert (after.in_channels, after.out_channels) == (2 * before.in_channels, before.out_channels)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name, passes", [
    ("cifar_resnet10", [Widen(factor=1.5, seed=0), Deepen("stages.0", method="net2net", seed=1)]),
    ("inception_v4_small", [Widen(factor=1.5, seed=0), Widen("features.b.*", factor=2, method="net2net", seed=1)]),
    ("mlp", [Deepen(method="net2net", seed=0), Widen(factor=2, method="netmorph", seed=1)])])
def test_grown_twice_saved_and_taken_back(name, passes, tmp_path):
    model, x = narrow(name)
    grown = grow(model, x, *passes, train=False)
    fxgrow.save(grown, tmp_path / "grown.pt")
    again = fxgrow.load(tmp_path / "grown.pt")
    assert fxgrow.verify(model, again, x.double()).ok
    assert fxgrow.verify(model, grown.record.shrink(again), x.double()).ok


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name, shape", [("cifar_resnet18", (1, 8, 8)), ("mnist_resnet", (1, 8, 8)), ("mlp", (1, 8, 8)),
                                         ("net2net_conv", (1, 8, 8)), ("inception_v4_small", (1, 8, 8)),
                                         ("inception_resnet_v2_small", (1, 8, 8)), ("inception_v4_1d", (2, 24)),
                                         ("resnet1d", (1, 40))])
def test_what_the_smallest_data_need(name, shape):
    torch.manual_seed(0)
    model = create_model(name, **options_for(name, shape, 10), r=2 ** -4 if "inception" in name else 0.25)
    grow(model, torch.randn(4, *shape), Widen(factor=2, seed=0))
