"""A picture of a model for TensorBoard: an image, and its boxes as a table."""
import os

from fxgrow.common import pixels, writing
from fxgrow.diagram.build import Diagram


def log(logdir: str | os.PathLike, png: bytes, diagram: Diagram) -> None:
    """Write the image `model/diagram` and the text `model/boxes` to a folder of TensorBoard's; raises as `writing`."""
    image = pixels(png)
    with writing(logdir) as writer:
        writer.add_image("model/diagram", image, dataformats="HWC")
        writer.add_text("model/boxes", table(diagram))


def table(diagram: Diagram) -> str:
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
