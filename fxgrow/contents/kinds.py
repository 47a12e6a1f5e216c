"""Kinds of contents that new positions may hold, the complement with which each cancels, and how ops combine them.

| content | new positions hold | complement |
|---|---|---|
| pair    | (u, u), two by two                      | signed |
| signed  | (v, -v)                                 | pair   |
| free    | anything                                | zero   |
| zero    | zero                                    | free   |
| average | the mean over the old positions         | zero   |
| copy    | the old position g(j)                   | share  |
| share   | g(j) times its share, shares sum to one | copy   |
| spread  | the mean of their row plus and minus v, as far from it as the row's old numbers are |   |
| mean    | the mean of their row |                         |
| const   | what every position holds: a broadcast value |   |
| nil     | zero, as every old position: it agrees with all | |
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from fxgrow.axis import Atom, Normalise
from fxgrow.common import Refusal


class Content(str, Enum):
    """Kind of what new positions of an axis hold; a member is equal to its name in lower case."""
    PAIR = "pair"
    SIGNED = "signed"
    FREE = "free"
    ZERO = "zero"
    AVERAGE = "average"
    COPY = "copy"
    SHARE = "share"
    SPREAD = "spread"
    MEAN = "mean"
    CONST = "const"
    NIL = "nil"

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    @property
    def complement(self) -> Content:
        """Return the content with which products over the new positions vanish, or share out the old ones."""
        return COMPLEMENT[self]


PAIR, SIGNED, FREE, ZERO, AVERAGE, COPY, SHARE, SPREAD, MEAN, CONST, NIL = Content
COMPLEMENT = {PAIR: SIGNED, SIGNED: PAIR, FREE: ZERO, ZERO: FREE, AVERAGE: ZERO, COPY: SHARE, SHARE: COPY}
COPIES = {COPY, SHARE}


@dataclass(frozen=True)
class Var:
    """The content of a parameter's new positions, not yet chosen; behind `norm`, if that normalises its rows."""
    source: str
    dim: int
    norm: Normalise | None = None


@dataclass(frozen=True)
class ByPart:
    """One content for each position of a told-apart atom (q, k and v stacked in one axis, for instance)."""
    atom: Atom
    contents: tuple[Content, ...]


Known = Content | ByPart
Tag = Content | ByPart | Var


def by_part(combine: Callable[[list[Content]], Content], tags: Sequence[Known]) -> Known:
    """Apply `combine` to plain contents, part by part where parts differ."""
    parted = [t for t in tags if isinstance(t, ByPart)]
    if not parted:
        return combine(list(tags))  # type: ignore[arg-type]
    atom = parted[0].atom
    if any(t.atom is not atom for t in parted):
        raise Refusal("contents of several kinds meet")
    return ByPart(atom, tuple(combine([t.contents[k] if isinstance(t, ByPart) else t for t in tags])
                              for k in range(atom.size)))


def zeros(tags: Sequence[Known]) -> int:
    """Return how many of several contents are zero; of parts, where most are."""
    size = max((len(t.contents) for t in tags if isinstance(t, ByPart)), default=1)
    return max(sum((t.contents[k] if isinstance(t, ByPart) else t) == ZERO for t in tags) for k in range(size))


def _only_copies(kinds: Iterable[Content], meeting: str) -> bool:
    """Return whether there are copies; they meet nothing but copies that are copied alike."""
    kinds = set(kinds)
    if not kinds & COPIES:
        return False
    if kinds != {COPY}:
        raise Refusal(f"copies {meeting} something that is not copied alike")
    return True


def added(tags: list[Content]) -> Content:
    """Return the content of a sum."""
    kinds = set(tags)
    if len(kinds) == 1:
        return tags[0]
    constant = CONST in kinds
    kinds -= {CONST, NIL}
    if not kinds:
        return CONST
    if _only_copies(kinds, "are added to"):
        return COPY
    if len(kinds) > 1 and AVERAGE not in kinds:
        kinds.discard(ZERO)
    if len(kinds) > 1:
        return FREE
    kind, = kinds
    return {PAIR: PAIR, AVERAGE: AVERAGE, ZERO: PAIR}.get(kind, FREE) if constant else kind


def multiplied(tags: list[Content]) -> Content:
    """Return the content of a product."""
    factors = [t for t in tags if t != CONST]
    kinds = set(factors)
    if not kinds:
        return CONST
    if kinds & COPIES:
        if kinds <= COPIES and factors.count(SHARE) <= 1:
            return SHARE if SHARE in kinds else COPY
        raise Refusal("copies are multiplied by something that is not copied alike")
    if ZERO in kinds:
        return ZERO
    if kinds <= {PAIR, SIGNED}:
        return SIGNED if factors.count(SIGNED) % 2 else PAIR
    return factors[0] if len(factors) == 1 else FREE


def mapped(fn: str, tag: Content) -> Content:
    """Return the content of a function of one value; fn: as for `axis.Map`."""
    keeps_zero = fn in ("fn0", "odd")
    if tag == SHARE:
        raise Refusal("shares of a copy pass a non-linear function")
    if tag in (PAIR, COPY, CONST):
        return tag
    if tag == NIL:
        return NIL if keeps_zero else CONST
    if tag == ZERO:
        return ZERO if keeps_zero else PAIR
    return SIGNED if tag == SIGNED and fn == "odd" else FREE


def met(tags: list[Content]) -> Content:
    """Return the content of a non-linear function of several values."""
    kinds = set(tags) - {CONST, NIL}
    if not kinds:
        return CONST
    if _only_copies(kinds, "meet"):
        return COPY
    return PAIR if kinds <= {PAIR, ZERO} else FREE


def carrier(tags: list[Content]) -> Content:
    """Return what a parameter of one number a position holds so that the contents it meets survive."""
    kinds = set(tags) - {CONST, NIL}
    if not kinds:
        return CONST
    if kinds & COPIES:
        return COPY
    return PAIR if kinds <= {PAIR, SIGNED} else FREE


def vanishes(a: Tag, b: Tag) -> bool:
    """Return whether the sum of products over new positions adds nothing (copies: shares the old terms out).

    Zero on both sides would vanish too, but neither side would get a gradient by it (learning.py).
    """
    if not isinstance(a, Content) or not isinstance(b, Content):
        return isinstance(a, ByPart) and isinstance(b, ByPart) and all(map(vanishes, a.contents, b.contents))
    if {a, b} in ({PAIR, SIGNED}, COPIES):
        return True
    return ZERO in (a, b) and a != b and not {a, b} & COPIES
