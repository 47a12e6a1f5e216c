"""Abstract values of the identity analysis."""
from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

from fxgrow.aten import Recorded

Range = tuple[float, float]


@dataclass(eq=False)
class Val(Recorded):
    """One result of an ATen op, and the op; its `ins` are Vals.

    tensor: on the meta device. of: for each positional argument, its Val where it is one tensor. at: which of several
    results. alpha: of a sum, the factor on its second operand. source: the parameter or buffer that it is.
    """
    tensor: Tensor = None  # type: ignore[assignment]
    of: list[Val | None] = field(default_factory=list)
    at: int = 0
    alpha: Any = 1
    source: str | None = None
    param_only: bool = False
    range: Range = (-inf, inf)
