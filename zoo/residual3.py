"""Three residual layers: the small base networks that growth starts from in R2R's first experiments.

M. Painter, "Towards a More Complete Theory of Function Preserving Transforms", 2024, https://arxiv.org/abs/2410.11038, whose
published code (https://github.com/MWPainter/Deep-Neuroevolution-With-SharedWeights---Ensembling-A-Better-Solution) has them
for MNIST and CIFAR-10. There, the skip path is padded with zeros where widths change; here it is a 1 x 1 convolution.
"""
import torch
from torch import Tensor, nn

from ._layers import init_convolutions, scaled
from .registry import ZooError, register


class ResidualLayer(nn.Module):
    """shortcut(x) + four 3 x 3 convolutions, with batch norm and ReLU between them; then pooling by two."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        steps: list[nn.Module] = []
        for before in (channels, out, out):
            steps += [nn.Conv2d(before, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        self.body = nn.Sequential(*steps, nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled sum."""
        return self.pool(self.body(x) + self.shortcut(x))


class Residual3(nn.Module):
    """Three residual layers of `widths` channels, then two linear ones, `hidden` units between them, on all positions."""

    def __init__(self, widths: tuple[int, int, int], hidden: int, input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        left = input_shape[1] // 8
        if not left:
            raise ZooError(f"an image of {input_shape[1]} pixels is gone after three poolings: take a size of at least 8")
        self.input_shape = input_shape
        self.layers = nn.Sequential(*map(ResidualLayer, (input_shape[0], *widths), widths))
        self.fc1, self.relu = nn.Linear(widths[-1] * left * left, hidden), nn.ReLU()
        self.fc2 = nn.Linear(hidden, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.fc2(self.relu(self.fc1(torch.flatten(self.layers(x), 1))))


@register(input_shape=(1, 28, 28), parameters=119_938)
def mnist_resnet(num_classes: int = 10, in_channels: int = 1, size: int = 28, r: float = 1.0) -> nn.Module:
    """MNIST network: 8 r, 16 r and 32 r channels, 256 r hidden units."""
    return Residual3((scaled(8, r), scaled(16, r), scaled(32, r)), scaled(256, r), (in_channels, size, size), num_classes)


@register(input_shape=(3, 32, 32), parameters=437_434)
def residual3(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 1.0) -> nn.Module:
    """CIFAR-10 network: 16 r, 32 r and 64 r channels, 256 r hidden units."""
    return Residual3((scaled(16, r), scaled(32, r), scaled(64, r)), scaled(256, r), (in_channels, size, size), num_classes)
