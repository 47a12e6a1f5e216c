"""Random small networks and random passes over them, from a seeded generator."""
from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase

from fxgrow.passes import Activation, Branch, Deepen, Kernel, Skip, SqueezeExcite, Subnet, Widen


class Plain(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, rng: random.Random, ins: int, outs: int, groups: int = 1):
        norm = rng.choice([lambda: nn.BatchNorm2d(outs), lambda: nn.GroupNorm(2 - outs % 2, outs), nn.Identity])()
        act = rng.choice([nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU])()
        super().__init__(nn.Conv2d(ins, outs, 3, padding=1, groups=groups, bias=rng.random() < 0.5), norm, act)


class Residual(nn.Module):
    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.after = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out) if self.after else out


class Joined(nn.Module):
    """Parallel branches, concatenated."""

    def __init__(self, rng: random.Random, ins: int, outs: int):
        super().__init__()
        self.branch1, self.branch2 = Plain(rng, ins, outs // 2), Plain(rng, ins, outs - outs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x)], 1)


class Attention(nn.Module):
    """Tokens of the places of a map, attended to, and back."""

    def __init__(self, c: int):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(c), nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        tokens = tokens + self.attention(y, y, y, need_weights=False)[0]
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class RandomNet(nn.Module):
    """A few random layers over a map, a pool and a classifier."""

    def __init__(self, seed: int):
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        channels, layers = 4, [Plain(rng, 3, 4)]
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(["plain", "grouped", "depthwise", "residual", "joined", "attention", "pool"])
            outs = rng.choice([4, 6, 8])
            if kind in ("plain", "joined"):
                layers.append(Plain(rng, channels, outs) if kind == "plain" else Joined(rng, channels, outs))
                channels = outs
            elif kind in ("grouped", "depthwise"):
                layers.append(Plain(rng, channels, channels, 2 if kind == "grouped" else channels))
            elif kind == "pool":
                layers.append(rng.choice([nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, 1)]))
            else:
                layers.append(Residual(rng, channels) if kind == "residual" else Attention(channels))
        self.layers = nn.ModuleList(layers)
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean((2, 3)))


def random_pass(rng: random.Random, gm: GraphModule, methods: tuple[str, ...] = ("r2r", "net2net", "netmorph")) -> PassBase:
    """A pass with random options, at a random layer or block of a captured network."""
    modules = [n for n, m in gm.named_modules() if n]
    layers = [n for n, m in gm.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    kernels = [n for n in layers if isinstance(gm.get_submodule(n), nn.modules.conv._ConvNd)]
    # a glob: a layer of the model's outputs named in full would get more of them
    seed, method = rng.randint(0, 999), rng.choice(methods)
    other = method if method != "net2net" else "r2r"
    makers = [
        lambda: Widen(rng.choice(layers) + "*", factor=rng.choice([1.25, 1.5, 2]), method=method, seed=seed),
        lambda: Widen(rng.choice(layers) + "*", by=rng.randint(1, 3), method=method, seed=seed),
        lambda: Deepen(rng.choice(modules), method=method, seed=seed, times=rng.randint(1, 2)),
        lambda: Deepen(rng.choice([*modules, "input", "output"]), method=other, seed=seed,
                       block=rng.choice(["basic", "bottleneck", "mbconv", "inception"])),
        lambda: Kernel(rng.choice(kernels), size=rng.choice([3, 5])),
        lambda: Skip(rng.choice(modules), weight=rng.choice(["scalar", "channel", "matrix"])),
        lambda: SqueezeExcite(rng.choice(modules), reduction=4, seed=seed),
        lambda: Activation(rng.choice(modules), to=rng.choice(["relu", "gelu", "tanh"]),
                           weight=rng.choice(["scalar", "channel"])),
        lambda: Branch(rng.choice(layers), join=rng.choice(["sum", "concat"]), method=other, seed=seed),
        lambda: Branch(rng.choice(modules), join="new", method=other, seed=seed),
        lambda: Subnet(rng.choice(modules), method=other, seed=seed)]
    return rng.choice(makers)()
