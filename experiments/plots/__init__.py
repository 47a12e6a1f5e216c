"""Plots of training: the folders they read, the numbers in them, the figures.

What lives here: figures of runs. What does not: those of experiments (papers) and pages about searches (evolve).
"""
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.experiments.plots.figures import bars, check_suffix, curves, draw_curves
    from fxgrow.experiments.plots.folders import StoredRun, group_runs, read_runs
    from fxgrow.experiments.plots.numbers import Curve, columns, curve, points, to_csv

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "figures": "bars check_suffix curves draw_curves",
    "folders": "StoredRun group_runs read_runs",
    "numbers": "Curve columns curve points to_csv",
})
