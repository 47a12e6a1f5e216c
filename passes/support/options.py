"""What the options of several passes have in common: names, seeds, words out of a list, and the classes to grow."""
import contextlib
import fnmatch
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fxgrow.aten import HALF
from fxgrow.axis import OUTPUT, Atom, AxisClass, Prod, Tape, atoms, classes, resolve
from fxgrow.common import Refusal, brief, nearest_names
from fxgrow.contents import Certificate
from fxgrow.errors import GrowthError, SelectionError


def listed(where: str | Sequence[str] | None) -> list[str]:
    """Return the globs of a `where`: one, several, or (None) none."""
    return [where] if isinstance(where, str) else list(where or [])


def seed_of(seed: int | None) -> int:
    """Return the seed; None takes one from torch's global generator."""
    return int(torch.randint(2 ** 31, ())) if seed is None else seed


def insist_known(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a GrowthError unless an option has one of the values that it may have."""
    if value not in allowed:
        raise GrowthError(f"{name} {brief(value)} is not known; choose one of {', '.join(allowed)}")


def check_choices(options: object) -> None:
    """Raise a GrowthError unless each field of a dataclass whose type is a Literal (or None) has one of its values."""
    for name, hint in typing.get_type_hints(type(options)).items():
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        value: Any = getattr(options, name, None)
        literal = next((kind for kind in kinds if typing.get_origin(kind) is typing.Literal), None)
        if literal is not None and not (value is None and types.NoneType in kinds):
            insist_known(name, value, typing.get_args(literal))


def default_method(dtype: torch.dtype) -> typing.Literal["r2r", "net2net"]:
    """Return the method that is least far off in a type: of 16 bits copies, whose shares are powers of two, else pairs."""
    return "net2net" if dtype in HALF else "r2r"


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let new layers draw their numbers from this seed; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def select_classes(tape: Tape, where: str | Sequence[str] | None) -> tuple[list[list[AxisClass]], list[AxisClass]]:
    """Return the classes to grow, each followed by others of its product to try instead, and those that cannot grow."""
    found = classes(tape)
    patterns = [where] if isinstance(where, str) else where
    chosen = found if patterns is None else _named(tape, found, patterns)
    able = [c for c in chosen if c.reason is None and (c.producers or patterns is None)]
    fixed = [c for c in chosen if c not in able]
    by_role = [p for p in patterns or () if ":" in p]
    explicit = [c for c in able if any(fnmatch.fnmatchcase(c.name, p) for p in by_role)]
    return [[c] for c in explicit] or _with_cofactors(tape, able), fixed


def _named(tape: Tape, found: list[AxisClass], patterns: Sequence[str]) -> list[AxisClass]:
    chosen: list[AxisClass] = []
    for pattern in patterns:
        matched = [c for c in found if _matches(pattern, c)]
        if not matched:
            names = sorted({p for c in found for p in c.producers} | {c.name for c in found})
            letters = pattern.strip("*.")
            holding = [n for n in names if letters and letters in n]
            near = holding[:3] or nearest_names(letters, names, cutoff=0.3) or names[:3]
            raise SelectionError(f"no layer that produces a growable axis is called {pattern!r}; the nearest are: "
                                 f"{', '.join(near)}")
        chosen += [c for c in matched if c not in chosen]
        for c in matched:
            if c.reason == OUTPUT and pattern in c.producers:
                tape.open(c.atom)
    return chosen


def _matches(pattern: str, c: AxisClass) -> bool:
    if fnmatch.fnmatchcase(c.name, pattern):
        return True
    return any(fnmatch.fnmatchcase(p, pattern) or p.startswith(pattern + ".") for p in c.producers)


def _with_cofactors(tape: Tape, able: list[AxisClass]) -> list[list[AxisClass]]:
    groups: list[list[AxisClass]] = []
    by_atom, seen = {c.atom: c for c in able}, set()
    for c in able:
        if c.atom not in seen:
            others = [a for a in _cofactors(tape, c.atom) if a in by_atom and a not in seen]
            groups.append([c, *(by_atom[a] for a in others)])
            seen.update([c.atom, *others])
    return groups


def _cofactors(tape: Tape, atom: Atom) -> list[Atom]:
    """Return atoms that share a product with this one on some parameter axis, outermost first."""
    found: dict[Atom, None] = {}

    def walk(axis) -> None:
        axis = resolve(axis)
        for part in getattr(axis, "parts", ()):
            if (part is atom and isinstance(axis, Prod)) or (not isinstance(part, Atom) and atom in atoms(part)):
                walk(part)
                if isinstance(axis, Prod):
                    found.update(dict.fromkeys(a for p in axis.parts if p is not part for a in atoms(p)))

    for axis in dict.fromkeys(resolve(tape.params[name].axes[dim]) for name, dim in tape.params_of[atom]):
        walk(axis)
    found.pop(atom, None)
    return list(found)


def rounded(c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
    """Return the size rounded to what the contents need, and a note where that changed it, or refuse."""
    if certificate.in_pairs and (size - c.size) % 2:
        if c.size == 1:
            raise Refusal(f"pairs would make it {size + 1} times as wide")
        return size + 1, f" (pairs: {size} rounded up to {size + 1})"
    if certificate.uniform and size % c.size:
        raise Refusal(f"only an integer factor is exact, as {certificate.uniform} takes a mean over it: try "
                      f"{-(-size // c.size)} times")
    return size, ""
