"""Capture: a module becomes a module-level `torch.fx` graph that follows `train()` and `eval()`.

What lives here: recording, and the parts of a model whose shell cannot be recorded. What does not: any use of the graph.
"""
from fxgrow.tracing.capturing import capture, capture_graph, insist_callable
from fxgrow.tracing.parts import of_class, plain_attributes, put_back, with_parts
from fxgrow.tracing.recording import trace
from fxgrow.tracing.state import untouched

__all__ = ["capture", "capture_graph", "insist_callable", "of_class", "plain_attributes", "put_back", "trace", "untouched",
           "with_parts"]
