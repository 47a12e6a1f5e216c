"""Network morphism (Wei 2016, section 3): new positions are free where they are produced and unused where consumed."""
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def free(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, u along `axis`, drawn."""
    return x, drawing.new(x, axis, drawing.m - drawing.n, drawing.source)


def zero(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, None]:
    """Return x, and None: behind it are zeros along `axis`."""
    return x, None
