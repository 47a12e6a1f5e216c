"""Sizes that a class can have, and the size of numbers on new positions."""
import torch
from torch import Tensor

from fxgrow.axis import AxisClass
from fxgrow.common import Refusal
from fxgrow.contents import Certificate


def rounded(c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
    """Return the size rounded to what the contents need, and a note where that changed it.

    Raises:
        Refusal: no size near it will do.
    """
    if certificate.base == "pair" and (size - c.size) % 2:
        if c.size == 1:
            raise Refusal(f"pairs would make it {size + 1} times as wide")
        return size + 1, f" (pairs: {size} rounded up to {size + 1})"
    if certificate.uniform and size % c.size:
        raise Refusal(f"only an integer factor is exact, as {certificate.uniform} takes a mean over it: try "
                      f"{-(-size // c.size)} times")
    return size, ""


def root_mean_square(scale: Tensor) -> Tensor:
    """Return the root mean square of a layer scale (1 where it is all zero): the scale of new positions."""
    rms = scale.square().mean().sqrt()
    return torch.where(rms > 0, rms, torch.ones_like(rms))
