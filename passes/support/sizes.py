"""Sizes that new numbers should have: the typical deviation of a layer's weights."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.axis import AxisClass
from fxgrow.common import Refusal
from fxgrow.contents import Certificate
from fxgrow.passes.methods import deviation, generators


def fitted(c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
    """The size rounded to what the contents need, and a note where that changed it."""
    if certificate.base == "pair" and (size - c.size) % 2:
        if c.size == 1:
            raise Refusal(f"pairs would make it {size + 1} times as wide")
        return size + 1, f" (pairs: {size} rounded up to {size + 1})"
    if certificate.uniform and size % c.size:
        raise Refusal(f"only an integer factor is exact, as {certificate.uniform} takes a mean over it: try "
                      f"{-(-size // c.size)} times")
    return size, ""


@dataclass
class Draws:
    """The old tensors, and what new numbers are drawn from."""
    tensors: dict[str, Tensor]
    generator: torch.Generator
    uniform: np.random.Generator
    deviations: dict[str, float] = field(default_factory=dict)

    def deviation(self, name: str) -> float:
        if name not in self.deviations:
            self.deviations[name] = deviation(self.tensors[name].detach())
        return self.deviations[name]


def numbers_of(gm: GraphModule, seed: int) -> Draws:
    return Draws({**dict(gm.named_parameters()), **dict(gm.named_buffers())}, *generators(seed))


def typical(scale: Tensor) -> Tensor:
    """The root mean square of a layer scale (one where it is all zero): the scale of new positions."""
    rms = scale.square().mean().sqrt()
    return torch.where(rms > 0, rms, torch.ones_like(rms))
