"""Figures of runs: curves with bands over seeds and growths marked, and final values with their spread.

They are matplotlib's, in seaborn's style, on a canvas of their own: no window, no pyplot state, no setting is touched.
What does not live here: the numbers that are drawn (numbers.py), and folders (folders.py).
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxgrow.common import atomic_write
from fxgrow.experiments.plots.numbers import BANDS, Curve, PlotError, RunRows, curve, spread
from fxgrow.experiments.settings import optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
DPI, INCHES = 100, (8.0, 4.6)  # 800 pixels wide; legends and labels add to the height
FLAG_ROWS, FLAG_HEIGHT, FLAG_FONT = 6, 11, 8  # rows of labels above the axes, the height of one in points, and its font
GREY = "#444444"
STYLES = ("-", "--", "-.", ":")
# what an axis says, its unit, and how its numbers are written
AXES = {"flops": ("floating-point operations spent in training", "FLOP", "si"),
        "eval_flops": ("floating-point operations spent in evaluations", "FLOP", "si"),
        "step": ("step", "", "si"), "samples": ("samples seen", "", "si"), "parameters": ("parameters", "", "si"),
        "epoch": ("epoch", "", ""), "seconds": ("time (s)", "", ""), "train_loss": ("training loss", "", ""),
        "val_loss": ("validation loss", "", ""), "lr": ("learning rate", "", ""),
        "val_accuracy": ("validation accuracy", "", "percent")}


def curves(runs: Mapping[str, Sequence[RunRows]], path: str | os.PathLike | None = None, *, x: str = "flops",
           y: str = "val_accuracy", title: str = "", growths: bool = True, band: str = "sd", smooth: float = 0.0,
           log_x: bool = False, log_y: bool = False) -> Figure:
    """Draw a line for each label: the mean over its runs, the band of their spread, and the moments at which they grew.

    Runs whose x differ are read off, between their points, where any of them has a point. The band is drawn only where at
    least two runs have data. Labels are shown as they are; `$` and `_` mean nothing.

    Args:
        runs: label -> runs that differ in their seed alone, each a `History` or a list of its rows.
        path: a .png (800 pixels wide), .svg or .pdf to write; the same runs give the same file.
        x, y: columns of the rows: step, epoch, samples, flops, seconds; train_loss, val_loss, val_accuracy, lr, parameters.
        growths: mark them by a line and what grew.
        band: sd (standard deviation of the sample), ci (Student's 95 % interval of the mean), range or none.
        smooth: weight of the past in an exponential moving average over each run, from 0 to below 1.
        log_x, log_y: logarithmic axes; points at or below 0 are not on them.

    Raises:
        PlotError: there are no runs, a column is missing, the suffix is not known, or a package is not installed.
        ArchiveError: the file cannot be written.
    """
    drawn = [curve(label, members, x, y, band, smooth) for label, members in runs.items()]
    return draw_curves(drawn, path, x=x, y=y, title=title, growths=growths, band=band, smooth=smooth, log_x=log_x,
                       log_y=log_y)


def draw_curves(drawn: Sequence[Curve], path: str | os.PathLike | None = None, *, x: str, y: str, title: str = "",
                growths: bool = True, band: str = "sd", smooth: float = 0.0, log_x: bool = False, log_y: bool = False
                ) -> Figure:
    """Draw curves that are worked out already; see `curves`."""
    if not drawn:
        raise PlotError("there are no runs to plot: give at least one")
    _check(path)
    for log, name, numbers in ((log_x, x, [c.x for c in drawn]), (log_y, y, [c.mean for c in drawn])):
        if log and not any((n > 0).any() for n in numbers):
            raise PlotError(f"no {name} is above 0, so it cannot be drawn on a logarithmic axis")
    with _themed():
        figure, axes = _figure(title)
        lines = []
        for i, (c, color) in enumerate(zip(drawn, _colors(len(drawn)))):
            style = STYLES[(i + i // 10) % 4]  # forty pairs with the ten colours
            at = np.where(c.x > 0, c.x, np.nan) if log_x else c.x
            mean = np.where(c.mean > 0, c.mean, np.nan) if log_y else c.mean
            lines += axes.plot(at, mean, color=color, linestyle=style, linewidth=1.8,
                               marker="o" if len(c.x) == 1 else "", zorder=3)
            if (c.count > 1).any() and band != "none":
                axes.fill_between(at, c.low, c.high, color=color, alpha=0.2, linewidth=0, zorder=2)
        _scale(axes, "x", x, log_x)
        _scale(axes, "y", y, log_y, f" (exponential moving average, {smooth:g})" if smooth else "")
        left_out = _flags(figure, axes, drawn, [line.get_color() for line in lines]) if growths else 0
        _legend(figure, lines, drawn, band, left_out)
        _write(figure, path)
    return figure


def bars(table: Mapping[str, Sequence[float]], path: str | os.PathLike | None = None, *, y: str = "val_accuracy",
         title: str = "", band: str = "sd") -> Figure:
    """Draw a row for each label: a dot for each run's value, their mean as a bar, and their spread around it.

    The axis does not start at zero: values that lie close together are told apart by where they are, not by length.

    Args:
        table: label -> a number for each run.
        y: what the numbers are, a column of the history or any words.
        path, title, band: as in `curves`, which raises the same errors.
    """
    if not table or not all(len(values) and np.isfinite(values).all() for values in table.values()):
        raise PlotError("give at least one finite number for each label, and at least one label")
    _check(path)
    with _themed():
        figure, axes = _figure(title, height=1.4 + 0.45 * len(table))
        for row, (values, color) in enumerate(zip(table.values(), _colors(len(table)))):
            mean, low, high, _ = (part[0] for part in spread(np.array(values, dtype=float)[:, None], band))
            axes.plot(values, [row] * len(values), "o", color=color, alpha=0.6, markersize=5, markeredgewidth=0)
            axes.plot([mean, mean], [row - 0.28, row + 0.28], color=color, linewidth=2.5, zorder=3)
            axes.plot([low, high], [row, row], color=color, linewidth=1.5)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.set_yticks(range(len(table)), [_plain(f"{label} ({len(values)})") for label, values in table.items()],
                        parse_math=False)
        axes.grid(axis="y", visible=False)
        _scale(axes, "x", y, False, f"; bar: mean, line: {BANDS[band]}" if BANDS[band] else "; bar: mean")
        _write(figure, path)
    return figure


def _scale(axes: Axes, which: str, column: str, log: bool, more: str = "") -> None:
    from matplotlib import ticker
    words, unit, kind = AXES.get(column) or _of_metric(column)
    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(ticker.NullFormatter())
    formatters = {"si": ticker.EngFormatter(unit), "percent": ticker.FuncFormatter(lambda v, _: f"{100 * v:.6g} %"),
                  "": ticker.FuncFormatter(lambda v, _: f"{v:.6g}")}
    axis.set_major_formatter(formatters[kind])
    _set(axis.label, f"{words}{more}")


def _set(artist: Any, words: str) -> None:
    """Set words that mean what they say, in one line that fits."""
    artist.set_parse_math(False)
    artist.set_text(_plain(words))


def _plain(words: str, width: int = 90) -> str:
    """Return one line, of printable characters, not too long."""
    printable = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in words)
    clean = " ".join(printable.split())
    return clean if len(clean) <= width else clean[:width - 1] + "…"


def _legend(figure: Figure, lines: Sequence[Any], drawn: Sequence[Curve], band: str, left_out: int) -> None:
    """Draw the legend below the axes, where it hides nothing, in as many columns as fit; the figure gets higher."""
    one = "1 run" if band == "none" else "1 run, no band"
    counts = [one if c.runs == 1 else f"{c.runs} runs" for c in drawn]
    names = [f"{_plain(str(c.label), 80)} ({count})" for c, count in zip(drawn, counts)]
    columns = max(1, min(len(names), 110 // (max(map(len, names)) + 8)))
    words = [f"mean over runs, band: {BANDS[band]}"] if band != "none" and any(c.runs > 1 for c in drawn) else []
    words += [f"{left_out} more growths have no label"] if left_out else []
    legend = figure.legend(lines, [" "] * len(lines), loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
                           title=" " if words else None, title_fontsize=9)
    for artist, name in zip(legend.get_texts(), names):
        _set(artist, name)
    if words:
        _set(legend.get_title(), "; ".join(words))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))


def _flags(figure: Figure, axes: Axes, drawn: Sequence[Curve], colors: Sequence[Any]) -> int:
    """Draw a line at each growth (grey where labels share it) and what grew; return how many have no room for words."""
    import seaborn
    marks: dict[tuple[float, str], Any] = {}
    for c, color in zip(drawn, colors):
        for mark in c.growths:
            if mark[0] > 0 or axes.get_xscale() != "log":
                marks[mark] = GREY if mark in marks else color
    if not marks:
        return 0
    for (where, _), color in marks.items():
        axes.axvline(where, color=color, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_xlim(axes.get_xlim())
    figure.draw_without_rendering()
    box, rows, left_out = axes.get_window_extent(), [float("inf")] * FLAG_ROWS, 0
    for (where, what), color in sorted(marks.items(), key=lambda mark: mark[0], reverse=True):
        at = axes.transData.transform((where, axes.get_ylim()[0]))[0]
        words = _plain(what, 60)
        measured = figure.text(0, 0, words, fontsize=FLAG_FONT, parse_math=False)
        width = measured.get_window_extent().width + 6  # with some air
        measured.remove()
        start = min(at, box.x1 - width)
        row = next((i for i, taken in enumerate(rows) if start + width <= taken), None)
        if row is None:
            left_out += 1
            continue
        rows[row] = start
        pole = {"arrowstyle": "-", "color": color, "linestyle": (0, (2, 2)), "shrinkA": 0, "shrinkB": 0,
                "relpos": ((at - start) / width, 0)}
        axes.annotate(words, (where, 1), ((start - at) * 72 / DPI, 4 + FLAG_HEIGHT * row), ("data", "axes fraction"),
                      "offset points", pole, False, fontsize=FLAG_FONT, color=seaborn.set_hls_values(color, l=0.3),
                      parse_math=False, zorder=5 - row / FLAG_ROWS, bbox={"color": "white", "pad": 0})
    figure.set_figheight(figure.get_figheight() + FLAG_HEIGHT / 72 * sum(taken < float("inf") for taken in rows))
    return left_out


def _of_metric(column: str) -> tuple[str, str, str]:
    """Return what an axis says of a column that is a task's metric."""
    from fxgrow.experiments.tasks import metric_of
    metric = metric_of(column)
    if metric is None:
        return column, "", ""
    return f"validation {metric.label}{f' ({metric.unit})' if metric.unit else ''}", "", metric.kind


def check_suffix(path: str | os.PathLike) -> None:
    """Find out before the work if the suffix says what to draw; PlotError if not."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PlotError(f"{os.fspath(path)!r} does not say what to draw: end its name in {', '.join(SUFFIXES)}")


def _check(path: str | os.PathLike | None) -> None:
    if path is not None:
        check_suffix(path)
    for package in ("matplotlib", "seaborn"):
        optional(package, "plots cannot be drawn", "plots", PlotError)


@contextlib.contextmanager
def _themed() -> Iterator[None]:
    """Use matplotlib's own settings and seaborn's style, whatever the caller's are; they are back afterwards."""
    import seaborn
    from matplotlib import style
    own = {"svg.hashsalt": "fxgrow", "axes.titlesize": 12, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9}
    with style.context(["default"]), style.context([seaborn.axes_style("whitegrid"), own]):
        yield


def _figure(title: str, height: float = INCHES[1]) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(INCHES[0], height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        _set(figure.suptitle(" "), title)
    return figure, axes


def _colors(count: int) -> list[Any]:
    import seaborn
    return [seaborn.color_palette("colorblind")[i % 10] for i in range(count)]


def _write(figure: Figure, path: str | os.PathLike | None) -> None:
    if path is None:
        return
    kind = Path(path).suffix.lower()[1:]
    undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, metadata=undated.get(kind))
