"""fxgrow: make a trained network bigger without changing what it computes.

    grown = fxgrow.transform(model, example_inputs, [Widen("layer1.*", factor=2)])
    fxgrow.verify(model, grown.model, example_inputs).ok

Names are loaded when first used, so that `fxgrow --help` does not wait for torch.
"""
from fxgrow.exports import lazy_exports

TYPE_CHECKING = False  # for type checkers as that of `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from fxgrow.archive import load, save
    from fxgrow.axis import axis_rule
    from fxgrow.compare import Verification, verify
    from fxgrow.contents import AxesReport, axes
    from fxgrow.cost import Cost, FlopCount, Flops, count_flops, flop_rule
    from fxgrow.diagram import Difference, diff, draw
    from fxgrow.errors import ArchiveError, CaptureError, DrawError, FxgrowError, GrowthError, OtherInputs, SelectionError
    from fxgrow.growth import transform
    from fxgrow.loops import Grower
    from fxgrow.passes.into import GrownInto, grow_into, put_back
    from fxgrow.record import Grown, GrowthRecord, Outcome, ParameterRecord, scale_updates, tie, untie
    from fxgrow.tracing import capture
    from fxgrow.visual import plot_attention, plot_features, plot_filters, plot_saliency, report

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "archive": "load save",
    "axis": "axis_rule",
    "compare": "Verification verify",
    "contents": "AxesReport axes",
    "cost": "Cost FlopCount Flops count_flops flop_rule",
    "diagram": "Difference diff draw",
    "errors": "ArchiveError CaptureError DrawError FxgrowError GrowthError OtherInputs SelectionError",
    "growth": "transform",
    "loops": "Grower",
    "passes.into": "GrownInto grow_into put_back",
    "record": "Grown GrowthRecord Outcome ParameterRecord scale_updates tie untie",
    "tracing": "capture",
    "visual": "plot_attention plot_features plot_filters plot_saliency report",
})
