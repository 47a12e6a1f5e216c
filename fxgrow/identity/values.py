"""Abstract values of the identity analysis."""
from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

Range = tuple[float, float]


@dataclass(eq=False)
class Val:
    """What one ATen op gave: the op, where in the model it is, and what it was given (of tensors, their Vals)."""
    tensor: Tensor
    name: str = ""
    place: str = ""
    func: Any = None
    args: tuple = ()
    ins: list[Val] = field(default_factory=list)
    of: list[Val | None] = field(default_factory=list)  # for each positional argument that is one tensor, its Val
    at: int = 0  # which of several results
    alpha: Any = 1  # of a sum: the factor on its second operand
    source: str | None = None
    param_only: bool = False
    range: Range = (-inf, inf)

    def arg(self, position: int, default=None):
        return self.args[position] if len(self.args) > position else default
