"""How a picture looks, whatever it shows: direction, size of letters, legend, and whether it is for a screen or a paper."""
from __future__ import annotations

import re
from dataclasses import dataclass

from fxgrow.errors import DrawError

# Okabe and Ito's colours, which all readers can tell apart, lightened so that black letters stand out on them
COLOURS = {"convolution": "#7FB8D8", "matrix product": "#EAAE7F", "embedding": "#B9B3E3", "attention": "#E5BBD3",
           "recurrent": "#CC79A7", "normalisation": "#F7F1A0", "activation": "#7FCEB9", "pooling": "#AAD9F4",
           "arithmetic": "#F2CF7F", "join": "#FFFFFF", "shape": "#E2E2E2", "random": "#F4F4F4", "other": "#FFFFFF",
           "in and out": "#FFFFFF"}
# Greys in equal steps, those that hold most numbers the darkest
GREYS = {"convolution": "#B4B4B4", "matrix product": "#BEBEBE", "recurrent": "#C6C6C6", "attention": "#CECECE",
         "embedding": "#D6D6D6", "normalisation": "#DDDDDD", "activation": "#E4E4E4", "pooling": "#EAEAEA",
         "arithmetic": "#F0F0F0", "shape": "#F7F7F7", "random": "#FBFBFB", "join": "#FFFFFF", "other": "#FFFFFF",
         "in and out": "#FFFFFF"}
DIRECTIONS = {"down": "TB", "right": "LR"}
STYLES = ("screen", "paper")
COLUMN = "3.33,9"  # inches: a column of a page that has two
FONT = 10  # points
MOST = 60  # boxes in a picture, unless more are asked for


@dataclass(frozen=True)
class Look:
    """Looks of a picture; see `fxgrow.draw`."""
    direction: str = "down"
    font_size: float = FONT
    legend: bool = True
    style: str = "screen"

    def __post_init__(self):
        if self.direction not in DIRECTIONS:
            raise DrawError(f"direction {self.direction!r}: choose one of {', '.join(DIRECTIONS)}")
        if self.style not in STYLES:
            raise DrawError(f"style {self.style!r}: choose one of {', '.join(STYLES)}")
        if not 1 <= self.font_size <= 200:
            raise DrawError(f"font size {self.font_size}: give points, from 1 to 200")

    @property
    def paper(self) -> bool:
        """Tell whether the picture is for a column of a printed page."""
        return self.style == "paper"

    @property
    def colours(self) -> dict[str, str]:
        """Return the colour of each family of operations."""
        return GREYS if self.paper else COLOURS

    @property
    def attributes(self) -> dict[str, str]:
        """Return what Graphviz is told about the whole picture."""
        size = {"size": COLUMN, "margin": "0", "pad": "0.02"} if self.paper else {}
        return {"rankdir": DIRECTIONS[self.direction], **size}

    @property
    def most(self) -> int:
        """Return how many boxes a picture shows unless more are asked for: what can be read."""
        return 30 if self.paper else MOST

    def columns(self, asked: int | None) -> int | None:
        """Return how many columns a picture is broken into, where that is asked for or follows from the looks."""
        return 1 if asked is None and (self.paper or self.direction == "right") else asked

    def scaled(self, source: str) -> str:
        """Return a picture in Graphviz's language with letters of the size that is asked for."""
        if self.font_size == FONT:
            return source
        return re.sub(r'((?:point-size="|fontsize=))(\d+)',
                      lambda size: f"{size[1]}{int(size[2]) * self.font_size / FONT:.4g}", source)


SCREEN = Look()
