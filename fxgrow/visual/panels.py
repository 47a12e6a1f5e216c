"""Pictures beside each other with words above them: one row a subject, one column a model.

Every pixel of a picture is one of the file. Figures are matplotlib's, untouched by settings of the user's.
"""
from __future__ import annotations

import contextlib
import io
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy import ndarray
from torch import Tensor

from fxgrow.common import atomic_write, pixels, writing
from fxgrow.errors import DrawError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, LINE, LETTER, GAP = 100, 15, 6.4, 12  # pixels: a line of words, a letter of it, between panels
NARROWEST = 150  # pixels of a column at least, so that words have room
LARGEST = 60_000  # pixels of a side that PNG readers still take


@dataclass
class Panel:
    """Picture (uint8 [H, W, 3]; None: there is none, and the words say why), words above it, and measurements as data."""
    image: ndarray | None
    words: str
    facts: dict[str, Any]


@dataclass
class Picture:
    """Result of a `plot_*` function: a title, and for each row a list of panels (`.image`, `.words`, `.facts`)."""
    title: str
    panels: list[list[Panel]]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Measurements of each panel, row by row."""
        return [panel.facts for row in self.panels for panel in row]

    @property
    def figure(self) -> Figure:
        """Matplotlib figure of its own, 100 pixels an inch."""
        with _plain_style():
            return _draw(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write a PNG file, whole or not at all; the same picture gives the same bytes."""
        check_suffix(path)
        content = self._png()
        with atomic_write(path) as file:
            file.write(content)

    def log(self, logdir: str | os.PathLike, tag: str = "model/visualisation", step: int | None = None) -> None:
        """Write the picture to a folder of TensorBoard's as an image."""
        image = pixels(self._png())
        with writing(logdir) as writer:
            writer.add_image(tag, image, step, dataformats="HWC")

    def _png(self) -> bytes:
        content = io.BytesIO()
        with _plain_style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
            _draw(self).savefig(content, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        return content.getvalue()


def check_suffix(path: str | os.PathLike) -> None:
    """Raise DrawError for a path that does not end in .png."""
    if not os.fspath(path).lower().endswith(".png"):
        raise DrawError(f"{os.fspath(path)}: pictures of filters and pixels are PNG files; give a name that ends in .png")


def enlarged(image: ndarray) -> ndarray:
    """Return an image [H, W, 3] with each pixel drawn as a square, so that it is about 224 pixels large."""
    times = max(1, 224 // max(image.shape[:2]))
    return image.repeat(times, 0).repeat(times, 1)


def as_pixels(image: Tensor) -> ndarray:
    """Return an image [1 or 3, H, W] of numbers from 0 to 1 as uint8 [H, W, 3], enlarged."""
    return enlarged((image.expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy())


def plain(words: str) -> str:
    """Write out every character that cannot be printed, so that no name moves the others about."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """Use matplotlib's own settings for as long as a figure is made, whatever the user's are."""
    try:
        import matplotlib
    except ImportError as error:
        raise DrawError(f"pictures with labels need matplotlib ({error}): pip install 'fxgrow[plots]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _draw(picture: Picture) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = [max([NARROWEST, *(p.image.shape[1] for p in column if p.image is not None)])
              for column in zip(*picture.panels)]
    words = [[_wrapped(p.words, w) for p, w in zip(row, widths)] for row in picture.panels]
    heads = [LINE * max(map(len, row)) + 4 for row in words]
    tall = [max([0, *(p.image.shape[0] for p in row if p.image is not None)]) for row in picture.panels]
    width = sum(widths) + GAP * (len(widths) + 1)
    title = _wrapped(picture.title, round(0.85 * (width - 2 * GAP)))  # bold letters are wider
    height = GAP * (len(tall) + 1) + sum(heads) + sum(tall) + LINE * len(title)
    if max(width, height) > LARGEST:
        raise DrawError(f"the picture would be {width} x {height} pixels: show fewer layers or models")
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, title, GAP, GAP / 2, width, height, weight="bold")
    top = GAP + LINE * len(title)
    for row, lines, head, deep in zip(picture.panels, words, heads, tall):
        left = GAP
        for panel, text, wide in zip(row, lines, widths):
            _write(figure, text, left, top, width, height)
            if panel.image is not None:
                h, w = panel.image.shape[:2]
                axes = figure.add_axes((left / width, 1 - (top + head + h) / height, w / width, h / height))
                axes.imshow(panel.image, interpolation="nearest", aspect="auto")
                axes.axis("off")
            left += wide + GAP
        top += head + deep + GAP
    return figure


def _wrapped(words: str, width: int) -> list[str]:
    letters = max(8, int(width / LETTER))
    return [line for part in words.split("\n") for line in textwrap.wrap(plain(part), letters) or [""]]


def _write(figure: Figure, lines: Sequence[str], left: float, top: float, width: int, height: int, **style) -> None:
    """Write lines below each other, as they are: `$`, `_` and `\\` mean nothing."""
    for i, line in enumerate(lines):
        figure.text(left / width, 1 - (top + LINE * i) / height, line, fontsize=8, va="top", parse_math=False, **style)
