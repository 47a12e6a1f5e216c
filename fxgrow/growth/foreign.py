"""Passes of others: what one leaves out is completed or refused in its name, and what it puts in is recorded.

What does not live here: passes that keep the record themselves, as those that change an `Edit` do (edit.py).
"""
import dataclasses
import json
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from fxgrow.aten import tree_leaves
from fxgrow.common import brief
from fxgrow.errors import CaptureError, GrowthError
from fxgrow.graph import (
    CONSTANT,
    Captured,
    arguments_of,
    assemble,
    clone_structure,
    copy_nodes,
    copy_of,
    find_module,
    named_tensors,
    owner_of,
    run_shapes,
)
from fxgrow.record import GrowthRecord, Outcome, ParameterRecord
from fxgrow.tracing import capture_call, is_leaf


class _Given:
    """What a pass was given: a copy with numbers of its own, so that it may edit in place and no other network changes."""

    def __init__(self, gm: GraphModule):
        self.gm: GraphModule = clone_structure(gm, copy_of)  # type: ignore[assignment]
        self.gm.recompile()
        self.tensors = dict(named_tensors(self.gm))
        self.modes = {name: m.training for name, m in self.gm.named_modules(remove_duplicate=False)}
        self.modules = set(self.gm.modules())
        self.functions = {n.target for n in self.gm.graph.nodes if n.op == "call_function"}
        self.takes = [str(n.target) for n in self.gm.graph.find_nodes(op="placeholder")]
        facts = Captured(self.gm)
        self.inputs, self.leaves, self.before = facts.inputs, facts.leaves, facts.before
        self.record, self.outcomes = facts.record, facts.outcomes


def apply_foreign(step: Callable[[GraphModule], Any], gm: GraphModule) -> GraphModule:
    """Apply a pass that need not know of records: any callable over a captured module, as torch.fx's PassManager takes it.

    It gives a PassResult, a GraphModule, or None where it edited in place. Facts beside the graph, modes of new layers and
    entries of the record are completed; layers and functions with code of their own are recorded where that can be done.

    Raises:
        GrowthError: it gives something else, or a network that takes other inputs or does not run.
    """
    given, name = _Given(gm), name_of(step)
    result = _graph_of(name, step(given.gm), given)
    _complete_facts(result, given)
    try:
        result.graph.lint()
        result = _with_code_recorded(result, given)
    except (CaptureError, RuntimeError) as error:
        raise GrowthError(f"{name} gave a network that does not run: {error}") from error
    result.recompile()
    _complete_record(step, result, given)
    return result


def name_of(step: Callable) -> str:
    """Return the name of a pass for messages and the record: that of its class, or of the function that it is."""
    return getattr(step, "__name__", type(step).__name__)


def _graph_of(name: str, result: Any, given: _Given) -> GraphModule:
    gm = given.gm if result is None else getattr(result, "graph_module", result)
    if not isinstance(gm, GraphModule):
        raise GrowthError(f"{name} gave {brief(gm)}: a pass over a captured network gives PassResult(graph_module, True)")
    takes = [str(n.target) for n in gm.graph.find_nodes(op="placeholder")]
    if takes != given.takes:
        raise GrowthError(f"{name} changed what the network takes: {', '.join(given.takes)} became "
                          f"{', '.join(takes) or 'nothing'}; a pass leaves the inputs as they are")
    return gm


def _complete_facts(gm: GraphModule, given: _Given) -> None:
    """Hand on what the pass did not; give new layers the network's mode, device and, in place of torch's default, type."""
    facts = Captured(gm)
    facts.inputs, facts.before = facts.inputs or given.inputs, given.before
    facts.leaves = {path: why for path, why in {**given.leaves, **facts.leaves}.items() if find_module(gm, path) is not None}
    for name, module in gm.named_modules(remove_duplicate=False):
        if module not in given.modules:
            module.training = given.modes.get(name, given.gm.training)
    kinds = {(t.device, t.dtype) for t in given.tensors.values() if t.is_floating_point()}
    for _, tensor in named_tensors(gm) if len(kinds) == 1 else ():
        if tensor.dtype == torch.get_default_dtype() and not any(tensor is t for t in given.tensors.values()):
            tensor.data = tensor.data.to(*next(iter(kinds)))


class _Called(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable):
        super().__init__()
        self.forward = function


def _own_code(gm: GraphModule, node: Node, given: _Given) -> tuple[nn.Module, str] | None:
    """Return the layer with code of its own that a new node calls, and its path, or None."""
    if node.op == "call_module":
        path = str(node.target)
        layer = gm.get_submodule(path)
        return None if layer in given.modules or is_leaf(layer, path, Captured(gm).leaves) else (layer, path)
    plain = not isinstance(node.target, types.FunctionType) or node.target in given.functions
    if node.op != "call_function" or plain or node.target.__module__.partition(".")[0] in ("torch", "fxgrow"):
        return None
    homes = (owner_of(n) for n in (node, *node.all_input_nodes))
    return _Called(node.target), next((home for home in homes if home and find_module(gm, home) is not None), "")


def _with_code_recorded(gm: GraphModule, given: _Given) -> GraphModule:
    """Return the network with the code of new layers and functions as nodes; what cannot be recorded stays a leaf.

    Raises:
        CaptureError: the network does not run.
    """
    values, recorded = run_shapes(gm), False
    for node in list(gm.graph.nodes):
        found = _own_code(gm, node, given)
        if found is not None:
            try:
                _inline(gm, node, *found, values)
                recorded = True
            except CaptureError as why:
                Captured(gm).leaves = {**Captured(gm).leaves, found[1]: str(why)}
    if not recorded:
        return gm
    new = assemble(gm, gm.graph, type(gm).__name__)
    new.meta.update(gm.meta)
    return new


def _inline(gm: GraphModule, node: Node, layer: nn.Module, path: str, values: dict[Node, Any]) -> None:
    """Put the recorded nodes of a layer in the place of its call."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    piece = capture_call(layer, args, kwargs)
    for name in [n for n in piece._buffers if n.startswith(CONSTANT)]:  # each call of a layer has constants of its own
        gm.get_submodule(path).register_buffer(f"{name}_{node.name}", piece.get_buffer(name), persistent=False)
    *nodes, output = piece.graph.nodes
    arguments = arguments_of(layer, node.args, dict(node.kwargs))
    env: dict[Node, Any] = {p: a.value for p, a in zip(piece.graph.find_nodes(op="placeholder"), arguments)}
    with gm.graph.inserting_before(node):
        copy_nodes(nodes[len(env):], gm.graph, env, lambda name: f"{path}.{name}".strip(".") + (
            f"_{node.name}" if name.startswith(CONSTANT) else ""))
    result = map_arg(output.args[0], env.__getitem__)
    values |= dict(zip(tree_leaves(result), tree_leaves(values[node])))
    for user in list(node.users):
        user.args, user.kwargs = map_arg((user.args, user.kwargs), lambda n: result if n is node else n)
    gm.graph.erase_node(node)
    leaves = {f"{path}.{n}".strip("."): why for n, why in Captured(piece).leaves.items()}
    Captured(gm).leaves = {**Captured(gm).leaves, **leaves}


def _complete_record(step: Callable, gm: GraphModule, given: _Given) -> None:
    """Say of each tensor that the pass did not record whether it is an old one, renamed perhaps, or new."""
    facts, tensors = Captured(gm), dict(named_tensors(gm))
    kept = facts.record is not None and len(facts.record.lineage) > len(given.record.lineage)
    record, outcomes = (facts.record, facts.outcomes) if kept else (given.record, given.outcomes)
    names = {id(t): name for name, t in given.tensors.items()}
    entries: dict[str, ParameterRecord] = {}
    for name, tensor in tensors.items():
        as_before = name in given.tensors and given.tensors[name].shape == tensor.shape
        told = kept and name in record.parameters and record.parameters[name].fits(tensor.shape)
        if not (as_before or told):
            old = names.get(id(tensor))
            entries[name] = ParameterRecord.new(tensor.ndim) if old is None else ParameterRecord.same(old, tensor.ndim)
    removed = given.tensors.keys() - tensors.keys()
    if not kept:
        new = {name: tensors[name].numel() for name, entry in entries.items() if entry.source is None}
        places = list(dict.fromkeys(name.rpartition(".")[0] or name for name in new))
        outcomes = [*outcomes, Outcome(name_of(step), 0, sum(new.values()), places, "as it says",
                                       "the pass is not one of fxgrow's: whether it is exact, fxgrow.verify tells")]
    lineage = [] if kept else [_as_data(step)]
    facts.keep_growth(record.then(GrowthRecord(entries, lineage, removed)), outcomes)


def _as_data(step: Callable) -> dict[str, Any]:
    """Return a pass for the lineage: its name, and its fields as far as they are numbers and words."""
    fields = dataclasses.fields(step) if dataclasses.is_dataclass(step) else ()
    return {"pass": name_of(step)} | {f.name: _plain(getattr(step, f.name)) for f in fields}


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return brief(value)
