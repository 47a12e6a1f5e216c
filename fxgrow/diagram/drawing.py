"""`draw`: a model as a picture in a file. What it shows is chosen in build.py and repeats.py, its looks are in dot.py."""
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fxgrow.common import atomic_write, pixels, writing
from fxgrow.diagram.build import build, kinds_of
from fxgrow.diagram.dot import Picture, rendered
from fxgrow.diagram.heat import Heat
from fxgrow.diagram.html import diagram_page
from fxgrow.diagram.look import FONT, SCREEN, Look
from fxgrow.diagram.parts import Box, Diagram
from fxgrow.diagram.repeats import chosen
from fxgrow.errors import DrawError
from fxgrow.record import Grown, captured

FORMATS = ("svg", "png", "pdf", "dot", "html")


def draw(model_or_grown: nn.Module | Grown, example_inputs, path: str | os.PathLike, *, depth: int | None = None,
         collapse: str | Sequence[str] = (), repeats: bool | None = None, heat: str | None = None,
         columns: int | None = None, direction: str = "down", font_size: float = FONT, legend: bool = True,
         style: str = "screen", logdir: str | os.PathLike | None = None) -> Path:
    """Draw a model and return the path of the picture.

    Args:
        model_or_grown: any module that `capture` takes, or what `transform` gave.
        example_inputs: as for `capture`; None for a captured, loaded or grown model, which holds its own.
        path: where the picture goes; svg, png, pdf, dot (Graphviz's own text) or html by its suffix. An html page needs
            neither Graphviz nor a network, and its modules open and close.
        depth: modules so many levels deep are one box each; 0 for every level. None: as deep as 60 boxes allow.
        collapse: globs over the paths of modules that are one box each.
        repeats: draw equal blocks that follow each other once, with their number; None: where there are more than 60 boxes,
            and where it is one layer that runs several times.
        heat: colour by the share of "flops", "params" or "memory" (bytes of activations) instead of by family.
        columns: how many columns a long picture is broken into; None: as many as make it about as wide as it is high.
        direction: "down" or "right": where values go. A page goes down.
        font_size: of operations, in points; what is smaller or larger follows.
        legend: whether the meaning of the colours stands above.
        style: "screen", or "paper": a column of a printed page, 3.33 inches wide, in greys that printers and readers tell
            apart; a pdf has its letters in it.
        logdir: a folder of TensorBoard's, which gets the picture and a table of its boxes as well.

    Raises:
        DrawError: an unknown suffix, heat, direction or style, a glob that matches nothing; Graphviz or, for `logdir`,
            TensorBoard is missing; Graphviz did not finish within a minute.
        CaptureError: the model cannot be captured.
    """
    write(model_or_grown, example_inputs, path, logdir=logdir, heat=heat, columns=columns, depth=depth, collapse=collapse,
          repeats=repeats, look=Look(direction, font_size, legend, style))
    return Path(path)


def write(model_or_grown: nn.Module | Grown, example_inputs, path: str | os.PathLike, *, heat: str | None = None,
          columns: int | None = None, look: Look = SCREEN, logdir: str | os.PathLike | None = None,
          **selection: Any) -> Diagram:
    """Write the picture that `draw` writes, and return the diagram that it shows; `selection`: depth, collapse, repeats."""
    kind = format_of(Path(path))
    model, gm = captured(model_or_grown, example_inputs)
    whole = build(gm, kinds_of(model))
    diagram = _selected(whole, look, **selection)
    if kind != "html" or logdir is not None:
        drawn = Picture(gm, diagram, columns, None if heat is None else Heat(gm, diagram, heat), look)
    content = diagram_page(model, gm, whole=whole, heat=heat, **selection) if kind == "html" else rendered(drawn, kind)
    if logdir is not None:
        image = pixels(rendered(drawn, "png"))
        with writing(logdir) as writer:
            writer.add_image("model/diagram", image, dataformats="HWC")
            writer.add_text("model/boxes", _table(diagram))
    with atomic_write(path) as file:
        file.write(content)
    return diagram


def picture(model_or_grown: nn.Module | Grown, example_inputs=None, *, heat: str | None = None, columns: int | None = None,
            look: Look = SCREEN, **selection: Any) -> Picture:
    """Return the picture that `draw` writes, for the same arguments; `.graph` is a `graphviz.Digraph`."""
    model, gm = captured(model_or_grown, example_inputs)
    diagram = _selected(build(gm, kinds_of(model)), look, **selection)
    return Picture(gm, diagram, columns, None if heat is None else Heat(gm, diagram, heat), look)


def _selected(whole: Diagram, look: Look, depth: int | None = None, collapse: str | Sequence[str] = (),
              repeats: bool | None = None) -> Diagram:
    return chosen(whole, depth, collapse, repeats, most=look.most)


def format_of(path: Path) -> str:
    """Return the format that a suffix stands for; raise DrawError where it is none."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DrawError(f"{path}: a picture is {', '.join(FORMATS)}, by its suffix")
    return kind


def boxes_of(diagram: Diagram) -> list[dict[str, Any]]:
    """Return the boxes of a picture as data: what is in each, how often it stands there, what it gives, who reads it."""
    edges = diagram.edges()
    return [{"name": box.name, "module": box.kind, "operations": _operations(box), "times": box.times, "last": box.last,
             "how": box.how, "shape": box.shape, "key": box.key,
             "to": [e.head.key for e in edges if e.tail is box]} for box in diagram.root.boxes()]


def _operations(box: Box) -> list[str]:
    if box.folded:
        return [f"{n} {family}" for family, n in box.families.items()]
    return [" ".join(filter(None, (r.title, r.settings, *r.lines(box.path, box.times)))) for r in box.rows]


def _table(diagram: Diagram) -> str:
    """Return the boxes of a picture as a table in Markdown."""
    lines = ["| module or layer | operations | times | gives |", "|---|---|---|---|"]
    for box in diagram.root.boxes():
        cells = box.name, ", ".join(_operations(box)), str(box.times), box.shape
        lines.append("| " + " | ".join(map(_plain, cells)) + " |")
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Return words that Markdown leaves as they are."""
    return "".join(f"&#{ord(c)};" if c in "<>&|`*_[]\\" or not c.isprintable() else c for c in words)
