"""Blocks to deepen with where there is no neighbour to clone: plain modules of torch's layers, each with a skip path."""
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.passes.support.layers import NORMS, conv

AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
FEWEST = 8  # hidden channels: of one or two, all may be off for every input, and then nothing would ever learn
SQUEEZE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Residual(nn.Sequential):
    """`x + f(x)`, f the layers one after another."""

    def __init__(self, **layers: nn.Module):
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Add the layers' result to x."""
        return x + super().forward(x)


def basic(rank: int, c: int) -> nn.Module:
    """Return two 3x3 convolutions (He 2015, figure 5 left), with no activation behind the sum; of rank 0 a perceptron."""
    w = c + c % 2
    if not rank:
        return perceptron(c, max(w, FEWEST))
    return Residual(conv1=conv(rank, c, w, 3, bias=False), bn1=NORMS[rank](w), relu=nn.ReLU(),
                    conv2=conv(rank, w, c, 3, bias=False), bn2=NORMS[rank](c))


def perceptron(c: int, w: int) -> nn.Module:
    """Return a norm and two linear layers over the last axis."""
    return Residual(norm=nn.LayerNorm(c), fc1=nn.Linear(c, w), relu=nn.ReLU(), fc2=nn.Linear(w, c))


def bottleneck(rank: int, c: int) -> nn.Module:
    """Return 1x1, 3x3 and 1x1 convolutions over a quarter of the channels (He 2015, figure 5 right)."""
    w = max(2 * (c // 8), FEWEST)
    if not rank:
        return perceptron(c, w)
    return Residual(conv1=conv(rank, c, w, bias=False), bn1=NORMS[rank](w), relu1=nn.ReLU(),
                    conv2=conv(rank, w, w, 3, bias=False), bn2=NORMS[rank](w), relu2=nn.ReLU(),
                    conv3=conv(rank, w, c, bias=False), bn3=NORMS[rank](c))


class SqueezeExcitation(nn.Module):
    """Hu 2018: channels weighted by what they hold on average."""

    def __init__(self, rank: int, c: int, squeezed: int):
        super().__init__()
        self.pool = SQUEEZE[rank](1)
        self.fc1, self.act, self.fc2, self.gate = conv(rank, c, squeezed), nn.SiLU(), conv(rank, squeezed, c), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels of x."""
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))


def mbconv(rank: int, c: int, expansion: int = 4) -> nn.Module:
    """Return an inverted bottleneck with depthwise convolution and squeeze-and-excitation (Sandler 2018; Tan 2019)."""
    w = 2 * max(expansion * c // 2, 1)
    return Residual(expand=conv(rank, c, w, bias=False), bn1=NORMS[rank](w), act1=nn.SiLU(),
                    depthwise=conv(rank, w, w, 3, groups=w, bias=False), bn2=NORMS[rank](w), act2=nn.SiLU(),
                    se=SqueezeExcitation(rank, w, max(c // 4, 1)), project=conv(rank, w, c, bias=False), bn3=NORMS[rank](c))


class Inception(nn.Module):
    """Inception-ResNet (Szegedy 2016, figure 10): 1x1, 3x3, double 3x3 and pooled branches, a 1x1 layer and a skip path."""

    def __init__(self, rank: int, c: int):
        super().__init__()
        w = max(2 * (c // 8), FEWEST)

        def layer(ins: int, outs: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(conv(rank, ins, outs, kernel, bias=False), NORMS[rank](outs), nn.ReLU())

        self.branch1x1 = layer(c, w, 1)
        self.branch3x3 = nn.Sequential(layer(c, w, 1), layer(w, w, 3))
        self.branch3x3dbl = nn.Sequential(layer(c, w, 1), layer(w, w, 3), layer(w, w, 3))
        self.branch_pool = nn.Sequential(AVERAGE[rank](3, stride=1, padding=1), layer(c, w, 1))
        self.project = conv(rank, 4 * w, c)

    def forward(self, x: Tensor) -> Tensor:
        """Add what joins the branches to x."""
        branches = [self.branch1x1(x), self.branch3x3(x), self.branch3x3dbl(x), self.branch_pool(x)]
        return x + self.project(torch.cat(branches, 1))


class Transformer(nn.Module):
    """Pre-norm attention and perceptron, each beside a skip path (Vaswani 2017; Xiong 2020), for `[N, T, C]`."""

    def __init__(self, c: int, head_dim: int = 64, expansion: int = 4):
        super().__init__()
        heads = next(h for h in range(max(c // head_dim, 1), 0, -1) if c % h == 0)
        self.norm1 = nn.LayerNorm(c)
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(c)
        self.fc1, self.act, self.fc2 = nn.Linear(c, expansion * c), nn.GELU(), nn.Linear(expansion * c, c)

    def forward(self, x: Tensor) -> Tensor:
        """Add attention, then the perceptron, to x."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


BLOCKS = {"basic": basic, "bottleneck": bottleneck, "mbconv": mbconv, "inception": Inception}  # of a rank and channels


def build(name: str, shape: Sequence[int], last: bool) -> nn.Module:
    """Return a block for values `[N, C, *space]`, with the channels `last` `[N, ..., C]`; refuse where there is none."""
    last = last or len(shape) == 2
    rank, channels = (0, shape[-1]) if last else (len(shape) - 2, shape[1])
    if name == "transformer":
        if not last or len(shape) != 3:
            raise GrowthError(f"a transformer block takes [N, T, C], and the value there is {list(shape)}: choose basic, "
                              "bottleneck, mbconv or inception, or another place")
        return Transformer(channels)
    if not 0 <= rank <= 3 or len(shape) < 2 or (name in ("mbconv", "inception") and not rank) or not math.prod(shape):
        raise GrowthError(f"a block {name} takes [N, C, *space] with one to three spatial axes, and the value there is "
                          f"{list(shape)}: choose basic, or another place")
    return BLOCKS[name](rank, channels)
