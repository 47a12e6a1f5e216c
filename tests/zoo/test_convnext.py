"""ConvNeXt for small images: what it computes, and that it grows exactly in every way that applies."""
import pytest
import torch
from support import grow, size, still

import fxgrow
from fxgrow.passes import Deepen, Kernel, Widen
from fxgrow.zoo import ZooError, create_model

SMALL = {"widths": (8, 12), "blocks": (1, 2), "size": 8}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return still(create_model("convnext32", **SMALL))


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_counts_by_hand(model, x):
    def block(c: int) -> int:
        return 49 * c + c + 2 * c + c * 4 * c + 4 * c + 4 * c * c + c + c

    assert size(model) == 12 * 8 + 8 + 16 + block(8) + 16 + 4 * 8 * 12 + 12 + 2 * block(12) + 24 + 12 * 10 + 10
    stages = 16 * (12 * 8 + 49 * 8 + 8 * 8 * 8) + 4 * (4 * 8 * 12 + 2 * (49 * 12 + 8 * 12 * 12))
    assert fxgrow.count_flops(model, x).forward == 2 * 2 * (stages + 12 * 10)


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_grown(model, x, method):
    assert size(grow(model, x, Widen(factor=2, method=method, seed=0)).model) > 3 * size(model)
    assert size(grow(model, x, Deepen(method=method, seed=0)).model) > 1.4 * size(model)


def test_kernels_grow(model, x):
    assert grow(model, x, Kernel("stages.0.0.conv", size=9)).model.get_submodule("stages.0.0.conv").kernel_size == (9, 9)


def test_grown_into_a_larger_one_and_drawn(model, x, tmp_path):
    large = create_model("convnext32", **SMALL | {"widths": (16, 24), "blocks": (2, 3)})
    assert fxgrow.verify(model, fxgrow.grow_into(model, large, x).model, x).exact_in == ("eval", "train")
    assert "conv" in fxgrow.draw(model, x, tmp_path / "convnext.svg").read_text()


def test_what_does_not_go_together():
    with pytest.raises(ZooError, match="a size that 8 divides"):
        create_model("convnext32", size=12)
