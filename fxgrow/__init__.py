"""fxgrow: make a trained network bigger without changing what it computes.

    grown = fxgrow.transform(model, example_inputs, [Widen("layer1.*", factor=2)])
    fxgrow.verify(model, grown.model, example_inputs).ok
"""
from fxgrow._capture import capture
from fxgrow._classes import AxesReport, axes
from fxgrow._record import GrowthRecord
from fxgrow._transform import Grown, Outcome, transform
from fxgrow._verify import Verification, verify
from fxgrow.errors import ArchiveError, CaptureError, FxgrowError, GrowthError, SelectionError

__version__ = "0.1.0"
__all__ = ["ArchiveError", "AxesReport", "CaptureError", "FxgrowError", "Grown", "GrowthError", "GrowthRecord", "Outcome",
           "SelectionError", "Verification", "axes", "capture", "load", "save", "transform", "verify"]


def __getattr__(name: str):
    if name in ("load", "save"):
        from fxgrow import _archive
        return getattr(_archive, name)
    raise AttributeError(name)
