"""The networks that Net2Net was shown on, and a small plain one.

T. Chen, I. Goodfellow, J. Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", 2015,
https://arxiv.org/abs/1511.05641
S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015,
https://arxiv.org/abs/1502.03167

All of the first paper's measurements are on the second's Inception network (figure 5 there, whose first convolution is a
separable one) and ImageNet; the teacher that it widens has 0.3 ** 0.5 of the channels inside the inception modules. The
plain network is in neither: it is a stack of the layers that Net2WiderNet and Net2DeeperNet are derived for,
h' = relu(W h), without norms and skip paths.
"""
import torch
from torch import Tensor, nn

from ._layers import init_convolutions, scaled
from ._plan import Plan, Planned
from .registry import ZooError, register

INCEPTION_BN: dict[str, Plan] = {
    "stem": "7x7:64/2 max/2 1x1:64 3x3:192 max/2",
    "a": [("1x1:64", "1x1:64 3x3:64", "1x1:64 3x3:96 3x3:96", "avg 1x1:32"),
          ("1x1:64", "1x1:64 3x3:96", "1x1:64 3x3:96 3x3:96", "avg 1x1:64"),
          ("1x1:128 3x3:160/2", "1x1:64 3x3:96 3x3:96/2", "max/2")],
    "b": [("1x1:224", "1x1:64 3x3:96", "1x1:96 3x3:128 3x3:128", "avg 1x1:128"),
          ("1x1:192", "1x1:96 3x3:128", "1x1:96 3x3:128 3x3:128", "avg 1x1:128"),
          ("1x1:160", "1x1:128 3x3:160", "1x1:128 3x3:160 3x3:160", "avg 1x1:128"),
          ("1x1:96", "1x1:128 3x3:192", "1x1:160 3x3:192 3x3:192", "avg 1x1:128"),
          ("1x1:128 3x3:192/2", "1x1:192 3x3:256 3x3:256/2", "max/2")],
    "c": [("1x1:352", "1x1:192 3x3:320", "1x1:160 3x3:224 3x3:224", "avg 1x1:128"),
          ("1x1:352", "1x1:192 3x3:320", "1x1:192 3x3:224 3x3:224", "max 1x1:128")],
}


@register(input_shape=(3, 224, 224), parameters=11_285_224)
def inception_bn(num_classes: int = 1000, in_channels: int = 3, size: int = 224, r: float = 1.0) -> nn.Module:
    """Inception with batch norm, as in figure 5 of Ioffe and Szegedy; about as wide as Net2Net's teacher with r=0.3**0.5."""
    return Planned(INCEPTION_BN, r, (in_channels, size, size), num_classes)


class PlainConv(nn.Module):
    """Stages of 3 x 3 convolutions with ReLUs, pooling by two after each, then two linear layers on all positions."""

    def __init__(self, stages: tuple[tuple[int, ...], ...], hidden: int, input_shape: tuple[int, int, int],
                 num_classes: int):
        super().__init__()
        left = input_shape[1] // 2 ** len(stages)
        if not left:
            raise ZooError(f"an image of {input_shape[1]} pixels is gone after {len(stages)} poolings: take a larger size")
        self.input_shape, channels, layers = input_shape, input_shape[0], []
        for widths in stages:
            for width in widths:
                layers.append(nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1, self.relu = nn.Linear(channels * left * left, hidden), nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.fc2(self.relu(self.fc1(torch.flatten(self.features(x), 1))))


@register(input_shape=(3, 32, 32), parameters=591_274)
def net2net_conv(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 1.0) -> nn.Module:
    """Two stages of two convolutions, 32 r and 64 r channels, 128 r hidden units: no norm, no skip path."""
    first, second = scaled(32, r), scaled(64, r)
    return PlainConv(((first, first), (second, second)), scaled(128, r), (in_channels, size, size), num_classes)
