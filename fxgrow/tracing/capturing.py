"""Capture: an `nn.Module` becomes a module-level `torch.fx.GraphModule` that behaves like it in train and eval mode.

Python control flow over shapes is decided by the example inputs, while shape arithmetic stays in the graph.
"""
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_leaves
from fxgrow.errors import CaptureError
from fxgrow.graph import (
    CONSTANT,
    Captured,
    as_tuple,
    assemble,
    clean_trace,
    clone_module,
    cloned_tensors,
    is_captured,
    meta_twin,
    to_meta,
    uncached,
    unwrapped,
)
from fxgrow.tracing.modes import record_modes


def capture(model: nn.Module, example_inputs) -> GraphModule:
    """Capture `model` as a module-level graph.

    Args:
        model: any module; its parameters are shared with the result, its Python attributes are not touched.
        example_inputs: a tensor or tuple of tensors; shapes decide the control flow, values are not used.

    Returns:
        A GraphModule with the same parameter names, outputs, train and eval behaviour. `gm.meta["leaves"]` lists the
        submodules that could not be traced through and why.

    Raises:
        CaptureError: names the module and the line that stopped the tracing.
    """
    gm = capture_graph(model, as_tuple(example_inputs))
    if gm is not model:
        insist_callable(gm)
        gm.recompile()
    return gm


def insist_callable(gm: GraphModule) -> None:
    """Refuse names that cannot stand in the code of a graph, where torch.fx puts them between quotation marks as they are.

    Raises:
        CaptureError: a name has a quotation mark, a backslash or a control character.
    """
    for node in gm.graph.nodes:
        if node.op in ("call_module", "get_attr") and any(c in '"\\' or c < " " for c in node.target):
            raise CaptureError(f"the name {node.target!r} has a quotation mark, a backslash or a control character, which "
                               "cannot stand in the code of a graph: give that part of the model another name")


def capture_graph(model: nn.Module, inputs: tuple, named: dict[str, Any] | None = None) -> GraphModule:
    """Capture without compiling code, for those who go on to rewrite the graph; `named` are the inputs that are passed so."""
    named = named or {}
    model = unwrapped(model)
    if is_captured(model):
        return model
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("the model was made by TorchScript (torch.jit.script, trace or load), and what it computes is not "
                           "Python any more: pass the module that it was made from, or put it as a part into a model of yours")
    twin = meta_twin(model)
    leaves: dict[str, str] = {}
    with uncached(twin):
        graph = record_modes(twin, inputs, named, leaves, _device_of(model, (inputs, named)))
    clean_trace(graph)
    memo = cloned_tensors(model, lambda t: t)
    gm = assemble(model, graph, type(model).__name__, lambda leaf: clone_module(leaf, memo))
    for name, value in vars(twin).items():
        if name.startswith(CONSTANT):
            gm.register_buffer(name, value, persistent=False)
    captured = Captured(gm)
    captured.leaves, captured.inputs = leaves, to_meta((*inputs, *named.values()))
    return gm


def _device_of(model: nn.Module, inputs: tuple) -> torch.device:
    """Return the device of a model or its inputs."""
    tensors = (*model.parameters(), *model.buffers(), *(t for t in tree_leaves(inputs) if isinstance(t, Tensor)))
    return tensors[0].device if tensors else torch.device("cpu")
