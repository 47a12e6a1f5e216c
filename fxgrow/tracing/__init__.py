"""Capture: a module becomes a module-level `torch.fx` graph that follows `train()` and `eval()`.

What lives here: recording, the parts of a model whose shell cannot be recorded, and the check of both against the model.
What does not: any use of the graph.
"""
from fxgrow.tracing.capturing import capture, capture_call, capture_graph, insist_callable
from fxgrow.tracing.fresh import Axes, Inputs, axes_of, redraw, same_numbers
from fxgrow.tracing.leaves import is_leaf
from fxgrow.tracing.outputs import INF, TOLERANCE, Difference, compare_outputs, same_oddities, tolerance_of
from fxgrow.tracing.parts import bring_inside, of_class, plain_attributes, put_back, with_parts
from fxgrow.tracing.recording import trace
from fxgrow.tracing.state import seeded, untouched

__all__ = ["Axes", "Difference", "INF", "Inputs", "TOLERANCE", "axes_of", "bring_inside", "capture", "capture_call",
           "capture_graph", "compare_outputs", "insist_callable", "is_leaf", "of_class", "plain_attributes", "put_back",
           "redraw", "same_numbers", "same_oddities", "seeded", "tolerance_of", "trace", "untouched", "with_parts"]
