"""Random small networks over tokens, of parts whose zeros may pass no gradient."""
from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Some have no slope at zero, as a ReLU; none is shut on one side, where it may pass no gradient by chance.
ACTS = (torch.abs, torch.square, lambda x: x * x.abs(), lambda x: torch.where(x > 0, x, -x), F.silu, F.gelu, F.leaky_relu,
        torch.tanh, torch.sigmoid)
NORMS = (nn.RMSNorm, nn.LayerNorm, nn.RMSNorm, lambda n: nn.Identity())


class Gated(nn.Module):
    """Two or three projections, multiplied, perhaps normalised, and back; or one with an activation."""

    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        width = rng.choice([4, 6])
        self.factors = nn.ModuleList(nn.Linear(c, width, bias=rng.random() < 0.5) for _ in range(rng.randint(1, 3)))
        self.acts = [rng.choice([*ACTS, lambda x: x]) for _ in self.factors]
        self.norm, self.down = rng.choice(NORMS)(width), nn.Linear(width, c)

    def forward(self, x: Tensor) -> Tensor:
        product = self.acts[0](self.factors[0](x))
        for act, factor in zip(self.acts[1:], list(self.factors)[1:]):
            product = product * act(factor(x))
        return self.down(self.norm(product))


class Halves(nn.Module):
    """One projection, cut in two, of which one gates the other; or `F.glu`."""

    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(c, 8), rng.choice(NORMS)(4), nn.Linear(4, c)
        self.act = rng.choice([*ACTS, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.act is None:
            return self.down(self.norm(F.glu(self.up(x))))
        a, b = self.up(x).chunk(2, -1)
        return self.down(self.norm(self.act(a) * b))


class Attention(nn.Module):
    """Softmax attention, with or without norms of queries and keys, or a linear one over features; one weight or three."""

    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        self.joined, self.kind = rng.random() < 0.5, rng.choice(["softmax", "softmax", "linear", "normed", "cosine"])
        self.feature = rng.choice([torch.abs, torch.square, torch.exp, lambda x: F.elu(x) + 1, lambda x: x.abs() + 0.1])
        self.qkv = nn.Linear(c, 24) if self.joined else nn.ModuleList(nn.Linear(c, 8) for _ in range(3))
        self.norm, self.out = rng.choice([nn.RMSNorm, nn.LayerNorm])(4), nn.Linear(8, c)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.qkv(x) if self.joined else torch.cat([f(x) for f in self.qkv], -1)
        q, k, v = joined.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4) if self.joined else \
            (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in joined.chunk(3, -1))
        if self.kind == "linear":
            q, k = self.feature(q), self.feature(k)
            mixed = q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT + 0.5)
        else:
            if self.kind == "normed":
                q, k = self.norm(q), self.norm(k)
            elif self.kind == "cosine":
                q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            mixed = (q @ k.mT).div(2).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """A router whose weights mix experts."""

    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        self.router = nn.Linear(c, 2)
        self.experts = nn.ModuleList(Gated(rng, c) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return sum(weights[..., i:i + 1] * expert(x) for i, expert in enumerate(self.experts))


class Squeezed(nn.Module):
    """Channel gates from the mean over tokens."""

    def __init__(self, rng: random.Random, c: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(c, 4), rng.choice(ACTS), nn.Linear(4, c)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(self.act(self.fc1(x.mean(1, keepdim=True)))))


class RandomStream(nn.Module):
    """Tokens, a few random parts with or without skip paths and norms, and a head; words and a tied head at times."""

    def __init__(self, seed: int):
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        c = 6
        self.words = rng.random() < 0.3
        self.embed = nn.Embedding(9, c) if self.words else nn.Linear(5, c)
        kinds = [rng.choice([Gated, Gated, Halves, Attention, Experts, Squeezed]) for _ in range(rng.randint(1, 3))]
        self.parts = nn.ModuleList(kind(rng, c) for kind in kinds)
        norm = rng.choice(NORMS)
        self.norms = nn.ModuleList(norm(c) for _ in kinds)
        self.skips = [rng.random() < 0.7 for _ in kinds]
        self.last, self.head = rng.choice([norm, nn.Identity])(c), nn.Linear(c, 9 if self.words else 3, bias=False)
        if self.words and rng.random() < 0.5:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, part, skip in zip(self.norms, self.parts, self.skips):
            x = x + part(norm(x)) if skip else part(norm(x))
        return self.head(self.last(x))

    def example(self) -> Tensor:
        return torch.arange(36).view(6, 6) % 9 if self.words else torch.randn(6, 5, 5, dtype=torch.float64)
