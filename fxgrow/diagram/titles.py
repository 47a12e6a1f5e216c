"""Titles of frames where no arrow runs through them: on the left or on the right, by where Graphviz laid the arrows.

A title's place says nothing about the layout, so that it may be chosen when the layout is known. Room for it is kept twice.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence, Set

LETTER, MOST = 7.2, 260  # points: of a letter at 11 points, on average; of the room that is kept for arrows beside a title
STEPS = 12  # places on each piece of a curve that are looked at


def placed(source: str, right: Set[str] = frozenset()) -> str:
    """Return a picture in Graphviz's language with the titles of frames at the left, or at the right, and room beside each.

    In `source` the title of frame n is said to stand at `labeljust=ln`; right: the numbers of frames.
    """
    def title(found: re.Match) -> str:
        heading, number = found.groups()
        width = min(MOST, round(LETTER * len(re.sub("<[^>]*>|&[^;]*;", "", heading))) + 24)
        cells = [f"<td>{heading}</td>", f'<td width="{width}"></td>']
        side = "r" if number in right else "l"
        return (f'label=<<table border="0" cellborder="0" cellspacing="0" cellpadding="0"><tr>'
                f'{"".join(cells if side == "l" else cells[::-1])}</tr></table>> labeljust={side}')
    return re.sub(r"label=<(.*)> labeljust=l(\d+)", title, source)


def crossed(laid_out: bytes) -> set[str]:
    """Return the frames whose title, at the left, more arrows cross than at the right; laid_out: Graphviz's json."""
    layout = json.loads(laid_out)
    points = [place for edge in layout.get("edges", ()) if "pos" in edge and edge.get("style") != "invis"
              for place in _places(edge["pos"])]
    right = set()
    for frame in layout.get("objects", ()):
        if not frame["name"].startswith("cluster") or "lp" not in frame:
            continue
        x0, _, x1, top = map(float, frame["bb"].split(","))
        wide, high = 72 * float(frame["lwidth"]) / 2, 72 * float(frame["lheight"]) + 4
        across = [x for x, y in points if top - high <= y <= top]
        if sum(x0 <= x <= x0 + wide + 8 for x in across) > sum(x1 - wide - 8 <= x <= x1 for x in across):
            right.add(frame["name"].removeprefix("cluster"))
    return right


def _places(curve: str) -> Iterator[tuple[float, float]]:
    """Yield places on an edge: a B-spline of cubic pieces, behind where its arrow ends."""
    spots = [tuple(map(float, spot.split(","))) for spot in curve.split() if spot[0] not in "es"]
    for i in range(0, len(spots) - 3, 3):
        for step in range(STEPS + 1):
            yield _bezier(spots[i:i + 4], step / STEPS)
    yield from (tuple(map(float, spot[2:].split(","))) for spot in curve.split() if spot[0] in "es")  # type: ignore[misc]


def _bezier(spots: Sequence[tuple[float, ...]], t: float) -> tuple[float, float]:
    parts = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3)
    return sum(p * x for p, (x, _) in zip(parts, spots)), sum(p * y for p, (_, y) in zip(parts, spots))
