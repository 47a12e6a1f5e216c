"""A ConvNeXt for images of 32 x 32.

Z. Liu et al., "A ConvNet for the 2020s", 2022, https://arxiv.org/abs/2201.03545. For small images the stem takes patches of
2 x 2, not of 4 x 4, and there are three stages; layer scale starts at 1e-6 as in the paper, there is no stochastic depth.
"""
import torch
from torch import Tensor, nn

from ._layers import scaled
from .registry import ZooError, register


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image [N, channels, height, width], normalised at each pixel."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + scale * fc2(gelu(fc1(norm(conv(x))))), the convolution 7 x 7 and each channel by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1, self.gelu, self.fc2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Return the image behind the block."""
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.scale * self.fc2(self.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Patches of 2 x 2, stages of blocks (each but the first behind a norm and a 2 x 2 convolution of stride 2), a head."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], input_shape: tuple[int, int, int],
                 num_classes: int):
        super().__init__()
        if len(widths) != len(blocks) or input_shape[1] % 2 ** len(widths):
            raise ZooError(f"{len(widths)} widths, {len(blocks)} numbers of blocks and {input_shape[1]} pixels: give a "
                           f"number of blocks for each width, and a size that {2 ** len(widths)} divides")
        self.input_shape = input_shape
        self.stem = nn.Sequential(nn.Conv2d(input_shape[0], widths[0], 2, 2), ChannelNorm(widths[0]))
        stages: list[nn.Module] = []
        for i, (width, count) in enumerate(zip(widths, blocks)):
            first = [ChannelNorm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)] if i else []
            stages.append(nn.Sequential(*first, *(Block(width) for _ in range(count))))
        self.stages = nn.Sequential(*stages)
        self.norm, self.head = nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.head(self.norm(self.stages(self.stem(x)).mean((2, 3))))


@register(input_shape=(3, 32, 32), parameters=908_890)
def convnext32(num_classes: int = 10, in_channels: int = 3, size: int = 32, widths: tuple[int, ...] = (48, 96, 192),
               blocks: tuple[int, ...] = (2, 2, 2), r: float = 1.0) -> nn.Module:
    """ConvNeXt for small images: three stages of 48 r, 96 r and 192 r channels, two blocks each."""
    return ConvNeXt(tuple(scaled(width, r) for width in widths), blocks, (in_channels, size, size), num_classes)
