"""Kinds of contents that new positions may hold, and the complement with which each cancels."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxgrow.axis import Atom

COMPLEMENT = {"pair": "signed", "signed": "pair", "free": "zero", "zero": "free", "average": "zero", "copy": "share",
              "share": "copy"}
COPIES = ("copy", "share")
CONST = "const"  # the same at every position: a broadcast value
NIL = "nil"  # zero at every position, old and new: it agrees with every content


@dataclass(frozen=True)
class Var:
    """The content of a parameter's new positions, not yet chosen."""
    source: str
    dim: int


@dataclass(frozen=True)
class ByPart:
    """One content for each position of a told-apart atom (q, k and v stacked in one axis, for instance)."""
    atom: Atom
    contents: tuple


Content = Any
