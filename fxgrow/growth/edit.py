"""Editing: a pass that inserts nodes and layers changes a copy of a captured module, and the growth record is kept.

What lives here: the bookkeeping. What does not: what goes where (the passes), which numbers new layers start with.
"""
import fnmatch
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxgrow.aten import storage_of
from fxgrow.common import nearest_names
from fxgrow.errors import CaptureError, SelectionError
from fxgrow.graph import Captured, clone_structure, copy_nodes, hold, remembered, run_shapes, values_and_writes
from fxgrow.growth.piece import Piece
from fxgrow.record import GrowthRecord, Outcome, ParameterRecord, keep_growth
from fxgrow.tracing import capture


class Edit:
    """A copy of a captured module under change.

    gm, graph: the copy (nodes have the names that they have in the original); every tensor of it is its own
        (unless it is not to `own` them: then none may be changed).
    nodes: the original's nodes in the copy, by name. record, outcomes: what has been done so far. like: a tensor of the
        model's type and device.
    """

    def __init__(self, before: GraphModule, step: dict, own: bool = True):
        self.before = before
        tensor = (lambda t: t.detach().clone()) if own else (lambda t: t)
        self.gm: GraphModule = clone_structure(before, tensor)  # type: ignore[assignment]
        self.graph = self.gm.graph
        self.nodes: dict[str, Node] = {node.name: node for node in self.graph.nodes}
        self.record = GrowthRecord(lineage=[step])
        self.outcomes: list[Outcome] = []
        self.like = next((p for p in self.gm.parameters() if p.is_floating_point()), torch.empty(0))

    # -- looking up -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """The value of every node of the original, on meta tensors, by node name."""
        return self._run[0]

    @functools.cached_property
    def _run(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """The values, and whether the memory of each is written to after its node has run."""
        values, written = remembered(self.before, "values", values_and_writes)
        return dict(values), dict(written)

    def written(self, node: Node) -> bool:
        """Tell whether something writes to the memory of a node's value after the node has run."""
        return self._run[1].get(node.name, False)

    def read_elsewhere(self, node: Node) -> bool:
        """Tell whether the memory of a node's value is written to later, and read after that under an older name.

        Then the writing must not go to another tensor.
        """
        if not self.written(node):
            return False
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        memory = storage_of(self.values[node.name])
        older = [n for n in self.nodes.values() if order[n] < order[node] and self._lies_in(n, memory)]
        return any(user is not node and order[user] > order[node] for n in older for user in n.users)

    def _lies_in(self, node: Node, memory: int) -> bool:
        value = self.values[node.name]
        return isinstance(value, Tensor) and storage_of(value) == memory

    @staticmethod
    def select(where: str | Sequence[str] | None, names: Iterable[str], what: str) -> list[str]:
        """Return those of `names` that a glob of `where` matches or is a parent of; all for None.

        Raises:
            SelectionError: a glob matches none; the nearest names are given.
        """
        names = list(dict.fromkeys(names))
        if where is None:
            return names
        chosen: list[str] = []
        for pattern in [where] if isinstance(where, str) else where:
            matched = [n for n in names if fnmatch.fnmatchcase(n, pattern) or n.startswith(pattern + ".")]
            if not matched:
                near = nearest_names(pattern.strip("*."), names, cutoff=0.3) or names[:3]
                raise SelectionError(f"{pattern!r} names no {what}; the nearest are: {', '.join(near) or 'there are none'}")
            chosen += [n for n in matched if n not in chosen]
        return chosen

    def free_name(self, path: str) -> str:
        """Return `path`, or `path_2`, `path_3`, ... where that is taken."""
        taken = {*dict(self.gm.named_modules(remove_duplicate=False)), *dict(_tensors(self.gm))}
        count, name = 1, path
        while name in taken:
            count += 1
            name = f"{path}_{count}"
        return name

    # -- changing ---------------------------------------------------------------------------------------------------

    def add_layer(self, path: str, layer: nn.Module) -> str:
        """Register a layer with new numbers, of the model's type, device and mode, and return the name it got."""
        path = self.free_name(path)
        self.gm.add_submodule(path, layer.to(device=self.like.device, dtype=self.like.dtype).train(self.gm.training))
        self.record_new(path, layer)
        return path

    def record_new(self, path: str, layers: nn.Module) -> None:
        """Record the numbers of layers below a path as new."""
        for name, tensor in _tensors(layers):
            self.record.parameters[f"{path}.{name}"] = ParameterRecord.new(tensor.ndim)

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer of the copy."""
        owner, _, attribute = name.rpartition(".")
        return getattr(self.gm.get_submodule(owner), attribute)

    def recorded_name(self, name: str) -> str:
        """Return the name under which the record holds a tensor: the first one, of a tensor with several names."""
        tensor = self.tensor(name)
        return next(n for n, t in _tensors(self.gm) if t is tensor)

    def set_tensor(self, name: str, tensor: Tensor, entry: ParameterRecord) -> None:
        """Exchange a parameter or buffer under all of its names, or add a parameter.

        entry: where its numbers come from, in the original.
        """
        owner, _, attribute = name.rpartition(".")
        place = self.gm.get_submodule(owner)
        old = place._buffers.get(attribute, place._parameters.get(attribute))
        new = tensor.detach()
        if old is None or isinstance(old, nn.Parameter):
            new = nn.Parameter(new, old is None or old.requires_grad)
        if old is None:
            place.register_parameter(attribute, new)
        else:
            for held in (d for m in self.gm.modules() for d in (m._parameters, m._buffers)):
                held.update({n: new for n, t in held.items() if t is old})
        self.record.parameters[self.recorded_name(name)] = entry

    def drop(self, path: str) -> None:
        """Take a layer out, its record too."""
        for name, _ in _tensors(self.gm.get_submodule(path)):
            self.record.parameters.pop(f"{path}.{name}", None)
        self.gm.delete_submodule(path)

    def call(self, before: Node, target, *args, owner: str = "", **kwargs) -> Node:
        """Put a node in front of `before`: a call of a layer (by name), of a method (`".name"`) or of a function."""
        with self.graph.inserting_before(before):
            if not isinstance(target, str):
                node = self.graph.call_function(target, args, kwargs)
            elif target.startswith("."):
                node = self.graph.call_method(target[1:], args, kwargs)
            else:
                node = self.graph.call_module(target, args, kwargs)
        node.meta["owner"] = owner
        return node

    def trace(self, module: nn.Module, x: Node) -> Piece:
        """Capture a module with new numbers for the value of `x`, of its type and the model's device and mode.

        Raises:
            CaptureError: it cannot be traced, or cannot take such a value.
        """
        value = torch.empty_like(self.values[x.name])
        module = module.to(device=self.like.device, dtype=value.dtype).train(self.gm.training)
        try:
            gm = capture(module, value)
        except CaptureError as error:
            raise CaptureError(f"it cannot run on a value of shape {list(value.shape)}: {error}") from error
        own, = Captured(gm).inputs
        before = own._version
        gives = list(run_shapes(gm).values())[-1]
        return Piece(gm, writes_input=own._version > before, gives=gives)

    def graft(self, path: str, piece: Piece, x: Node, before: Node) -> Node:
        """Put a traced module in front of `before`, on the value of `x`, and return the node of its result.

        Its layers lie below `path`, registered once. It works on a copy of the value where one of the two is written to:
        training would miss what was read.
        """
        if path not in dict(self.gm.named_modules(remove_duplicate=False)):
            self._register(path, piece.module)
        if piece.writes_input or self.written(x):
            x = self.call(before, ".clone", x, owner=path)
        first, *nodes, output = piece.module.graph.nodes
        env = {first: x}
        with self.graph.inserting_before(before):
            copy_nodes(nodes, self.graph, env, lambda name: f"{path}.{name}".rstrip("."))
        return env[output.args[0]]  # type: ignore[index]

    def _register(self, path: str, gm: GraphModule) -> None:
        """Put the layers of a traced module below a path."""
        layers = hold(nn.Module().train(self.gm.training), gm)
        self.gm.add_submodule(path, layers)
        leaves = {f"{path}.{n}".rstrip("."): why for n, why in Captured(gm).leaves.items()}
        Captured(self.gm).leaves = {**Captured(self.gm).leaves, **leaves}
        self.record_new(path, layers)

    def exchange(self, node: Node, new: Node) -> None:
        """Give the users of `node` (but not `new`, nor what `new` is made of) the value of `new`."""
        inserted, queue = {new}, [new]
        while queue:
            for source in queue.pop().all_input_nodes:
                if source is not node and source not in inserted and source.name not in self.nodes:
                    inserted.add(source)
                    queue.append(source)
        node.replace_all_uses_with(new, lambda user: user not in inserted)
        for facts in self.__dict__.get("_run", ()):
            if node.name in facts:
                facts[new.name] = facts[node.name]

    def insist(self, where: str | Sequence[str] | None) -> None:
        """Raise a SelectionError with the reasons unless something was done."""
        if not any(o.method for o in self.outcomes):
            reasons = "; ".join(f"{o.name}: {o.reason}" for o in self.outcomes[:3])
            more = f"; and {len(self.outcomes) - 3} more" if len(self.outcomes) > 3 else ""
            what = f"that {where!r} names" if where else "in the model"
            raise SelectionError(f"nothing {what} can be done: {reasons or 'there is no such layer'}{more}")

    def finish(self) -> PassResult:
        """Return the edited module, with its record behind that of the original."""
        self.graph.lint()
        self.gm.recompile()
        self.record.removed = dict(_tensors(self.before)).keys() - dict(_tensors(self.gm)).keys()
        keep_growth(self.before, self.gm, self.record, self.outcomes)
        return PassResult(self.gm, True)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
