"""Attention maps: found whatever computes them, rows that sum to one, and the heads that growth brought."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import DrawError, SelectionError
from fxgrow.passes import Widen
from fxgrow.visual.attention import maps_of
from fxgrow.visual.filters import BLUE
from fxgrow.visual.networks import networks

IDS = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])


class Attends(nn.Module):
    """Four heads of four, by a function or by a softmax written out."""

    def __init__(self, fused: bool):
        super().__init__()
        self.emb, self.fused = nn.Embedding(9, 16), fused
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, ids):
        x = self.emb(ids)
        q, k, v = (layer(x).view(*ids.shape, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Embedding(9, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


@pytest.mark.parametrize("make,where", [(lambda: Attends(True), "q:heads"), (lambda: Attends(False), "q:heads"),
                                        (encoder, "1.layers.0.self_attn:heads")])
def test_old_heads_look_at_the_same_and_new_ones_are_framed(make, where, tmp_path):
    torch.manual_seed(0)
    grown = fxgrow.transform(make().double().eval(), IDS, Widen(where, factor=1.5, seed=0, method="r2r"))
    picture = fxgrow.plot_attention(grown, inputs=IDS)
    before, after = picture.facts[:2]
    assert (before["heads"], after["heads"], before["new_heads"], after["new_heads"]) == (4, 6, [], [4, 5])
    assert after["difference"] < 1e-9
    images = [panel.image for panel in picture.panels[0]]
    blue = [bool((image == torch.tensor(BLUE).numpy()).all(-1).any()) for image in images]
    assert blue == [False, True] and images[0].shape[1] == images[1].shape[1]  # the same columns
    picture.save(tmp_path / "a.png")


def test_a_map_is_the_softmax_of_the_products():
    torch.manual_seed(0)
    model = Attends(True).double().eval()
    maps, = maps_of(networks(model, IDS)[0], IDS).values()
    x = model.emb(IDS[:1])
    q, k = (layer(x).view(1, 5, 4, 4).transpose(1, 2) for layer in (model.q, model.k))
    assert torch.allclose(maps.values, torch.softmax(q @ k.transpose(-1, -2) / 2, -1)[0])


def test_refusals():
    with pytest.raises(DrawError, match="computes no attention"):
        fxgrow.plot_attention(nn.Linear(3, 3), torch.zeros(1, 3))
    with pytest.raises(SelectionError, match="1.layers.0.self_attn"):
        fxgrow.plot_attention(encoder(), IDS, layer="1.layers.0.self_atn")
