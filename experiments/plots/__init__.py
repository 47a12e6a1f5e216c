"""Plots of training: the folders they read, the numbers in them, the figures.

What lives here: figures of runs. What does not: figures of experiments (papers) and searches (evolve).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.experiments.plots.figures import bars, curves
    from fxgrow.experiments.plots.folders import Found
    from fxgrow.experiments.plots.numbers import Curve, columns

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "figures": "bars curves",
    "folders": "Found",
    "numbers": "Curve columns",
})
