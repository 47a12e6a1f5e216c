"""The block of transformers with the norm in front, for text and for patches of images.

A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2), put the norms there.
J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, https://arxiv.org/abs/2104.09864, gave
`rope`.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import ZooError


class Attention(nn.Module):
    """Attention of several heads; `causal`: to what is not later; `rope`: queries and keys are turned by their positions."""

    def __init__(self, width: int, heads: int, causal: bool = False, rope: bool = False):
        super().__init__()
        if width % heads or (rope and width // heads % 2):
            raise ZooError(f"{heads} heads do not share a width of {width}{' in pairs' if rope else ''}: take others")
        self.heads, self.causal, self.rope = heads, causal, rope
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position [N, length, width] takes from the others."""
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if self.rope:
            q, k = turned(q), turned(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


def turned(x: Tensor, base: float = 10000.0) -> Tensor:
    """Turn pairs of features (i, i + half) by position times base ** (-i / half). Shape [N, heads, length, features]."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Block(nn.Module):
    """x + attention(norm(x)), then y + mlp(norm(y)) with a hidden layer four times as wide."""

    def __init__(self, width: int, heads: int, causal: bool = False, rope: bool = False):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal, rope)
        self.norm2, self.fc1, self.gelu = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream behind the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
