"""The filters of one weight as an array of pixels, new numbers marked, and which of a model's weights are convolutions.

One rule decides how a filter [in, *kernel] becomes a tile of grey or colour:

| weight | a tile is | its colours |
|---|---|---|
| [out, 3, h, w], [out, 3, d, h, w] | one filter; the d slices side by side | red, green and blue are the three inputs |
| [out, 1, h, w] (depthwise too) | one filter | grey |
| [out, in, h, w], out * in <= limit | one pair of output and input; a row of tiles for each filter | grey |
| [out, in, h, w], more pairs | one filter: the root mean square over the inputs, in which nothing cancels | black is 0 |
| [out, in, k] | one filter: a row of k taps for each input | grey |
| [out, in] (linear) | one output: its row of the matrix | grey |

Zero is the middle of each scale except in the root mean square; a number that is not finite is vermilion.
"""
import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy
import torch
from numpy import ndarray
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.aten import ConvNd
from fxgrow.errors import DrawError
from fxgrow.graph import call_of

BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)  # Okabe and Ito's: all readers can tell them apart
MARGIN, RING, DASH, HATCH = 4, 2, 4, 5  # pixels around a tile, of its frame, of a dash, between the lines of a hatching
WIDTH, LARGEST = 900, 12  # pixels that a grid is made to fill, unless a number would be larger than so many
VIEWS = ("colour", "pairs", "size", "rows")


class Convolution(NamedTuple):
    """Weight of a convolution: its qualified name, spatial axes, and how its first two axes are to be read."""
    name: str
    rank: int
    transposed: bool = False
    groups: int = 1


class Tiles(NamedTuple):
    """Tiles of a grid."""
    values: Tensor  # [n, h, w, 1 or 3]
    fresh: Tensor  # where they are new, [n, h, w]
    whole: Tensor  # tiles that are new, [n]
    partly: Tensor  # tiles with new numbers, [n]
    columns: int | None  # tiles in a row, None where it does not matter


def convolutions(gm: GraphModule) -> dict[str, Convolution]:
    """Return the weights of all convolutions by name, as they run; not those computed at each call (parametrizations)."""
    found: dict[str, Convolution] = {}
    for node in gm.graph.nodes:
        call = call_of(gm, node)
        if call is not None and call.rank:
            found.setdefault(call.weight, Convolution(call.weight, call.rank, call.transposed, int(call.argument("groups"))))
        elif node.op == "call_module":
            for path, layer in gm.get_submodule(str(node.target)).named_modules(prefix=str(node.target)):
                if isinstance(layer, ConvNd) and layer._parameters.get("weight") is not None:
                    name = f"{path}.weight"
                    found.setdefault(name, Convolution(name, len(layer.kernel_size), layer.transposed, layer.groups))
    return found


def first_convolution(gm: GraphModule) -> str | None:
    """Return the qualified name of the weight of the convolution that runs first; None if there is none."""
    return next(iter(convolutions(gm)), None)


def owner(weight: str) -> str:
    """Return the layer that a weight belongs to."""
    return weight.removesuffix(".weight")


def out_first(weight: Tensor, groups: int = 1) -> Tensor:
    """Return a transposed convolution's weight [in, out / groups, *kernel] as [out, in / groups, *kernel]."""
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)


def view_of(weight: Tensor, limit: int = 256) -> str:
    """Choose how a weight [out, in, *kernel] is shown: "colour", "pairs", "size" (the root mean square) or "rows"."""
    if weight.ndim < 2 or not weight.numel():
        raise DrawError(f"a weight of shape {list(weight.shape)} holds no filters: give one of shape [out, in, *kernel]")
    if weight.ndim <= 3:
        return "rows"
    if weight.shape[1] == 3:
        return "colour"
    return "pairs" if weight.shape[1] == 1 or weight.shape[0] * weight.shape[1] <= limit else "size"


def shown(out: int, limit: int = 256) -> Tensor:
    """Return the positions that are drawn: all, or `limit` of them spread evenly from the first to the last."""
    return torch.arange(out) if out <= limit else torch.linspace(0, out - 1, limit, dtype=torch.float64).round().long()


def filter_limits(weights: Iterable[Tensor], *, limit: int = 256, view: str | None = None) -> tuple[float, float]:
    """Return the numbers that are black and white in comparable grids of several weights: the largest, either way."""
    grids = (_tiles(weight, None, limit, view).values for weight in weights)
    largest = max((float(abs(v[v.isfinite()]).max()) for v in grids if v.isfinite().any()), default=0.0)
    return -largest, largest


def filter_grid(weight: Tensor, new: Tensor | None = None, *, columns: int | None = None, scale: int | None = None,
                limit: int = 256, limits: tuple[float, float] | None = None, view: str | None = None) -> ndarray:
    """Draw the filters of a weight as a uint8 array [H, W, 3].

    Wholly new filters have a solid blue frame, partly new ones a dashed one, and in these the new numbers are hatched.

    Args:
        weight: [out, in, *kernel] (1d, 2d or 3d) or [out, in]; of a transposed convolution give `out_first(weight)`.
        new: True where a number is new; shape of `weight`.
        columns: tiles in a row; None: one row a filter where a tile is a pair, else about as many as make it 1.6 times as
            wide as high.
        scale: pixels of a number; None: so many that the grid is about 900 wide, at most 12.
        limit: filters drawn at most, spread evenly; more pairs of output and input than this are not drawn as pairs.
        limits: the numbers that are black and white (0 is black in a root mean square); None: this weight's own.
        view: one of "colour", "pairs", "size", "rows" instead of the one that the shape suggests (see the module).
    """
    if new is not None and new.shape != weight.shape:
        raise DrawError(f"the mask of new numbers is {list(new.shape)}, the weight {list(weight.shape)}: they must agree")
    tiles = _tiles(weight, new, limit, view)
    low, high = limits or filter_limits([weight], limit=limit, view=view)
    if (view or view_of(weight, limit)) == "size":
        low = 0.0
    count = len(tiles.values)
    usual = _layout(tiles, columns)
    columns, scale = min(usual[0], count), scale or usual[1]
    cells = _cells(tiles, low, high, scale)
    rows = -(-count // columns)
    cells = numpy.concatenate([cells, numpy.full((rows * columns - count, *cells.shape[1:]), 255, numpy.uint8)])
    cells = cells.reshape(rows, columns, *cells.shape[1:])
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * cells.shape[2], columns * cells.shape[3], 3)


def grid_layout(weights: Iterable[Tensor], *, limit: int = 256, view: str | None = None) -> tuple[int | None, int]:
    """Return columns and scale for comparable grids of several weights: of the widest; None where a row is a filter."""
    tiles = [_tiles(weight, None, limit, view) for weight in weights]
    columns = None if any(t.columns for t in tiles) else max(_layout(t, None)[0] for t in tiles)
    return columns, min(_layout(t, columns)[1] for t in tiles)


def _layout(tiles: Tiles, columns: int | None) -> tuple[int, int]:
    """Return tiles in a row, and pixels of a number."""
    count, h, w, _ = tiles.values.shape
    columns = columns or min(tiles.columns or max(1, round(math.sqrt(1.6 * count * (h + 1) / (w + 1)))), count)
    return columns, max(1, min(LARGEST, (WIDTH // columns - 2 * MARGIN) // w))


def png(array: ndarray) -> bytes:
    """Return a uint8 array [H, W, 3] as the bytes of a PNG file; raise DrawError without Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DrawError(f"pictures need Pillow ({error}): pip install 'fxgrow[plots]'") from error
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG", optimize=True)
    return content.getvalue()


def _tiles(weight: Tensor, new: Tensor | None, limit: int, view: str | None) -> Tiles:
    """Cut a weight into tiles, which have no scale yet."""
    if weight.is_meta:
        raise DrawError("a weight on the meta device has no numbers to draw: give a model that has its weights")
    view = _suitable_view(weight, limit, view)
    at = shown(len(weight), limit)
    weight = weight.detach().float().cpu()[at]
    new = torch.zeros(weight.shape, dtype=torch.bool) if new is None else new.detach().cpu()[at].bool()
    columns = None
    filters = new  # what a tile stands for
    if view == "rows":
        columns = 1 if weight.ndim == 2 else None
        values, fresh = (t[:, None] if t.ndim == 2 else t for t in (weight, new))
        values = values[..., None]
    elif view == "pairs":
        columns = weight.shape[1] if weight.shape[1] > 1 else None
        values, fresh = weight.flatten(0, 1)[..., None], new.flatten(0, 1)
        filters = fresh
    else:
        values = weight.movedim(1, -1) if view == "colour" else weight.square().mean(1).sqrt()[..., None]
        fresh = new.all(1)
    if fresh.ndim == 4:  # slices beside each other
        values, fresh = values.movedim(1, 2).flatten(2, 3), fresh.movedim(1, 2).flatten(2, 3)
    return Tiles(values, fresh, filters.flatten(1).all(1), filters.flatten(1).any(1), columns)


def _suitable_view(weight: Tensor, limit: int, view: str | None) -> str:
    usual = view_of(weight, limit)
    if view is None or view == usual:
        return usual
    suits = view in VIEWS and (view == "rows") == (weight.ndim <= 3) and (view != "colour" or weight.shape[1] == 3)
    if not suits:
        raise DrawError(f"view {view!r} does not suit a weight of shape {list(weight.shape)}: leave it out for {usual!r}")
    return view


def _cells(tiles: Tiles, low: float, high: float, scale: int) -> ndarray:
    """Draw each tile with its frame in its margin; uint8 [n, h * scale + 2 * MARGIN, w * scale + 2 * MARGIN, 3]."""
    grey = ((tiles.values - low) / (high - low)).clamp(0, 1) * 255 if high > low else torch.full_like(tiles.values, 127.5)
    pixels = grey.expand(*grey.shape[:3], 3).nan_to_num(0).round().to(torch.uint8)
    pixels = torch.where(tiles.values.isfinite().all(-1, keepdim=True), pixels, torch.tensor(VERMILION, dtype=torch.uint8))
    drawn = pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2).numpy()
    fresh = (tiles.fresh & ~tiles.whole[:, None, None]).repeat_interleave(scale, 1).repeat_interleave(scale, 2).numpy()
    count, h, w, _ = drawn.shape
    slope = numpy.add.outer(numpy.arange(h), numpy.arange(w))
    drawn[fresh & (slope % HATCH == 0)] = BLUE
    cells = numpy.full((count, h + 2 * MARGIN, w + 2 * MARGIN, 3), 255, numpy.uint8)
    cells[:, MARGIN:-MARGIN, MARGIN:-MARGIN] = drawn
    slope = numpy.add.outer(numpy.arange(h + 2 * MARGIN), numpy.arange(w + 2 * MARGIN))
    ring = numpy.zeros(slope.shape, bool)
    ring[1:-1, 1:-1] = True
    ring[1 + RING:-1 - RING, 1 + RING:-1 - RING] = False
    whole, partly = tiles.whole.numpy(), (tiles.partly & ~tiles.whole).numpy()
    cells[whole[:, None, None] & ring] = BLUE
    cells[partly[:, None, None] & ring & (slope // DASH % 2 == 0)] = BLUE
    return cells
