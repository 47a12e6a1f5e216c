"""Words for messages: one line out of many, the nearest names, quantities with their units."""
from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path


def one_line(error: BaseException) -> str:
    """What an exception says, in one line: the system's own words for an OSError."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def quantity(value: float, unit: str = "") -> str:
    """`1.82 G`: three digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = f"{value:.0f}" if not prefix and value == int(value) else f"{value:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def nearest_file(path: str) -> str:
    folder = Path(path).parent
    near = difflib.get_close_matches(Path(path).name, [p.name for p in folder.iterdir()], n=1) if folder.is_dir() else []
    return f" (did you mean {folder / near[0]}?)" if near else ""


def by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
