"""Draws the ten networks of docs/diagrams.md, and counts what others' pictures of them would hold.

    python tools/draw_networks.py [--out docs/img/networks] [--torchview] [NAME ...]

Weights play no part, and the same networks give the same bytes. --torchview prints how many boxes torchview's pictures have
(`pip install torchview`), at its usual depth and in full.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fxgrow.diagram import Look, write

ROOT = Path(__file__).resolve().parent.parent
IDS = torch.zeros(2, 16, dtype=torch.long)
LOOK = Look(legend=False)


class UNet(nn.Module):
    """Three levels down and up; what is kept on the way down is concatenated on the way up."""

    def __init__(self):
        super().__init__()
        sizes = (3, 16, 32, 64)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:]))
        self.bottom = nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((128, 32), (64, 16), (32, 8)))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            kept.append(torch.relu(layer(x)))
            x = F.max_pool2d(kept[-1], 2)
        x = torch.relu(self.bottom(x))
        for layer in self.up:
            x = torch.relu(layer(torch.cat([F.interpolate(x, scale_factor=2), kept.pop()], 1)))
        return self.head(x)


class GraphNet(nn.Module):
    """Twenty-four rounds of messages along a dense adjacency, each added to a stream."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        self.convs = nn.ModuleList(nn.Linear(32, 32) for _ in range(24))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(24))

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = self.embed(nodes)
        for conv, norm in zip(self.convs, self.norms):
            x = x + torch.relu(norm(adjacency @ conv(x)))
        return self.head(x)


class Decoder(nn.Module):
    """A language model written by hand: lists of layers, one loop, a table of positions, and a tied head."""

    def __init__(self, depth: int = 12, size: int = 64):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, size), nn.Embedding(32, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2 * depth))
        self.qkv = nn.ModuleList(nn.Linear(size, 3 * size) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(size, size) for _ in range(depth))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
                                  for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for i, mlp in enumerate(self.mlps):
            q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv[i](self.norms[2 * i](x)).chunk(3, -1))
            x = x + self.out[i](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            x = x + mlp(self.norms[2 * i + 1](x))
        return F.linear(x, self.tokens.weight)


class Tagger(nn.Module):
    """A recurrent network with two heads, whose outputs have names."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(100, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.tags, self.pairs = nn.Linear(128, 9), nn.Parameter(torch.zeros(128, 128))

    def forward(self, ids: Tensor) -> dict[str, Any]:
        x, _ = self.lstm(self.words(ids))
        return {"tags": self.tags(x), "links": {"scores": torch.einsum("bid,de,bje->bij", x, self.pairs, x)}}


class Unrolled(nn.Module):
    """One cell that runs eight times with the same weights."""

    def __init__(self):
        super().__init__()
        self.cell, self.norm, self.head = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):
            x = x + torch.tanh(self.norm(self.cell(x)))
        return self.head(x)


def hugging_face(name: str, **settings: Any) -> Callable[[], tuple[nn.Module, Any]]:
    """Return what makes a model of transformers, small and without weights, and its input."""
    def make() -> tuple[nn.Module, Any]:
        import transformers
        config = getattr(transformers, f"{name}Config")(vocab_size=100, **settings)
        return getattr(transformers, f"{name}Model")(config).eval(), {"input_ids": IDS}
    return make


def stock(name: str) -> Callable[[], tuple[nn.Module, Any]]:
    """Return what makes a model of torchvision, and its input."""
    return lambda: (torchvision.models.get_model(name).eval(), torch.zeros(1, 3, 224, 224))


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet50": stock("resnet50"),
    "googlenet": stock("googlenet"),
    "swin_t": stock("swin_t"),
    "unet": lambda: (UNet(), torch.zeros(1, 3, 32, 32)),
    "graph": lambda: (GraphNet(), (torch.zeros(10, 8), torch.zeros(10, 10))),
    "decoder": lambda: (Decoder(), IDS),
    "tagger": lambda: (Tagger(), IDS),
    "unrolled": lambda: (Unrolled(), torch.zeros(2, 32)),
    "bert": hugging_face("Bert", hidden_size=64, num_attention_heads=4, intermediate_size=128),
    "albert": hugging_face("Albert", hidden_size=64, num_attention_heads=4, intermediate_size=128, embedding_size=32),
}


def boxes_of_torchview(model: nn.Module, inputs: Any, depth: int) -> int:
    """Count the boxes of torchview's picture."""
    from torchview import draw_graph
    drawn = draw_graph(model, input_data=inputs, depth=depth, device="meta")
    return len([line for line in drawn.visual_graph.body if "[label=" in line and "->" not in line])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *NETWORKS], help=", ".join(NETWORKS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "networks")
    parser.add_argument("--torchview", action="store_true", help="count the boxes of torchview's pictures as well")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.names or NETWORKS:
        model, inputs = NETWORKS[name]()
        drawn = write(model, inputs, asked.out / f"{name}.svg", look=LOOK)
        repeated = ", ".join(f"× {box.times} {box.last}" for box in drawn.root.items() if box.times > 1)
        line = f"{name:10} {len(list(drawn.root.boxes())):3} boxes  {repeated}"
        if asked.torchview:
            usual, full = (boxes_of_torchview(model, inputs, depth) for depth in (3, 99))
            line += f"  torchview: {usual} at depth 3, {full} in full"
        print(line)


if __name__ == "__main__":
    main()
