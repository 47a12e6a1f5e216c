"""What pictures of weights, saliency and maximised activations share: the models, the images, and a labelled sheet.

What lives here: which models stand side by side, what they are run on, and how arrays of pixels become one figure. What does
not: what is in the arrays (fxgrow/_visualize_weights.py, _saliency.py, _activation.py). Figures are matplotlib's `Figure`
itself, so that no backend of the user's is touched.
"""
from __future__ import annotations

import contextlib
import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from fxgrow._atomic import atomic_write
from fxgrow._record import GrowthRecord, new_numbers, record_in, tensors_of
from fxgrow._transform import Grown, captured
from fxgrow.errors import DrawError, GrowthError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy import ndarray

Models: TypeAlias = "nn.Module | Grown | Mapping[str, nn.Module | Grown]"
FORMATS = ("png", "svg", "pdf")
GAP, LINE, DPI, LETTER = 16, 15, 100, 6.3  # pixels between cells, of a line of text, in an inch, of a letter


# --- models -------------------------------------------------------------------------------------------------------


@dataclass
class Subject:
    """One model of a picture: its name there, its graph, and the record of its growth."""
    name: str
    gm: GraphModule
    record: GrowthRecord

    def entries(self) -> dict[str, tuple[str | None, Tensor]]:
        """Each parameter and buffer by each of its names: the name of its source (None: it is new), and which of its numbers
        are new."""
        tensors = tensors_of(self.gm)
        known = {id(t): (entry.source, new_numbers(entry, t)) for t, entry in self.record.located(tensors).values()}
        return {name: known[id(t)] for name, t in tensors.items()}


def subjects(models: Models, example_inputs=None) -> list[Subject]:
    """The models of a picture, captured. One grown model alone stands beside the small network that is in it.

    Raises:
        CaptureError: a model cannot be captured.
        DrawError: there is no model, or nobody says what its inputs are.
    """
    given: dict[str, Any] = dict(models) if isinstance(models, Mapping) else {"": models}
    found = [_subject(name, model, example_inputs) for name, model in given.items()]
    if not found:
        raise DrawError("there is no model to look at: give one or several")
    alone = found[0]
    if len(found) == 1 and alone.record.lineage:
        with contextlib.suppress(GrowthError):  # a pass replaced layers: there is nothing to put beside it
            found.insert(0, _subject("what it grew from", alone.record.shrink(alone.gm), alone.gm.meta["example_inputs"]))
            alone.name = alone.name or "grown"
    return found


def _subject(name: str, model: nn.Module | Grown, example_inputs) -> Subject:
    held = model.model if isinstance(model, Grown) else model
    if example_inputs is None and not isinstance(model, Grown) and "example_inputs" not in getattr(held, "meta", {}):
        raise DrawError(f"{name or type(held).__name__} does not say what its inputs are: give example_inputs")
    _, gm = captured(model, example_inputs)
    record = model.record if isinstance(model, Grown) else record_in(held) or record_in(gm)
    return Subject(name, gm, record or GrowthRecord())


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards the mode that each submodule had."""
    was = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, training in was.items():
            m.training = training


def run(subject: Subject, x: Tensor) -> Tensor:
    """What a model gives for a copy of `x`; its own error becomes one that says which model, and for what."""
    try:
        return subject.gm(x.clone())
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DrawError(f"{subject.name or 'the model'} does not run on an input of {list(x.shape)} ({what}): give the size "
                        f"that it takes, {list(example(subject).shape)} or the like") from error


def example(subject: Subject) -> Tensor:
    """The only input of a model.

    Raises:
        DrawError: it takes several, or none of floating point numbers.
    """
    inputs = [t for t in tree_leaves(subject.gm.meta["example_inputs"]) if isinstance(t, Tensor)]
    if len(inputs) != 1 or not inputs[0].is_floating_point() or inputs[0].ndim < 3:
        shapes = "; ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in inputs)
        raise DrawError(f"{subject.name or 'the model'} takes {shapes}, not one image [batch, channels, height, width]: only "
                        "the filters of such a model can be drawn")
    return inputs[0]


def scores(subject: Subject, x: Tensor) -> Tensor:
    """The class scores [batch, classes] of a model.

    Raises:
        DrawError: the model gives something else.
    """
    out = run(subject, x)
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x) or not out.is_floating_point():
        said = f"a tensor of {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise DrawError(f"{subject.name or 'the model'} gives {said}, not a vector of class scores [batch, classes]: look at "
                        "a channel of one of its layers instead")
    return out


def class_of(target: int, classes: int) -> int:
    """A class that there is."""
    if not 0 <= target < classes:
        raise DrawError(f"there is no class {target}: the model has {classes} classes, 0 to {classes - 1}")
    return target


# --- images -------------------------------------------------------------------------------------------------------


class Normalisation(NamedTuple):
    """How pixels from 0 to 1 become what a model takes: x = (pixels - mean) / std, one number or one for each channel."""
    mean: Sequence[float]
    std: Sequence[float]

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels [..., channels, *size] as the model takes them."""
        mean, std = self._shaped(pixels)
        return (pixels - mean) / std

    def undo(self, x: Tensor) -> Tensor:
        """What the model takes as pixels from 0 to 1."""
        mean, std = self._shaped(x)
        return (x * std + mean).clamp(0, 1)

    def _shaped(self, like: Tensor) -> tuple[Tensor, Tensor]:
        dims = 2 if like.ndim >= 4 or like.ndim == 3 else 1
        channels = like.shape[-dims - 1]
        if any(len(v) not in (1, channels) for v in self) or min(self.std) <= 0:
            raise DrawError(f"mean {list(self.mean)} and std {list(self.std)} do not suit {channels} channels: give one number "
                            "or one for each channel, std above zero")
        mean, std = (torch.tensor(list(v), dtype=like.dtype, device=like.device).view(-1, *[1] * dims) for v in self)
        return mean, std


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Normalisation((0.5,), (0.25,))


def usual(channels: int) -> Normalisation:
    """ImageNet's for three channels; for others pixels become numbers from -2 to 2."""
    return IMAGENET if channels == 3 else PLAIN


def read_image(path: str | os.PathLike, channels: int, size: tuple[int, int]) -> Tensor:
    """The middle of an image file as pixels from 0 to 1, [channels, height, width]: resized so that it covers 8/7 of the size
    (256 for 224, as classifiers are evaluated on ImageNet), then cropped.

    Raises:
        DrawError: the file is missing or no image, the model takes neither grey nor colour, or Pillow is not installed.
    """
    try:
        import numpy
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DrawError(f"reading an image needs Pillow ({error}): pip install 'fxgrow[plots]'") from error
    if channels not in (1, 3):
        raise DrawError(f"the model takes {channels} channels, an image has 1 or 3: give the input as a tensor in Python")
    if min(size) < 1:
        raise DrawError(f"an image of {size[0]} x {size[1]} pixels holds nothing: give a size of 1 or more")
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise DrawError(f"there is no image file {os.fspath(path)!r}: give the path of a photograph") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DrawError(f"{os.fspath(path)!r} cannot be read as an image ({str(error).splitlines()[0]}): give a whole PNG or "
                        "JPEG file") from error
    ratio = max(size[0] / image.height, size[1] / image.width) * 8 / 7
    image = image.resize((max(size[1], round(image.width * ratio)), max(size[0], round(image.height * ratio))),
                         Image.Resampling.BILINEAR)
    left, top = (image.width - size[1]) // 2, (image.height - size[0]) // 2
    pixels = torch.from_numpy(numpy.array(image.crop((left, top, left + size[1], top + size[0]))))
    return pixels.reshape(*size, channels).permute(2, 0, 1).float() / 255


def pixels_of(image: Tensor) -> ndarray:
    """Pixels from 0 to 1, [1 or 3, height, width], as a uint8 array [height, width, 3].

    Raises:
        DrawError: another number of channels or axes.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DrawError(f"{list(image.shape)} is no picture [1 or 3, height, width]: take the tensor itself, in Python")
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()


# --- the sheet ----------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """One picture of a sheet: a uint8 array [height, width, 3], the words above it, and the colour of its frame (None: no
    frame)."""
    image: ndarray
    title: str = ""
    frame: tuple[int, int, int] | None = None


@dataclass
class Drawn:
    """A figure, and what it says as data (one dict for each thing shown)."""
    figure: Figure
    facts: list[dict] = field(default_factory=list)

    def save(self, path: str | os.PathLike, *, logdir: str | os.PathLike | None = None, tag: str = "model/visualize") -> Path:
        """Writes the figure as png, svg or pdf (by the suffix), and to a folder of TensorBoard's.

        Raises:
            DrawError: another suffix, TensorBoard is not installed, or `logdir` cannot be written to.
        """
        target = Path(path)
        kind = target.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise DrawError(f"{target}: a picture is {', '.join(FORMATS)}, by its suffix")
        content = io.BytesIO()
        self.figure.savefig(content, format=kind, dpi=DPI)
        if logdir is not None:
            _log(logdir, tag, self.figure)
        with atomic_write(target) as file:
            file.write(content.getvalue())
        return target


def sheet(title: str, rows: Sequence[Sequence[Cell | None]], notes: Sequence[str] = ()) -> Figure:
    """Pictures in rows, each with its words above it and not resampled; None is an empty place.

    Raises:
        DrawError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise DrawError(f"figures need matplotlib ({error}): pip install 'fxgrow[plots]'") from error
    columns = max(len(row) for row in rows)
    widths = [max((r[i].image.shape[1] for r in rows if i < len(r) and r[i] is not None), default=0)  # type: ignore[union-attr]
              for i in range(columns)]
    if len(widths) == 1:
        widths = [max(widths[0], 420)]
    wide = max(sum(widths) + GAP * (columns + 1), 420)
    head, foot = _wrapped(title, wide, 1.35), [line for note in notes for line in _wrapped(note, wide)]
    words = [[_wrapped(c.title, widths[i]) if c is not None else [] for i, c in enumerate(row)] for row in rows]
    tops = [LINE * max((len(w) for w in row), default=0) + 6 for row in words]
    heights = [max((c.image.shape[0] for c in row if c is not None), default=0) for row in rows]
    high = 24 * len(head) + sum(tops) + sum(heights) + GAP * (len(rows) + 1) + LINE * len(foot) + (8 if foot else 0)
    figure = Figure(figsize=(wide / DPI, high / DPI), dpi=DPI, facecolor="white")

    def write(x: float, y: float, lines: list[str], size: float, **style) -> None:
        figure.text(x / wide, 1 - y / high, "\n".join(lines), fontsize=size, va="top", parse_math=False,
                    linespacing=1.25, **style)

    write(GAP, 8, head, 11, fontweight="bold")
    y = 24 * len(head) + 10
    for row, lines, top, height in zip(rows, words, tops, heights):
        x = GAP
        for cell, said, width in zip(row, lines, widths):
            if cell is not None:
                write(x, y, said, 8)
                h, w = cell.image.shape[:2]
                place = figure.add_axes((x / wide, 1 - (y + top + h) / high, w / wide, h / high))
                place.imshow(cell.image, interpolation="nearest", aspect="auto")
                place.axis("off")
                if cell.frame is not None:
                    place.add_patch(Rectangle((0, 0), 1, 1, transform=place.transAxes, fill=False, linewidth=4,
                                              edgecolor=[c / 255 for c in cell.frame], clip_on=False))
            x += width + GAP
        y += top + height + GAP
    if foot:
        write(GAP, y, foot, 8, color="#444444")
    return figure


def enlarged(image: ndarray, least: int) -> ndarray:
    """Small pictures at a whole multiple of their size, at least `least` wide."""
    times = max(1, -(-least // image.shape[1]))
    return image.repeat(times, 0).repeat(times, 1)


def _wrapped(text: str, width: float, size: float = 1.0) -> list[str]:
    plain = "".join(c if c.isprintable() else "?" for c in text.replace("\n", " | "))
    lines: list[str] = []
    for line in plain.split(" | "):
        lines += textwrap.wrap(line, max(8, int(width / (LETTER * size)))) or [""]
    return lines if text else []


def _log(logdir: str | os.PathLike, tag: str, figure: Figure) -> None:
    try:
        import numpy
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DrawError(f"TensorBoard's files cannot be written ({error}): pip install 'fxgrow[plots]'") from error
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    try:
        with SummaryWriter(os.fspath(logdir)) as writer:
            writer.add_image(tag, numpy.asarray(canvas.buffer_rgba())[..., :3], dataformats="HWC")
    except OSError as error:
        raise DrawError(f"{logdir} cannot be written to ({error.strerror or error}): choose another folder") from error
