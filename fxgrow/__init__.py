"""fxgrow: make a trained network bigger without changing what it computes.

    grown = fxgrow.transform(model, example_inputs, [Widen("layer1.*", factor=2)])
    fxgrow.verify(model, grown.model, example_inputs).ok

Names are loaded when first used, so that `fxgrow --help` does not wait for torch.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxgrow._archive import load, save
    from fxgrow._capture import capture
    from fxgrow._classes import AxesReport, axes
    from fxgrow._diff import Difference, diff
    from fxgrow._draw import draw
    from fxgrow._flops import Cost, FlopCount, count_flops
    from fxgrow._freeze import scale_updates
    from fxgrow._plots import plot_features, plot_filters, plot_saliency
    from fxgrow._record import GrowthRecord, ParameterRecord
    from fxgrow._report import report
    from fxgrow._tie import tie, untie
    from fxgrow._transform import Grown, Outcome, transform
    from fxgrow._verify import Verification, verify
    from fxgrow.errors import ArchiveError, CaptureError, DrawError, FxgrowError, GrowthError, SelectionError
    from fxgrow.flop_rules import Flops, flop_rule
    from fxgrow.passes.into import GrownInto, grow_into

__version__ = "0.1.0"
__all__ = ["ArchiveError", "AxesReport", "CaptureError", "Cost", "Difference", "DrawError", "FlopCount", "Flops",
           "FxgrowError", "Grown", "GrownInto", "GrowthError", "GrowthRecord", "Outcome", "ParameterRecord",
           "SelectionError", "Verification", "axes", "capture", "count_flops", "diff", "draw", "flop_rule", "grow_into",
           "load", "plot_features", "plot_filters", "plot_saliency", "report", "save", "scale_updates", "tie",
           "transform", "untie", "verify"]
_HOME = {"_archive": "load save", "_capture": "capture", "_classes": "AxesReport axes", "_diff": "Difference diff",
         "_draw": "draw", "_flops": "Cost FlopCount count_flops", "_freeze": "scale_updates",
         "_record": "GrowthRecord ParameterRecord", "_tie": "tie untie",
         "_report": "report", "_transform": "Grown Outcome transform", "_verify": "Verification verify",
         "_plots": "plot_features plot_filters plot_saliency",
         "errors": "ArchiveError CaptureError DrawError FxgrowError GrowthError SelectionError",
         "flop_rules": "Flops flop_rule", "passes.into": "GrownInto grow_into"}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fxgrow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fxgrow.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
