"""Identity analysis: which numbers make a block compute nothing, and by which factors a network may be rescaled.

What lives here: demands on parameters. What does not: where blocks go (passes), which blocks there are (blocks).
"""
from fxgrow.identity.demands import Demand, Start
from fxgrow.identity.layers import identity_layer, layer_norm
from fxgrow.identity.scales import factors, results
from fxgrow.identity.trace import Trace
from fxgrow.identity.values import Range, Val, leaves_alone

__all__ = ["Demand", "Range", "Start", "Trace", "Val", "factors", "identity_layer", "layer_norm", "leaves_alone", "results"]
