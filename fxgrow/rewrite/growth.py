"""The growth of one class: how many positions it gets, and how the tensors of each content are extended."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxgrow.axis import Atom
from fxgrow.contents import Certificate, Content

Extend = Callable[[Content, Tensor, int, "Growth", tuple[str, int]], tuple[Tensor, Tensor | None]]
Contents = dict[Atom, Content]
Fill = Callable[[Atom, Content, Tensor, int], tuple[Tensor, Tensor | None]]


@dataclass
class Growth:
    """One atom grown from its size to `size` positions, old ones first, by the contents of a certificate.

    source: for each new position, the old one that copies copy; shares: the share of each position in its old one.
    """
    atom: Atom
    size: int
    certificate: Certificate
    extend: Extend
    source: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    shares: Tensor = field(default_factory=lambda: torch.ones(0))
    method: str = ""
    note: str = ""
