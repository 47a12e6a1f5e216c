"""Long diagrams in several columns: which box stands in which."""
import math
from bisect import bisect_right
from collections.abc import Sequence

from fxgrow.diagram.build import Box, Diagram, Item

LONG = 70  # lines from which on there is more than one column
SHAPE = 22  # lines of a column that is as high as it is wide: found by looking at pictures


def columns_of(diagram: Diagram, count: int | None) -> dict[str, int]:
    """Return the column of each box, by its key; None: so many that a picture is about as wide as it is high."""
    boxes = list(diagram.root.boxes())
    length = sum(map(_lines, boxes))
    if count is None:
        count = round(math.sqrt(length / SHAPE)) if length > LONG else 1
    parts = _parts(diagram.root, length / count)
    sizes = [sum(_lines(b) for b in part) for part in parts]
    limit = max(sizes, default=1)
    while len(_filled(sizes, limit)) > count:
        limit += 1
    starts = _filled(sizes, limit)
    return {box.key: bisect_right(starts, i) - 1 for i, part in enumerate(parts) for box in part}


def _lines(box: Box) -> int:
    """Estimate how high a box is, with the space below it."""
    return (3 if box.folded else len(box.rows) + 1) + 1


def _parts(item: Item, most: float) -> list[list[Box]]:
    """Return what stays together: modules of at most so many lines."""
    if isinstance(item, Box):
        return [[item]]
    boxes = list(item.boxes())
    if item.path and sum(map(_lines, boxes)) <= most:
        return [boxes]
    return [part for child in item.children for part in _parts(child, most)]


def _filled(sizes: Sequence[int], limit: int) -> list[int]:
    """Return where columns start if none is longer than `limit`."""
    starts, length = [0], 0
    for i, size in enumerate(sizes):
        if length and length + size > limit:
            starts.append(i)
            length = 0
        length += size
    return starts
