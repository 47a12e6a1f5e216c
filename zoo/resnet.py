"""Residual networks for small images.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385
M. Painter, "Towards a More Complete Theory of Function Preserving Transforms", 2024, https://arxiv.org/abs/2410.11038

The second, R2R's paper, trains ResNetCifar-10(r) and -18(r): the stem of He's ImageNet networks, then two stages of 64 r and
128 r channels with two or four blocks each. `r` scales every width.
"""
import torch
from torch import Tensor, nn

from ._layers import BasicBlock, init_convolutions, scaled
from .registry import ZooError, register


class ResNet(nn.Module):
    """A stem, stages of residual blocks (each but the first halves the image), the mean over the image, a linear layer.

    widths, blocks: channels and number of blocks of each stage; the stem has the channels of the first.
    stem: 7 is He's for ImageNet (7 x 7 with stride 2, then 3 x 3 pooling with stride 2), 3 his for CIFAR (3 x 3).
    """

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], input_shape: tuple[int, int, int],
                 num_classes: int, stem: int):
        super().__init__()
        if stem not in (3, 7):
            raise ZooError(f"stem is {stem}; it is 3 (for small images) or 7 (with pooling)")
        self.input_shape = input_shape
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], stem, 1 if stem == 3 else 2, stem // 2, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.ReLU()
        self.maxpool = nn.Identity() if stem == 3 else nn.MaxPool2d(3, 2, 1)
        before, stages = widths[0], []
        for i, (width, count) in enumerate(zip(widths, blocks)):
            first = BasicBlock(before, width, 2 if i else 1)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(count - 1))))
            before = width
        self.stages = nn.Sequential(*stages)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(before, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.stages(x)), 1))


def _two_stages(blocks: int, num_classes: int, in_channels: int, size: int, r: float, stem: int) -> ResNet:
    return ResNet((scaled(64, r), scaled(128, r)), (blocks, blocks), (in_channels, size, size), num_classes, stem)


@register(input_shape=(3, 32, 32), parameters=684_362)
def cifar_resnet10(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 1.0, stem: int = 7,
                   blocks: int = 2) -> nn.Module:
    """ResNetCifar-10(r) of R2R's paper: ten layers with weights on the longest way, with two `blocks` in each stage."""
    return _two_stages(blocks, num_classes, in_channels, size, r, stem)


@register(input_shape=(3, 32, 32), parameters=1_423_178)
def cifar_resnet18(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 1.0, stem: int = 7) -> nn.Module:
    """ResNetCifar-18(r) of R2R's paper: eighteen layers with weights on the longest way."""
    return _two_stages(4, num_classes, in_channels, size, r, stem)
