"""The numbers of a plot: runs with one label become a mean, a band over their seeds and the moments of growth.

What lives here: arithmetic on rows of histories. What does not: reading folders (folders.py), drawing (figures.py).
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxgrow.common import csv_text, did_you_mean
from fxgrow.errors import FxgrowError
from fxgrow.experiments.settings import optional
from fxgrow.experiments.train import History

RunRows = History | Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]
BANDS = {"sd": "± 1 standard deviation", "ci": "95 % confidence interval of the mean", "range": "lowest to highest",
         "none": ""}
NUMBERS = ("x", "mean", "low", "high", "count")  # of a curve, [points] each


class PlotError(FxgrowError):
    """There is nothing to plot, or it cannot be plotted as asked for."""


@dataclass
class Curve:
    """The curve of one label.

    Attributes:
        runs: how many runs there are.
        x, mean, low, high: [points]; an x stands there twice where a run jumps, begins or ends, first what holds in front
            of it, then what holds behind it. mean is nan where no run has data, low and high where fewer than two have.
        count: [points], runs with data there.
        growths: (x, what grew), once each.
    """
    label: str
    runs: int
    x: Array
    mean: Array
    low: Array
    high: Array
    count: NDArray[np.int64]
    growths: list[tuple[float, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the curve as plain data, None for gaps."""
        numbers = {name: [None if math.isnan(v) else v for v in getattr(self, name).tolist()] for name in NUMBERS}
        return {"label": self.label, "runs": self.runs, **numbers,
                "growths": [{"x": x, "what": what} for x, what in self.growths]}


def to_csv(curves: Sequence[Curve]) -> str:
    """Return a line for each point of each curve."""
    return csv_text(("label", *NUMBERS), (
        (c.label, *("" if math.isnan(v) else v for v in numbers))
        for c in curves for numbers in zip(*(getattr(c, name).tolist() for name in NUMBERS))))


def curve(label: str, runs: Sequence[RunRows], x: str, y: str, band: str = "sd", smooth: float = 0.0) -> Curve:
    """Work out the mean and the band of column `y` over column `x`.

    A run is the straight lines between its points, and nothing outside them. All runs are read off where any of them has
    a point, so that no point is lost; runs with the same x are not interpolated at all. Of more than two points at one x
    (several growths at once) the first and the last are drawn.

    `smooth` is the weight of the past in an exponential moving average over a run's own points (0: none), corrected for its
    start as Adam's moments are (Kingma and Ba 2015, section 3). Raises PlotError if a run lacks a column, or its x falls.
    """
    if not 0 <= smooth < 1:
        raise PlotError(f"smooth={smooth}: choose a number from 0 (none) to below 1")
    if not runs or isinstance(runs, History) or isinstance(runs[0], Mapping):
        raise PlotError(f"{label!r}: give a list of runs, each a History or a list of its rows")
    drawn = [points(label, rows_of(run), x, y) for run in runs]
    grid, values = aligned([(a, smoothed(b, smooth)) for a, b in drawn])
    growths = {(float(row[x]), what_grew(row["event"])) for run in runs for row in rows_of(run)
               if row.get("event") and row.get(x) is not None}
    return Curve(label, len(runs), grid, *spread(values, band), sorted(growths))


def rows_of(run: RunRows) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a History or of a list of them."""
    return run.rows if isinstance(run, History) else run


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that have numbers."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [n for n in names if any(isinstance(row.get(n), (int, float)) for row in rows)]


def what_grew(event: str) -> str:
    """Return an entry of the schedule without its moment: `widen factor=2` of `epoch=2: widen factor=2`."""
    return " ".join((event.partition(":")[2] or event).split())


def points(label: str, rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[Array, Array]:
    """Return x and y [points] of the rows that have both; y is nan where it is not finite, which is a gap in the curve."""
    names = columns(rows)
    for name in (x, y):
        if name not in names:
            raise PlotError(f"{label}: there is no column {name!r} with numbers{did_you_mean(name, names)}; there are "
                            f"{', '.join(names) or 'none at all'}")
    pairs = [(float(row[x]), float(row[y])) for row in rows if row.get(x) is not None and row.get(y) is not None]
    if not any(map(math.isfinite, (value for _, value in pairs))):
        raise PlotError(f"{label}: no row has both {x!r} and a finite {y!r}: choose another x or y")
    xs, ys = np.array(pairs).T
    ys[np.isinf(ys)] = np.nan
    if not (np.diff(xs) >= 0).all():
        raise PlotError(f"{label}: {x!r} falls along a run, so nothing can be drawn over it: choose step, epoch or flops")
    return xs, ys


def smoothed(ys: Array, weight: float) -> Array:
    """Return the exponential moving average, corrected for its start."""
    average, out = 0.0, ys.copy()
    for count, i in enumerate(np.flatnonzero(~np.isnan(ys)), 1):
        average = weight * average + (1 - weight) * ys[i]
        out[i] = average / (1 - weight ** count)
    return out


def aligned(runs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Put all runs on one grid: x [points] and values [runs, points], nan where a run has no data."""
    first, last = min(xs[0] for xs, _ in runs), max(xs[-1] for xs, _ in runs)
    once = np.unique(np.concatenate([xs for xs, _ in runs]))
    jumps = np.concatenate([xs[1:][np.diff(xs) == 0] for xs, _ in runs])
    ends = np.concatenate([xs[[0, -1]] for xs, _ in runs])
    grid = np.sort(np.concatenate([once, np.union1d(jumps, ends[(ends > first) & (ends < last)])]))
    behind = np.append(False, np.diff(grid) == 0)
    in_front = np.append(np.diff(grid) == 0, False)
    return grid, np.stack([_read(run, grid, in_front, behind, first, last) for run in runs])


def _read(run: tuple[Array, Array], grid: Array, in_front: NDArray[np.bool_], behind: NDArray[np.bool_], first: float,
          last: float) -> Array:
    """Return a run's values on the grid; of several points at one x the first holds in front of it, the last behind it."""
    xs, ys = run
    left = np.searchsorted(xs, grid, side="left").clip(0, len(xs) - 1)
    right = (np.searchsorted(xs, grid, side="right") - 1).clip(0, len(xs) - 1)
    hit = xs[left] == grid
    before = (left - 1).clip(0)
    width = np.where(xs[left] > xs[before], xs[left] - xs[before], 1.0)
    between = ys[before] + (ys[left] - ys[before]) * (grid - xs[before]) / width
    values = np.where(hit, np.where(behind, ys[right], ys[left]), between)
    values[(grid < xs[0]) | (grid > xs[-1])] = np.nan
    values[in_front & (grid == xs[0]) & (xs[0] > first)] = np.nan
    values[behind & (grid == xs[-1]) & (xs[-1] < last)] = np.nan
    return values


def spread(values: Array, band: str) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Return mean, low, high and count [points] of values [runs, points]; raise PlotError if `band` is none of BANDS."""
    if band not in BANDS:
        raise PlotError(f"band={band!r}: choose one of {', '.join(BANDS)}")
    there = ~np.isnan(values)
    count = there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(0) / count
        sd = np.sqrt(np.where(there, (values - mean) ** 2, 0).sum(0) / (count - 1))
    if band == "range":
        low, high = np.where(there, values, np.inf).min(0), np.where(there, values, -np.inf).max(0)
    else:
        half = sd * (_t_factor(count) if band == "ci" else 1.0)
        low, high = mean - half, mean + half
    hidden = (count < 2) | (band == "none")
    return mean, np.where(hidden, np.nan, low), np.where(hidden, np.nan, high), count


def _t_factor(count: NDArray[np.int64]) -> Array:
    """Return half the width of Student's 95 % confidence interval of a mean, in standard deviations of the sample."""
    optional("scipy", "confidence intervals need scipy", "plots", PlotError)
    from scipy import stats
    return stats.t.ppf(0.975, np.maximum(count - 1, 1)) / np.sqrt(np.maximum(count, 1))
