"""A picture of a model for TensorBoard: an image, and its boxes as a table."""
from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fxgrow._diagram import Diagram
from fxgrow.errors import DrawError

if TYPE_CHECKING:
    from numpy import ndarray


@contextlib.contextmanager
def writing(logdir: str | os.PathLike) -> Iterator[Any]:
    """A writer into a folder of TensorBoard's.

    Raises:
        DrawError: TensorBoard is not installed, or the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DrawError(f"TensorBoard's files cannot be written ({error}): pip install 'fxgrow[plots]'") from error
    try:
        with SummaryWriter(os.fspath(logdir)) as writer:
            yield writer
    except OSError as error:
        raise DrawError(f"{logdir} cannot be written to ({error.strerror or error}): choose another folder") from error


def pixels(png: bytes) -> ndarray:
    """A PNG picture on white, uint8 [H, W, 3].

    Raises:
        DrawError: Pillow is not installed.
    """
    try:
        import numpy
        from PIL import Image
    except ImportError as error:
        raise DrawError(f"TensorBoard's files cannot be written ({error}): pip install 'fxgrow[plots]'") from error
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return numpy.array(white.convert("RGB"))


def log(logdir: str | os.PathLike, png: bytes, diagram: Diagram) -> None:
    """Writes the image `model/diagram` and the text `model/boxes` to a folder of TensorBoard's; raises as `writing`."""
    image = pixels(png)
    with writing(logdir) as writer:
        writer.add_image("model/diagram", image, dataformats="HWC")
        writer.add_text("model/boxes", table(diagram))


def table(diagram: Diagram) -> str:
    """The boxes of a picture as a table in Markdown."""
    lines = ["| module or layer | operations | times | gives |", "|---|---|---|---|"]
    for box in diagram.root.boxes():
        words = ", ".join(f"{n} {f}" for f, n in box.families.items()) if box.folded else ", ".join(
            f"{r.title} {r.settings}".strip() for r in box.rows)
        name = box.path if box.folded else box.rows[0].name or box.path
        lines.append("| " + " | ".join(_plain(w) for w in (name, words, str(box.times), box.shape)) + " |")
    return "\n".join(lines)


def _plain(words: str) -> str:
    """Words that Markdown leaves as they are."""
    return "".join(f"&#{ord(c)};" if c in "<>&|`*_[]\\" or not c.isprintable() else c for c in words)
