"""Inception-v4 and Inception-ResNet-v2, and a small shallow version of each, for images and for sequences.

C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", 2016, https://arxiv.org/abs/1602.07261

Inception-v4 is the paper's, figure by figure. Inception-ResNet-v2 is the network that its authors released (TF-Slim): it has
Inception-v3's stem, and 10, 20 and 10 residual blocks where the paper's figure 15 has 5, 10 and 5. `r` scales every width.
"""
from torch import nn

from ._plan import Plan, Planned, Residual
from .registry import register

# Inception-v4: figures 3 to 9
STEM = ["3x3:32/2v 3x3:32v 3x3:64", ("max/2v", "3x3:96/2v"), ("1x1:64 3x3:96v", "1x1:64 1x7:64 7x1:64 3x3:96v"),
        ("3x3:192/2v", "max/2v")]
A = ("1x1:96", "1x1:64 3x3:96", "1x1:64 3x3:96 3x3:96", "avg 1x1:96")
REDUCTION_A = ("3x3:384/2v", "1x1:192 3x3:224 3x3:256/2v", "max/2v")
B = ("1x1:384", "1x1:192 1x7:224 7x1:256", "1x1:192 7x1:192 1x7:224 7x1:224 1x7:256", "avg 1x1:128")
REDUCTION_B = ("1x1:192 3x3:192/2v", "1x1:256 1x7:256 7x1:320 3x3:320/2v", "max/2v")
C = ("1x1:256", ["1x1:384", ("1x3:256", "3x1:256")], ["1x1:384 3x1:448 1x3:512", ("1x3:256", "3x1:256")], "avg 1x1:256")

# Inception-ResNet-v2: its stem, the one block without residual connection, then figures 16 to 19
RESNET_STEM = "3x3:32/2v 3x3:32v 3x3:64 max/2v 1x1:80 3x3:192v max/2v"
MIXED = ("1x1:96", "1x1:48 5x5:64", "1x1:64 3x3:96 3x3:96", "avg 1x1:64")
RESNET_A = Residual(("1x1:32", "1x1:32 3x3:32", "1x1:32 3x3:48 3x3:64"), 0.17)
RESNET_REDUCTION_A = ("3x3:384/2v", "1x1:256 3x3:256 3x3:384/2v", "max/2v")
RESNET_B = Residual(("1x1:192", "1x1:128 1x7:160 7x1:192"), 0.10)
RESNET_REDUCTION_B = ("1x1:256 3x3:384/2v", "1x1:256 3x3:288/2v", "1x1:256 3x3:288 3x3:320/2v", "max/2v")
RESNET_C = Residual(("1x1:192", "1x1:192 1x3:224 3x1:256"), 0.20)
LAST = Residual(RESNET_C.plan, 1.0, last=True)

SMALL_STEM = "3x3:32 3x3:64"


def _v4(stem: Plan, a: int, b: int, c: int) -> dict[str, Plan]:
    return {"stem": stem, "a": [A] * a, "reduction_a": REDUCTION_A, "b": [B] * b, "reduction_b": REDUCTION_B, "c": [C] * c}


def _resnet_v2(stem: Plan, a: int, b: int, c: int) -> dict[str, Plan]:
    return {"stem": stem, "mixed": MIXED, "a": [RESNET_A] * a, "reduction_a": RESNET_REDUCTION_A, "b": [RESNET_B] * b,
            "reduction_b": RESNET_REDUCTION_B, "c": [*[RESNET_C] * (c - 1), LAST], "last": "1x1:1536"}


@register(input_shape=(3, 299, 299), parameters=42_679_816)
def inception_v4(num_classes: int = 1000, in_channels: int = 3, size: int = 299, r: float = 1.0) -> nn.Module:
    """Inception-v4: 42.7 M parameters; a fifth of the last features is dropped in train mode."""
    return Planned(_v4(STEM, 4, 7, 3), r, (in_channels, size, size), num_classes, dropout=0.2)


@register(input_shape=(3, 299, 299), parameters=55_843_464)
def inception_resnet_v2(num_classes: int = 1000, in_channels: int = 3, size: int = 299, r: float = 1.0) -> nn.Module:
    """Inception-ResNet-v2: 55.8 M parameters; a fifth of the last features is dropped in train mode."""
    return Planned(_resnet_v2(RESNET_STEM, 10, 20, 10), r, (in_channels, size, size), num_classes, dropout=0.2)


@register(input_shape=(3, 32, 32), parameters=805_922)
def inception_v4_small(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 0.25) -> nn.Module:
    """One block of each of Inception-v4's kinds behind two convolutions, at a quarter of the widths."""
    return Planned(_v4(SMALL_STEM, 1, 1, 1), r, (in_channels, size, size), num_classes)


@register(input_shape=(3, 32, 32), parameters=837_530)
def inception_resnet_v2_small(num_classes: int = 10, in_channels: int = 3, size: int = 32, r: float = 0.25) -> nn.Module:
    """One block of each of Inception-ResNet-v2's kinds behind two convolutions, at a quarter of the widths."""
    return Planned(_resnet_v2(SMALL_STEM, 1, 1, 1), r, (in_channels, size, size), num_classes)


@register(input_shape=(1, 40), parameters=516_706)
def inception_v4_1d(num_classes: int = 10, in_channels: int = 1, size: int = 40, r: float = 0.25) -> nn.Module:
    """`inception_v4_small` for sequences of `size` numbers, 40 as in MNIST-1D: images of one row."""
    return Planned(_v4(SMALL_STEM, 1, 1, 1), r, (in_channels, size), num_classes)


@register(input_shape=(1, 40), parameters=571_930)
def inception_resnet_v2_1d(num_classes: int = 10, in_channels: int = 1, size: int = 40, r: float = 0.25) -> nn.Module:
    """`inception_resnet_v2_small` for sequences of `size` numbers, 40 as in MNIST-1D: images of one row."""
    return Planned(_resnet_v2(SMALL_STEM, 1, 1, 1), r, (in_channels, size), num_classes)
