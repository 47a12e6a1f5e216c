"""Pictures in TensorBoard's log."""
from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fxgrow.errors import DrawError

if TYPE_CHECKING:
    from numpy import ndarray


@contextlib.contextmanager
def writing(logdir: str | os.PathLike) -> Iterator[Any]:
    """Open a writer into a folder of TensorBoard's.

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
    """Decode a PNG picture and put it on white, uint8 [H, W, 3].

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
