"""A small vision transformer for images of 32 x 32.

A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, https://arxiv.org/abs/2010.11929
L. Beyer, X. Zhai, A. Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022, https://arxiv.org/abs/2205.01580, take
the mean over patches in place of a class token.
"""
import torch
from torch import Tensor, nn

from ._layers import scaled
from ._transformer import Block
from .registry import ZooError, register


class ViT(nn.Module):
    """Patches as a convolution, learned positions, blocks, a norm, the mean over patches, a linear layer."""

    def __init__(self, patch: int, width: int, depth: int, heads: int, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        if input_shape[1] % patch:
            raise ZooError(f"patches of {patch} do not cover an image of {input_shape[1]} pixels: take a divisor of it")
        self.input_shape = input_shape
        self.patches = nn.Conv2d(input_shape[0], width, patch, patch)
        self.positions = nn.Parameter(torch.empty((input_shape[1] // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)
        nn.init.normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


@register(input_shape=(3, 32, 32), parameters=2_693_194)
def vit_small32(num_classes: int = 10, in_channels: int = 3, size: int = 32, patch: int = 4, width: int = 192,
                depth: int = 6, heads: int = 3, r: float = 1.0) -> nn.Module:
    """ViT for small images: patches of 4 x 4, six blocks of width 192 r with heads of 64 r."""
    return ViT(patch, scaled(width, r), depth, heads, (in_channels, size, size), num_classes)
