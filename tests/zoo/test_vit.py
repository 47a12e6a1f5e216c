"""The small vision transformer: what it computes, and that it grows exactly in every way that applies."""
import pytest
import torch
from support import grow, size, still

import fxgrow
from fxgrow.passes import Deepen, Widen
from fxgrow.zoo import ZooError, create_model

SMALL = {"width": 24, "depth": 2, "size": 8, "in_channels": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return still(create_model("vit_small32", **SMALL))


@pytest.fixture
def x():
    return torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_counts_by_hand(model, x):
    block = 4 * (24 * 24 + 24) + 24 * 96 + 96 + 96 * 24 + 24 + 4 * 24
    assert size(model) == 2 * 16 * 24 + 24 + 4 * 24 + 2 * block + 2 * 24 + 24 * 10 + 10
    products = 8 * (2 * 16 * 24 + 2 * (4 * 24 * 24 + 2 * 24 * 96)) + 2 * 24 * 10 + 2 * 2 * 2 * 4 * 4 * 24
    assert fxgrow.count_flops(model, x).forward == 2 * products


def test_the_place_of_a_patch_matters(model, x):
    assert model(x).shape == (2, 10) and not torch.allclose(model(x), model(x.flip(2)), atol=1e-4)


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_grown(model, x, method):
    assert size(grow(model, x, Widen(factor=2, method=method, seed=0)).model) > 3.6 * size(model)
    assert size(grow(model, x, Deepen(method=method, seed=0)).model) > 1.4 * size(model)


def test_grown_into_a_larger_one_and_drawn(model, x, tmp_path):
    large = create_model("vit_small32", **SMALL | {"width": 48, "depth": 3, "heads": 6})
    assert fxgrow.verify(model, fxgrow.grow_into(model, large, x).model, x).exact_in == ("eval", "train")
    assert "attention" in fxgrow.draw(model, x, tmp_path / "vit.svg").read_text()


def test_what_does_not_go_together():
    with pytest.raises(ZooError, match="patches of 4 do not cover an image of 30"):
        create_model("vit_small32", size=30)
    with pytest.raises(ZooError, match="5 heads do not share"):
        create_model("vit_small32", heads=5)
