"""Network morphism (Wei 2016, section 3): new positions are free where they are produced and unused where consumed."""
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing
from fxgrow.rewrite import New


def free(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, New]:
    """Return x and, behind it, u along `axis`, drawn."""
    return x, drawing.in_turn(x, axis, 1)


def zero(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, None]:
    """Return x, and None: behind it are zeros along `axis`."""
    return x, None
