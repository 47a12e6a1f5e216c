"""Parts of several families of the zoo: scaled widths, first weights, and the residual block of two convolutions."""
from torch import Tensor, nn

from .registry import ZooError


def scaled(width: int, r: float) -> int:
    """Return `width * r`, rounded, at least one channel; raise ZooError where less than half of one would be left."""
    if width * r < 0.5:
        raise ZooError(f"r = {r:g} leaves nothing of a layer of {width} channels: take at least {1 / width:g}")
    return max(1, round(width * r))


def of_dims(layer: str, dims: int) -> type[nn.Module]:
    """Return torch's `Conv`, `BatchNorm`, ... for sequences (`dims` 1) or images (2)."""
    return getattr(nn, f"{layer}{dims}d")


def init_convolutions(model: nn.Module) -> None:
    """Draw weights of variance 2 / fan-out, which keeps the variance of gradients behind a ReLU (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))); where sizes change, x passes through a 1-wide convolution and its norm.

    dims: 2 for images, 1 for sequences. kernel: size of both convolutions, odd: they keep the size of what they read.
    """

    def __init__(self, channels: int, out: int, stride: int = 1, *, dims: int = 2, kernel: int = 3):
        super().__init__()
        conv, norm = of_dims("Conv", dims), of_dims("BatchNorm", dims)
        self.conv1 = conv(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn1 = norm(out)
        self.conv2 = conv(out, out, kernel, 1, kernel // 2, bias=False)
        self.bn2 = norm(out)
        self.relu = nn.ReLU()
        same = stride == 1 and channels == out
        self.downsample = nn.Identity() if same else nn.Sequential(conv(channels, out, 1, stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
