"""`draw`: a model as a picture in a file. What it shows is chosen in build.py and repeats.py, its looks are in dot.py."""
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fxgrow.common import atomic_write, pixels, writing
from fxgrow.diagram.build import Diagram, build, kinds_of
from fxgrow.diagram.dot import Picture, rendered
from fxgrow.diagram.heat import Heat
from fxgrow.diagram.html import diagram_page
from fxgrow.diagram.repeats import chosen
from fxgrow.errors import DrawError
from fxgrow.record import Grown, captured

FORMATS = ("svg", "png", "pdf", "dot", "html")


def draw(model_or_grown: nn.Module | Grown, example_inputs, path: str | os.PathLike, *, depth: int | None = None,
         collapse: str | Sequence[str] = (), repeats: bool | None = None, heat: str | None = None,
         columns: int | None = None, logdir: str | os.PathLike | None = None) -> Path:
    """Draw a model and return the path of the picture.

    Args:
        model_or_grown: any module that `capture` takes, or what `transform` gave.
        example_inputs: as for `capture`; None for a captured, loaded or grown model, which holds its own.
        path: where the picture goes; svg, png, pdf, dot (Graphviz's own text) or html by its suffix. An html page needs
            neither Graphviz nor a network, and its modules open and close.
        depth: modules so many levels deep are one box each; 0 for every level. None: as deep as 60 boxes allow.
        collapse: globs over the paths of modules that are one box each.
        repeats: draw equal blocks that follow each other once, with their number; None: where there are more than 60 boxes.
        heat: colour by the share of "flops", "params" or "memory" (bytes of activations) instead of by family.
        columns: how many columns a long picture is broken into; None: as many as make it about as wide as it is high.
        logdir: a folder of TensorBoard's, which gets the picture and a table of its boxes as well.

    Raises:
        DrawError: an unknown suffix or heat, a glob that matches nothing; Graphviz or, for `logdir`, TensorBoard is missing.
        CaptureError: the model cannot be captured.
    """
    target = Path(path)
    kind = format_of(target)
    options: dict[str, Any] = {"depth": depth, "collapse": collapse, "repeats": repeats, "heat": heat}
    if kind == "html":
        content = diagram_page(*captured(model_or_grown, example_inputs), **options)
    if kind != "html" or logdir is not None:
        drawn = picture(model_or_grown, example_inputs, columns=columns, **options)
    if kind != "html":
        content = rendered(drawn.graph, kind)
    if logdir is not None:
        image = pixels(rendered(drawn.graph, "png"))
        with writing(logdir) as writer:
            writer.add_image("model/diagram", image, dataformats="HWC")
            writer.add_text("model/boxes", _table(drawn.diagram))
    with atomic_write(target) as file:
        file.write(content)
    return target


def picture(model_or_grown: nn.Module | Grown, example_inputs=None, *, depth: int | None = None,
            collapse: str | Sequence[str] = (), repeats: bool | None = None, heat: str | None = None,
            columns: int | None = None) -> Picture:
    """Return the picture that `draw` writes, for the same arguments; `.graph` is a `graphviz.Digraph`."""
    if columns is not None and columns < 1:
        raise DrawError(f"columns {columns}: say 1 or more")
    model, gm = captured(model_or_grown, example_inputs)
    diagram = chosen(build(gm, kinds_of(model)), depth, collapse, repeats)
    return Picture(gm, diagram, columns, None if heat is None else Heat(gm, diagram, heat))


def format_of(path: Path) -> str:
    """Return the format that a suffix stands for; raise DrawError where it is none."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DrawError(f"{path}: a picture is {', '.join(FORMATS)}, by its suffix")
    return kind


def _table(diagram: Diagram) -> str:
    """Return the boxes of a picture as a table in Markdown."""
    lines = ["| module or layer | operations | times | gives |", "|---|---|---|---|"]
    for box in diagram.root.boxes():
        words = ", ".join(f"{n} {f}" for f, n in box.families.items()) if box.folded else ", ".join(
            f"{r.title} {r.settings}".strip() for r in box.rows)
        name = box.path if box.folded else box.rows[0].name or box.path
        lines.append("| " + " | ".join(_plain(w) for w in (name, words, str(box.times), box.shape)) + " |")
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Return words that Markdown leaves as they are."""
    return "".join(f"&#{ord(c)};" if c in "<>&|`*_[]\\" or not c.isprintable() else c for c in words)
