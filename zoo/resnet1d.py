"""A residual network for sequences.

Z. Wang, W. Yan, T. Oates, "Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline", 2016,
https://arxiv.org/abs/1611.06455: residual blocks of one-dimensional convolutions, the mean over time, a linear layer. Ours
has two convolutions a block instead of three, and halves the length between stages.
"""
import torch
from torch import Tensor, nn

from ._layers import BasicBlock, init_convolutions, scaled
from .registry import register


class ResNet1d(nn.Module):
    """A stem, one residual block a width (each but the first halves the length), the mean over time, a linear layer."""

    def __init__(self, widths: tuple[int, ...], input_shape: tuple[int, int], num_classes: int):
        super().__init__()
        self.input_shape = input_shape
        self.conv1 = nn.Conv1d(input_shape[0], widths[0], 5, 1, 2, bias=False)
        self.bn1, self.relu = nn.BatchNorm1d(widths[0]), nn.ReLU()
        self.stages = nn.Sequential(*(BasicBlock(before, width, 2 if i else 1, dims=1, kernel=5)
                                      for i, (before, width) in enumerate(zip((widths[0], *widths), widths))))
        self.avgpool, self.fc = nn.AdaptiveAvgPool1d(1), nn.Linear(widths[-1], num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.stages(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


@register(input_shape=(1, 40), parameters=176_874)
def resnet1d(num_classes: int = 10, in_channels: int = 1, size: int = 40, r: float = 1.0) -> nn.Module:
    """Three residual blocks of 32 r, 64 r and 128 r channels; `size` is the length, 40 as in MNIST-1D."""
    return ResNet1d((scaled(32, r), scaled(64, r), scaled(128, r)), (in_channels, size), num_classes)
