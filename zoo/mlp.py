"""Layers of perceptrons.

D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating errors", Nature 323, 1986,
https://doi.org/10.1038/323533a0; with ReLUs.
"""
import math

from torch import Tensor, nn

from ._layers import scaled
from .registry import register


class MLP(nn.Module):
    """Linear layers with ReLUs between them, on the flattened input."""

    def __init__(self, sizes: tuple[int, ...], input_shape: tuple[int, ...]):
        super().__init__()
        self.input_shape = input_shape
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in zip(sizes, sizes[1:-1])))
        self.fc = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        return self.fc(self.hidden(self.flatten(x)))


@register(input_shape=(1, 28, 28), parameters=269_322)
def mlp(num_classes: int = 10, input_shape: tuple[int, ...] = (1, 28, 28), hidden: tuple[int, ...] = (256, 256),
        r: float = 1.0) -> nn.Module:
    """Hidden layers of `hidden` units, each times r, for inputs of any shape."""
    return MLP((math.prod(input_shape), *(scaled(h, r) for h in hidden), num_classes), input_shape)
