"""Words for messages: one line out of many, the nearest names, quantities with their units."""
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def shortened(names: list[str], most: int = 3) -> str:
    """Return names in a row, the first few alone: `a, b, c and 7 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """Return the first line of what an exception says: the system's own words for an OSError."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def brief(value: object, most: int = 60) -> str:
    """Write a value in a message: numbers, words and lists of them, cut where they are long; anything else by its kind."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    parts = [*value.values()] if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else [value]
    if not all(isinstance(part, (str, int, float, complex, type(None))) for part in parts):
        kind = type(value).__name__
        return f"{'an' if kind[:1] in 'AEIOUaeiou' else 'a'} {kind}"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def quantity(value: float, unit: str = "") -> str:
    """Write a number with three digits and a decimal prefix: `1.82 G`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = f"{value:.0f}" if not prefix and value == int(value) else f"{value:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def nearest_names(name: str, names: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return those of `names` that are spelt like `name`, the most similar first (`cutoff` 0: any, 1: the name itself)."""
    return difflib.get_close_matches(name, list(names), count, cutoff)


def nearest(name: str, names: Iterable[str]) -> str:
    """Tell the nearest of `names` in the middle of a message; nothing where none is near."""
    near = nearest_names(name, names, cutoff=0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Ask for the one or two nearest of `names` in the middle of a message; nothing where none is near."""
    near = nearest_names(name, names, 2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest_file(path: str) -> str:
    """Ask for the file in the same folder whose name is the nearest."""
    folder = Path(path).parent
    near = nearest_names(Path(path).name, [p.name for p in folder.iterdir()], 1) if folder.is_dir() else []
    return f" (did you mean {folder / near[0]}?)" if near else ""


def times(size: Sequence[int]) -> str:
    """Write sizes as `3x3`."""
    return "x".join(map(str, size))
