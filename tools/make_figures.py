"""Draws the figures of the documentation as SVG: one function a figure, the same bytes every time.

    python tools/make_figures.py [--out docs/img] [--format svg] [NAME ...]

Old numbers are grey, new ones coloured and hatched (Okabe and Ito's colours), zeros white and dotted. The pictures of whole
networks are fxgrow's own, laid out by Graphviz.
"""
import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import graphviz
import matplotlib
import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor, nn

import fxgrow
from fxgrow.diagram.drawing import picture
from fxgrow.passes import Deepen, Widen

ROOT = Path(__file__).resolve().parent.parent
STYLE = {"svg.hashsalt": "fxgrow", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10,
         "mathtext.fontset": "dejavusans", "hatch.linewidth": 0.6}
KINDS = {  # fill, edge, hatch
    "old": ("#D9D9D9", "#555555", ""),
    "new": ("#CBE6F7", "#0072B2", "///"),
    "minus": ("#FBDDB0", "#D55E00", "\\\\\\"),
    "copy": ("#BFE6D9", "#009E73", "|||"),
    "zero": ("#FFFFFF", "#888888", ""),
    "mean": ("#F2D3E4", "#CC79A7", "xxx"),
}
# each figure's size in units, if it is not a whole network's graph, and the function that draws it
FIGURES: dict[str, tuple[tuple[float, ...], Callable[..., graphviz.Digraph | None]]] = {}


def figure(*size: float) -> Callable[[Callable], Callable]:
    """Register a figure under its function's name (underscores become dashes)."""
    def register(fn: Callable) -> Callable:
        FIGURES[fn.__name__.replace("_", "-")] = size, fn
        return fn
    return register


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a drawing of `width x height` units, y downwards, 0.55 inches a unit."""
    fig = Figure(figsize=(width * 0.55, height * 0.55), facecolor="white")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return fig, ax


def block(ax: Axes, x: float, y: float, w: float, h: float, label: str, kind: str, size: float = 11) -> None:
    fill, edge, hatch = KINDS[kind]
    ax.add_patch(Rectangle((x, y), w, h, facecolor=fill, edgecolor=edge, hatch=hatch, linewidth=1,
                           linestyle=":" if kind == "zero" else "-"))
    pad = {"boxstyle": "round,pad=0.12", "facecolor": "white" if hatch else "none", "edgecolor": "none"}
    ax.text(x + w / 2, y + h / 2, label, ha="center", va="center", fontsize=size, bbox=pad)


def say(ax: Axes, x: float, y: float, text: str, size: float = 9, **options) -> None:
    ax.text(x, y, text, fontsize=size, **{"ha": "center", "va": "center", **options})


def arrow(ax: Axes, x: float, y: float, to_x: float, to_y: float) -> None:
    ax.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1,
                                                      "shrinkA": 0, "shrinkB": 0})


def box(ax: Axes, x: float, y: float, w: float, h: float, label: str, size: float = 9) -> None:
    """Draw an operation: a rounded box with words in it."""
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.15", facecolor="#F7F7F7",
                                edgecolor="#333333", linewidth=1))
    say(ax, x + w / 2, y + h / 2, label, size)


def split(parts: str) -> list[list[str]]:
    """Return the label and the kind of each part of `$A$ old, $U$ new`."""
    return [part.rsplit(" ", 1) for part in parts.split(", ")]


def column(ax: Axes, x: float, y: float, w: float, parts: str, first: float = 1.7, rest: float = 0.75) -> float:
    """Draw parts above each other, the first the tallest; return the height of it all."""
    at = y
    for i, (label, kind) in enumerate(split(parts)):
        h = rest if i else first
        block(ax, x, at, w, h, label, kind)
        at += h
    return at - y


def row(ax: Axes, x: float, y: float, h: float, parts: str, first: float = 1.9, rest: float = 0.95) -> float:
    """Draw parts beside each other, the first the widest; return the width of it all."""
    at = x
    for i, (label, kind) in enumerate(split(parts)):
        w = rest if i else first
        block(ax, at, y, w, h, label, kind)
        at += w
    return at - x


def two_layers(ax: Axes, y: float, rows: str, held: str, columns: str, result: str, norm: str = "") -> None:
    """Draw the producer's rows, what the positions hold, a norm if any, consumer's columns, and their sum."""
    say(ax, 1.4, y - 0.35, "producer")
    middle = y + column(ax, 0.4, y, 2.0, rows) / 2
    arrow(ax, 2.55, middle, 3.2, middle)
    say(ax, 3.75, y - 0.35, "positions")
    column(ax, 3.3, y, 0.9, held)
    x = 4.35
    if norm:
        arrow(ax, x, middle, x + 0.5, middle)
        box(ax, x + 0.55, middle - 0.8, 2.1, 1.6, norm + "\n$\\gamma\\,\\sqrt{n/m}$\n$\\epsilon\\,n/m$")
        arrow(ax, x + 2.7, middle, x + 3.2, middle)
        column(ax, x + 3.3, y, 0.9, "$y$ old, $0$ zero")
        x += 4.35
    arrow(ax, x, middle, x + 0.6, middle)
    width = row(ax, x + 0.7, middle - 0.75, 1.5, columns)
    say(ax, x + 0.7 + width / 2, middle - 1.1, "consumer")
    say(ax, x + 0.7 + width / 2, middle + 1.2, result, 10)


def cells(ax: Axes, x: float, y: float, labels: Sequence[str], kinds: Sequence[str], w: float = 0.72) -> None:
    for i, (label, kind) in enumerate(zip(labels, kinds)):
        block(ax, x + i * w, y, w, 0.72, label, kind, 9)


@figure(10, 4.1)
def r2r(ax: Axes) -> None:
    two_layers(ax, 0.6, "$A$ old, $U$ new, $U$ new", "$h$ old, $u$ new, $u$ new", "$W$ old, $V$ new, $-V$ minus",
               "$Wh + Vu - Vu = Wh$")


@figure(10, 3.7)
def net2net(ax: Axes) -> None:
    two_layers(ax, 0.6, "$A$ old, $A_g$ copy", "$h$ old, $h_g$ copy", r"$W\cdot s$ old, $W_g\cdot s$ copy",
               r"$s_j + s_{j'} = 1$ gives $Wh$")


@figure(10, 7.0)
def netmorph(ax: Axes) -> None:
    two_layers(ax, 0.6, "$A$ old, $U$ new", "$h$ old, $u$ new", "$W$ old, $0$ zero", r"$Wh + 0\,u = Wh$")
    two_layers(ax, 4.1, "$A$ old, $0$ zero", "$h$ old, $0$ zero", "$W$ old, $V$ new", r"$Wh + V\,0 = Wh$")


@figure(10, 3.7)
def random(ax: Axes) -> None:
    two_layers(ax, 0.6, "$A$ old, $U$ new", "$h$ old, $u$ new", "$W$ old, $V$ minus", r"$Wh + Vu \neq Wh$")


@figure(13.4, 3.7)
def average(ax: Axes) -> None:
    two_layers(ax, 0.6, r"$A$ old, $\bar{A}$ mean", r"$x$ old, $\mu$ mean", "$W$ old, $V$ new", r"$Wy + V\,0 = Wy$",
               "LayerNorm")


@figure(13.4, 3.7)
def rms(ax: Axes) -> None:
    two_layers(ax, 0.6, "$A$ old, $0$ zero", "$x$ old, $0$ zero", "$W$ old, $V$ new", r"$Wy + V\,0 = Wy$", "RMSNorm")


@figure(13, 4.3)
def copies(ax: Axes) -> None:
    say(ax, 0.3, 0.9, "old", ha="left")
    cells(ax, 2.0, 0.55, ["1", "2", "3"], ["old"] * 3)
    cells(ax, 7.2, 0.55, ["4", "5", "6"], ["old"] * 3)
    say(ax, 0.3, 2.5, "grown", ha="left")
    cells(ax, 2.0, 2.15, list("123123"), ["old"] * 3 + ["copy"] * 3)
    cells(ax, 7.2, 2.15, list("456456"), ["old"] * 3 + ["copy"] * 3)
    for x, name in ((2.0, "group 1"), (7.2, "group 2")):
        arrow(ax, x + 1.08, 1.4, x + 1.08, 2.05)
        say(ax, x + 2.16, 3.15, f"{name}: every number twice")
        say(ax, x + 2.16, 3.6, r"$\mu$ and $\sigma^2$ as before")


@figure(13.6, 5.4)
def shuffle(ax: Axes) -> None:
    """Two groups of three channels, each with a copy (a dash), through view(2, 3), transpose, flatten, chunk(2)."""
    before = [f"{c}{m}" for c in range(6) for m in ("", "'")]
    parted = [before[i] for pair in zip(range(6), range(6, 12)) for i in pair]
    together = [f"{c}{m}" for c in (0, 3, 1, 4, 2, 5) for m in ("", "'")]
    for y, title, labels in ((0.5, "copies side by side", before), (2.2, "nodes left as they are", parted),
                             (3.9, "copies through the batch", together)):
        split = {c for c in "012345" if (labels.index(c) < 6) != (labels.index(f"{c}'") < 6)}
        say(ax, 0.2, y + 0.36, title, ha="left")
        kinds = ["minus" if n[0] in split else "copy" if n.endswith("'") else "old" for n in labels]
        cells(ax, 4.3, y, labels[:6], kinds[:6])
        cells(ax, 8.9, y, labels[6:], kinds[6:])
        if y > 1:
            end = "1 and 4 are parted from their copies" if split else "every channel stays with its copy"
            say(ax, 8.76, y + 1.05, f"chunk: {end}")


@figure(13.2, 5.0)
def bilinear(ax: Axes) -> None:
    panels = [("r2r", "$q$ old, $u$ new, $u$ new", "$k$ old, $v$ new, $-v$ minus", r"$q{\cdot}k + u{\cdot}v - u{\cdot}v$"),
              ("netmorph", "$q$ old, $u$ new", "$k$ old, $0$ zero", r"$q{\cdot}k + u{\cdot}0$"),
              ("cosine, copied", r"$\hat{q}/\sqrt{2}$ old, $\hat{q}/\sqrt{2}$ copy",
               r"$\hat{k}/\sqrt{2}$ old, $\hat{k}/\sqrt{2}$ copy", r"$2\cdot\frac{1}{2}\,\hat{q}{\cdot}\hat{k}$")]
    for i, (title, q, k, result) in enumerate(panels):
        x, rest = 0.4 + 4.3 * i, 1.7 if i == 2 else 0.75
        say(ax, x + 1.8, 0.35, title, 10)
        column(ax, x, 0.7, 1.5, q, rest=rest)
        say(ax, x + 1.8, 2.2, r"$\cdot$", 16)
        column(ax, x + 2.1, 0.7, 1.5, k, rest=rest)
        say(ax, x + 1.8, 4.5, result, 10)


@figure(13.2, 3.9)
def tied(ax: Axes) -> None:
    say(ax, 1.5, 0.4, "embedding")
    row(ax, 0.3, 0.8, 1.6, "$E$ old, $0$ zero", 1.6, 0.8)
    arrow(ax, 2.8, 1.6, 3.4, 1.6)
    column(ax, 3.5, 0.5, 0.8, "$x$ old, $0$ zero")
    say(ax, 4.65, 1.6, "$+$", 14)
    column(ax, 5.0, 0.5, 0.8, "$f$ old, $u$ new")
    say(ax, 6.15, 1.6, "$=$", 14)
    column(ax, 6.5, 0.5, 1.3, "$x+f$ old, $u$ new")
    arrow(ax, 7.95, 1.6, 8.55, 1.6)
    say(ax, 9.85, 0.4, "the same weight, as output layer")
    row(ax, 8.65, 0.8, 1.6, "$E$ old, $0$ zero", 1.6, 0.8)
    say(ax, 12.1, 1.6, "$E(x+f)$", 10)
    say(ax, 6.6, 3.4, "the new columns of $E$ add nothing on the way in and take nothing on the way out")


@figure(13.2, 6.0)
def residual(ax: Axes) -> None:
    say(ax, 0.3, 0.5, 'residual="grow": every producer of the stream has its pair', ha="left")
    stream = "$x$ old, $u$ new, $u$ new"
    row(ax, 0.3, 1.0, 0.8, stream, 1.3, 0.7)
    arrow(ax, 3.1, 1.4, 4.0, 1.4)
    box(ax, 4.1, 1.0, 1.6, 0.8, "block")
    arrow(ax, 5.8, 1.4, 6.5, 1.4)
    row(ax, 6.6, 1.0, 0.8, "$y$ old, $w$ new, $w$ new", 1.3, 0.7)
    say(ax, 9.6, 1.4, "$+$", 14)
    row(ax, 10.0, 1.0, 0.8, stream, 1.3, 0.7)
    say(ax, 0.3, 3.2, 'residual="fold": only one volume grows, the skip path folds it', ha="left")
    row(ax, 0.3, 3.7, 0.8, "$x$ old, $x_L$ new, $x_R$ new", 1.3, 0.7)
    arrow(ax, 3.1, 4.1, 4.0, 4.1)
    box(ax, 4.1, 3.7, 1.6, 0.8, "block")
    arrow(ax, 5.8, 4.1, 6.5, 4.1)
    row(ax, 6.6, 3.7, 0.8, "$y$ old", 1.3)
    say(ax, 8.4, 4.1, "$+$", 14)
    arrow(ax, 3.1, 4.6, 4.0, 5.2)
    box(ax, 4.1, 4.9, 3.2, 0.8, r"$r = x + x_L - x_R$")
    arrow(ax, 7.4, 5.3, 8.3, 4.4)


@figure(13.2, 6.4)
def axes(ax: Axes) -> None:
    say(ax, 0.2, 0.75, "product", ha="left")
    labels = [f"{head}{i}" for head in "abc" for i in range(1, 4)]
    kinds = ["old"] * 3 + ["new"] * 3 + ["copy"] * 3
    cells(ax, 2.4, 0.4, labels, kinds)
    arrow(ax, 9.1, 0.77, 9.9, 0.77)
    for i in range(3):
        cells(ax, 10.1, 0.2 + 0.72 * i, labels[3 * i:3 * i + 3], kinds[3 * i:3 * i + 3])
    say(ax, 5.6, 1.5, "view: one axis heads*head_dim, or two axes heads, head_dim")
    say(ax, 0.2, 3.25, "sum", ha="left")
    row(ax, 2.4, 2.9, 0.75, "conv1 old, conv2 copy", 1.9, 2.6)
    say(ax, 4.65, 4.0, "cat: the segments one after another; cut takes them apart")
    arrow(ax, 7.1, 3.27, 7.9, 3.27)
    block(ax, 8.1, 2.9, 1.9, 0.75, "conv1", "old")
    block(ax, 10.3, 2.9, 2.6, 0.75, "conv2", "copy")
    say(ax, 0.2, 5.25, "unify", ha="left")
    block(ax, 2.4, 4.9, 1.9, 0.75, "stem", "mean")
    say(ax, 4.65, 5.27, "$+$", 13)
    block(ax, 5.0, 4.9, 1.9, 0.75, "block.3", "mean")
    say(ax, 4.65, 6.0, "add: the same positions, so one class that grows together")


@figure(16.2, 4.0)
def capture(ax: Axes) -> None:
    box(ax, 0.3, 1.3, 2.0, 1.2, "module on\nmeta tensors")
    arrow(ax, 2.4, 1.9, 3.0, 1.9)
    box(ax, 3.1, 1.1, 2.7, 1.6, "recording:\neach call a node,\nsizes remember")
    for y, words in ((0.3, "again, on longer inputs\nof another type:\nwhat depends on sizes"),
                     (2.1, "again, in train mode:\nwhat depends\non the mode")):
        box(ax, 6.8, y, 3.4, 1.6, words)
        arrow(ax, 5.9, 1.6 if y < 1 else 2.2, 6.7, y + 0.8)
        arrow(ax, 10.3, y + 0.8, 11.1, 1.6 if y < 1 else 2.2)
    say(ax, 10.95, 0.85, "insist")
    say(ax, 10.95, 3.0, "by_mode")
    box(ax, 11.2, 1.1, 2.2, 1.6, "one\nGraphModule,\nthe old\nparameters")
    arrow(ax, 13.5, 1.9, 14.0, 1.9)
    box(ax, 14.1, 1.1, 1.8, 1.6, "compared\nwith the\nmodel")


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a torchvision model without numbers, and an input for it."""
    with torch.device("meta"):
        return torchvision.models.get_model(name), torch.zeros(1, 3, 224, 224)


@figure()
def diagram() -> graphviz.Digraph:
    return picture(*network("vit_b_16")).graph


@figure()
def diagram_heat() -> graphviz.Digraph:
    return picture(*network("resnet18"), depth=2, heat="params", columns=1).graph


@figure()
def diagram_diff() -> graphviz.Digraph:
    torch.manual_seed(0)
    grown = fxgrow.transform(torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224), [
        Widen("layer1.0.conv1", factor=1.5, seed=0), Deepen("layer1.0", seed=0), Widen("layer4.1.conv1", factor=2, seed=0)])
    return fxgrow.diff(grown).picture(collapse=["layer[234]", "layer1.2"], columns=1).graph


def draw(name: str, folder: Path, suffix: str = "svg") -> Path:
    """Draw one figure into `folder` and return the path written."""
    size, fn = FIGURES[name]
    target = folder / f"{name}.{suffix}"
    if not size:
        target.write_bytes(fn().pipe(format=suffix))
        return target
    with matplotlib.rc_context(STYLE):
        fig, ax = canvas(*size)
        fn(ax)
        fig.savefig(target, metadata={"Date": None, "Creator": None} if suffix == "svg" else None, dpi=110)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"figures (default: all: {', '.join(FIGURES)})")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img", help="folder to write to")
    parser.add_argument("--format", default="svg", choices=("svg", "png"), help="png is for looking at")
    options = parser.parse_args()
    unknown = [n for n in options.names if n not in FIGURES]
    if unknown:
        parser.error(f"no figure is called {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        path = draw(name, options.out, options.format)
        print(f"{path.stat().st_size:7} bytes  {path}")


if __name__ == "__main__":
    main()
