"""A decoder of text: transformer blocks with the norm in front, each position seeing those before it.

A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2); the head has a weight of its own.
"""
import torch
from torch import Tensor, nn

from ._layers import scaled
from ._transformer import Block
from .registry import register


class GPT(nn.Module):
    """An embedding (with learned positions unless `rope`), blocks, a norm, logits of the next token at each position."""
    input_dtype = torch.int64

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, rope: bool):
        super().__init__()
        self.input_shape, self.rope = (length,), rope
        self.embedding = nn.Embedding(vocabulary, width)
        if not rope:
            self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, True, rope) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.apply(_draw)
        for name, parameter in self.named_parameters():
            if name == "positions" or name.endswith(("out.weight", "fc2.weight")):  # GPT-2's share of a residual layer
                nn.init.normal_(parameter, std=0.02 if name == "positions" else 0.02 / (2 * depth) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [N, length, vocabulary] of tokens [N, length]."""
        x = self.embedding(tokens)
        if not self.rope:
            x = x + self.positions[:tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def _draw(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@register(input_shape=(128,), parameters=875_264)
def gpt(vocabulary: int = 256, length: int = 128, width: int = 128, depth: int = 4, heads: int = 4, rope: bool = False,
        r: float = 1.0) -> nn.Module:
    """GPT: `depth` blocks of width r * `width`; learned positions, or rotary ones (`rope=True`)."""
    return GPT(vocabulary, length, scaled(width, r), depth, heads, rope)
