"""Capture: an `nn.Module` becomes a module-level `torch.fx.GraphModule` that behaves like it in train and eval mode.

Control flow over sizes is that of the example inputs, and is checked at each call; arithmetic of sizes stays in the graph.
"""
import itertools
import keyword
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_leaves
from fxgrow.errors import CaptureError
from fxgrow.graph import (
    CONSTANT,
    Captured,
    arguments_of,
    as_call,
    assemble,
    clean_trace,
    clone_module,
    cloned_tensors,
    faults_told,
    is_captured,
    is_compiled,
    keep_grad_mode,
    meta_twin,
    shards_in,
    to_meta,
    uncached,
    unwrapped,
)
from fxgrow.tracing.checking import check_capture
from fxgrow.tracing.modes import record_modes

UNQUOTABLE = re.compile(r'["\\\x00-\x1f]')


def capture(model: nn.Module, example_inputs, *, check: bool = True) -> GraphModule:
    """Capture `model` as a module-level graph.

    Args:
        model: any module; its parameters are shared with the result, its Python attributes are not touched.
        example_inputs: a tensor, a tuple of arguments, or a dict of arguments by name, as you call the model. Arguments may
            be tensors, numbers, words, flags and None, and tuples, lists and dicts of them. Of what tensors hold, only whole
            numbers are used: where the forward reads a length out of them that is a size as well.
        check: run graph and model once more on other values and compare them, if that takes a few milliseconds at most.

    Returns:
        A GraphModule with the same parameter names, outputs, train and eval behaviour. `gm.meta["leaves"]` lists the
        submodules that could not be recorded and why.

    Raises:
        CaptureError: names the module and the line that stopped the recording, or the layer at which graph and model differ.
    """
    gm = capture_graph(model, example_inputs, check)
    if gm is not model:
        insist_callable(gm)
        if not is_compiled(gm):  # the check has done it otherwise
            gm.recompile()
    return gm


def insist_callable(gm: GraphModule) -> None:
    """Refuse names that cannot stand in the code of a graph, where torch.fx writes them down as they are.

    Raises:
        CaptureError: a name has a quotation mark, a backslash or a control character, or is a word of Python's (`class`).
    """
    for node in gm.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        path = str(node.target)
        word = next((name for name in path.split(".") if keyword.iskeyword(name)), None)
        if word or UNQUOTABLE.search(path):
            has = f"{word!r} in it, a word of Python's," if word else "a quotation mark, a backslash or a control character,"
            raise CaptureError(f"the name {path!r} has {has} which cannot stand in the code of a graph: give that part of "
                               "the model another name")


def capture_graph(model: nn.Module, example_inputs, check: bool = True, guard: bool = True,
                  train: bool = True) -> GraphModule:
    """Capture without compiling code, for those who go on to rewrite the graph, or (`guard` off) only look at it.

    guard: let the graph check at each call what it takes for granted of sizes, which takes most of the time.
    train: let it follow `train()`; without, it does in both modes what the model does in eval mode.
    """
    return model if is_captured(model) else capture_call(model, *as_call(example_inputs), check, guard, train)


def capture_call(model: nn.Module, args: tuple, kwargs: dict[str, Any], check: bool = True, guard: bool = True,
                 train: bool = True) -> GraphModule:
    """Capture a model as it is called with these arguments, without compiling code."""
    model = unwrapped(model)
    if is_captured(model):
        return model
    if sharded := shards_in(model):
        raise CaptureError(sharded)
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("the model was made by TorchScript (torch.jit.script, trace or load), and is no Python: "
                           "pass the module that it was made from, or put it as a part into a model of yours")
    for layout, tensor in ((_layout(t), t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)):
        if layout:
            raise CaptureError(f"an input is a {layout} tensor of {tensor.ndim} axes, whose layout a graph does not follow: "
                               "pass the part of the model that takes plain tensors, or plain ones (padded, with a mask; "
                               "to_dense())")
    with faults_told(CaptureError, f"the capture of {type(model).__name__} stops"):
        return _captured(model, args, kwargs, check, guard, train)


def _captured(model: nn.Module, args: tuple, kwargs: dict[str, Any], check: bool, guard: bool,
              train: bool) -> GraphModule:
    """Record a model, and put the graph of the recording and the layers of the model together."""
    twin = meta_twin(model)
    leaves: dict[str, str] = {}
    with uncached(twin):
        graph = record_modes(twin, args, kwargs, leaves, _device_of(model, (args, kwargs)), guard, train)
    clean_trace(graph)
    keep_grad_mode(graph)
    memo = cloned_tensors(model, lambda t: t)
    gm = assemble(model, graph, type(model).__name__, lambda leaf: clone_module(leaf, memo))
    for name, value in vars(twin).items():
        if name.startswith(CONSTANT):
            gm.register_buffer(name, value, persistent=False)
    captured = Captured(gm)
    captured.leaves, captured.inputs = leaves, to_meta(tuple(a.value for a in arguments_of(model, args, kwargs)))
    if check:
        insist_callable(gm)
        check_capture(model, gm, args, kwargs)
    return gm


def _layout(tensor: Tensor) -> str:
    """Return what kind of tensor it is that has no plain sizes and strides; `""` for others."""
    return "nested" if tensor.is_nested else "" if tensor.layout is torch.strided else str(tensor.layout).partition(".")[2]


def _device_of(model: nn.Module, inputs: tuple) -> torch.device:
    """Return the device of a model or, where that has no numbers, of its inputs."""
    tensors = [t for t in itertools.chain(model.parameters(), model.buffers(), tree_leaves(inputs)) if isinstance(t, Tensor)]
    return next((t.device for t in tensors if not t.is_meta), torch.device("meta" if tensors else "cpu"))
