"""The certificate that one axis class grows exactly: the content of each parameter axis, and what else changes."""
from __future__ import annotations

from dataclasses import dataclass, field

from fxgrow.axis import Atom, Op
from fxgrow.contents.kinds import Content, Known


@dataclass
class Norm:
    """A norm whose statistics change from n to m positions: weight * sqrt(n/m), eps * n/m."""
    op: Op
    weight: str | None


@dataclass
class Certificate:
    """Proves that one class grows exactly: the content of each parameter axis, and what else has to change."""
    atom: Atom
    base: Content
    contents: dict[tuple[str, int], Known] = field(default_factory=dict)
    uniform: str = ""  # the op for whose sake every position must be copied equally often
    norms: list[Norm] = field(default_factory=list)
    weights: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)  # averages weighted by a layer scale
    scales: set[tuple[str, int]] = field(default_factory=set)
