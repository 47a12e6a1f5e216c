"""GPT: what it computes, that it sees nothing that is later, and that it grows exactly in every way that applies."""
import importlib

import pytest
import torch
from support import grow, size, still

import fxgrow
from fxgrow.passes import Deepen, Widen
from fxgrow.zoo import ZooError, create_model, options_for

SMALL = {"vocabulary": 20, "length": 12, "width": 16, "depth": 2}
TOKENS = torch.arange(24).view(2, 12) * 7 % 20


@pytest.fixture(params=[False, True], ids=["learned", "rope"])
def model(request):
    torch.manual_seed(0)
    return still(create_model("gpt", **SMALL, rope=request.param))


def test_counts_by_hand(model):
    block = 4 * (16 * 16 + 16) + 16 * 64 + 64 + 64 * 16 + 16 + 4 * 16
    assert size(model) == 20 * 16 + 2 * block + 2 * 16 + 16 * 20 + (0 if model.rope else 12 * 16)
    layers = 24 * (2 * (4 * 16 * 16 + 2 * 16 * 64) + 16 * 20)  # products of 24 positions, each two FLOPs
    attention = 2 * 2 * 2 * 12 * 12 * 16  # depth, batch, two products
    assert fxgrow.count_flops(model, TOKENS).forward == 2 * (layers + attention)


def test_nothing_later_is_seen(model):
    later = TOKENS.clone()
    later[:, 8:] += 1
    out, other = model(TOKENS), model(later % 20)
    assert out.shape == (2, 12, 20) and torch.allclose(out[:, :8], other[:, :8], atol=1e-6)
    assert not torch.allclose(out[:, 8:], other[:, 8:])


def test_rotary_positions_are_relative():
    """Scores of the same tokens further on are the same."""
    turned = importlib.import_module("fxgrow.zoo._transformer").turned
    q, k = torch.randn(1, 1, 1, 8).double(), torch.randn(1, 1, 1, 8).double()
    scores = turned(q.expand(1, 1, 6, 8)) @ turned(k.expand(1, 1, 6, 8)).mT
    assert torch.allclose(scores[0, 0].diagonal(1), scores[0, 0, 0, 1].expand(5)) and not torch.allclose(
        scores[0, 0, 0], scores[0, 0, 0, 0].expand(6))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_grown(model, method):
    wider = grow(model, TOKENS, Widen(factor=2, method=method, seed=0))
    assert size(wider.model) > 3.6 * size(model) and wider.model(TOKENS).shape == (2, 12, 20)
    assert size(grow(model, TOKENS, Deepen(method=method, seed=0)).model) > 1.4 * size(model)


def test_grown_into_a_larger_one(model):
    """With rotary positions, heads stay of their size: other pairs of features would turn at other speeds."""
    large = create_model("gpt", **SMALL | {"width": 32, "depth": 3, "heads": 8}, rope=model.rope)
    grown = fxgrow.grow_into(model, large, TOKENS)
    assert fxgrow.verify(model, grown.model, TOKENS).exact_in == ("eval", "train")


def test_drawn(model, tmp_path):
    text = fxgrow.draw(model, TOKENS, tmp_path / "gpt.svg").read_text()
    assert "attention" in text and "embedding" in text


def test_options():
    assert options_for("gpt", (64,), 50) == {"vocabulary": 50, "length": 64}
    with pytest.raises(ZooError, match="3 heads do not share a width of 128"):
        create_model("gpt", heads=3)
    with pytest.raises(ZooError, match="in pairs"):
        create_model("gpt", width=12, heads=4, rope=True)
