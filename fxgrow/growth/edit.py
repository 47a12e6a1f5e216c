"""Editing: a pass that inserts nodes and layers changes a copy of a captured module, and the growth record is kept."""
import fnmatch
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxgrow.aten import storage_of
from fxgrow.common import nearest_names
from fxgrow.errors import CaptureError, SelectionError
from fxgrow.graph import (
    Captured,
    clone_structure,
    compile_code,
    copy_nodes,
    copy_of,
    hold,
    named_tensors,
    remembered,
    run_shapes,
    values_and_writes,
)
from fxgrow.record import GrowthRecord, Outcome, ParameterRecord, keep_growth
from fxgrow.tracing import capture


@dataclass
class Piece:
    """A captured module that is to be put into a graph, on one value."""
    module: GraphModule
    paths: list[str] = field(default_factory=list)  # where its layers are, under the names that they are to have
    others: list[Node] = field(default_factory=list)  # nodes of that graph that it reads besides
    writes_input: bool = False  # it writes to the value
    gives: Any = None  # its result on meta tensors, where that was asked for

    @property
    def out(self) -> Node:
        """Return the node of `module` whose value goes out."""
        return next(iter(self.module.graph.find_nodes(op="output"))).args[0]  # type: ignore[return-value]

    def tensors(self) -> dict[str, Tensor]:
        """Return its parameters and buffers by name."""
        return dict(named_tensors(self.module))


class Edit:
    """A copy of a captured module under change.

    gm, graph: the copy (nodes have the names that they have in the original); every tensor of it is its own
        (unless it is not to `own` them: then none may be changed; or the original is released: then they are taken).
    nodes: the original's nodes in the copy, by name. record, outcomes: what has been done so far. like: a tensor of the
        model's type and device.
    """

    def __init__(self, before: GraphModule, step: dict, own: bool = True):
        self.before = before
        tensor = copy_of if own and not Captured(before).released else (lambda t: t)
        self.gm: GraphModule = clone_structure(before, tensor)  # type: ignore[assignment]
        self.graph = self.gm.graph
        self.nodes: dict[str, Node] = {node.name: node for node in self.graph.nodes}
        self.record = GrowthRecord(lineage=[step])
        self.outcomes: list[Outcome] = []
        self.like = next((p for p in self.gm.parameters() if p.is_floating_point()), torch.empty(0))

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
        """Tell whether a value's memory is written to later (it must stay the same then) and read under an older name."""
        if not self.written(node):
            return False
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        memory = {name: storage_of(value) for name, value in self.values.items() if isinstance(value, Tensor)}
        older = [n for n in self.nodes.values() if order[n] < order[node] and memory.get(n.name) == memory[node.name]]
        return any(user is not node and order[user] > order[node] for n in older for user in n.users)

    @staticmethod
    def select(where: str | Sequence[str] | None, names: Iterable[str], what: str) -> list[str]:
        """Return the `names` that a glob of `where` matches or is a parent of (None: all), or raise a SelectionError."""
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
        taken = {*dict(self.gm.named_modules(remove_duplicate=False)), *dict(named_tensors(self.gm))}
        numbered = (f"{path}_{count}" for count in itertools.count(2))
        return next(name for name in itertools.chain([path], numbered) if name not in taken)

    def add_layer(self, path: str, layer: nn.Module) -> str:
        """Register a layer with new numbers, of the model's type, device and mode, and return the name it got."""
        path = self.free_name(path)
        self.gm.add_submodule(path, layer.to(device=self.like.device, dtype=self.like.dtype).train(self.gm.training))
        self.record_new(path, layer)
        return path

    def record_new(self, path: str, layers: nn.Module) -> None:
        """Record the numbers of layers below a path as new."""
        for name, tensor in named_tensors(layers):
            self.record.parameters[f"{path}.{name}"] = ParameterRecord.new(tensor.ndim)

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer of the copy."""
        owner, _, attribute = name.rpartition(".")
        return getattr(self.gm.get_submodule(owner), attribute)

    def recorded_name(self, name: str) -> str:
        """Return the name under which the record holds a tensor: the first one, of a tensor with several names."""
        tensor = self.tensor(name)
        return next(n for n, t in named_tensors(self.gm) if t is tensor)

    def set_tensor(self, name: str, tensor: Tensor, entry: ParameterRecord) -> None:
        """Exchange a parameter or buffer under all of its names, or add a parameter, its numbers as `entry` says."""
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
        for name, _ in named_tensors(self.gm.get_submodule(path)):
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
        """Capture a module with new numbers for the value of `x`, of its type and the model's device and mode."""
        value = torch.empty_like(self.values[x.name])
        module = module.to(device=self.like.device, dtype=value.dtype).train(self.gm.training)
        try:
            gm = capture(module, value)
        except CaptureError as error:
            raise CaptureError(f"it cannot run on a value of shape {list(value.shape)}: {error}") from error
        own, = Captured(gm).inputs
        before = own._version
        *_, gives = run_shapes(gm).values()
        return Piece(gm, writes_input=own._version > before, gives=gives)

    def graft(self, path: str, piece: Piece, x: Node, before: Node) -> Node:
        """Put a traced module, its layers below `path`, on the value of `x`, and return the node of its result."""
        if path not in dict(self.gm.named_modules(remove_duplicate=False)):  # else the same layers run again
            layers = hold(nn.Module().train(self.gm.training), piece.module)
            self.gm.add_submodule(path, layers)
            leaves = {f"{path}.{n}".rstrip("."): why for n, why in Captured(piece.module).leaves.items()}
            Captured(self.gm).leaves = {**Captured(self.gm).leaves, **leaves}
            self.record_new(path, layers)
        if piece.writes_input or self.written(x):  # else training would miss what was read
            x = self.call(before, ".clone", x, owner=path)
        first, *nodes, output = piece.module.graph.nodes
        env = {first: x}
        with self.graph.inserting_before(before):
            copy_nodes(nodes, self.graph, env, lambda name: f"{path}.{name}".rstrip("."))
        return env[output.args[0]]  # type: ignore[index]

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

    def finish(self) -> PassResult:
        """Return the edited module, with its record behind that of the original."""
        self.graph.lint()
        compile_code(self.gm)
        self.record.removed = dict(named_tensors(self.before)).keys() - dict(named_tensors(self.gm)).keys()
        keep_growth(self.before, self.gm, self.record, self.outcomes)
        return PassResult(self.gm, True)


def insist_done(where: str | Sequence[str] | None, outcomes: list[Outcome], verb: str = "be done", advice: str = "") -> None:
    """Raise a SelectionError with the reasons unless something that `where` names was done."""
    if not any(o.method for o in outcomes):
        reasons = "; ".join(dict.fromkeys(f"{o.name}: {o.reason}" for o in outcomes[:3]))
        more = f"; and {len(outcomes) - 3} more" if len(outcomes) > 3 else ""
        what = f"that {where!r} names" if where else "in the model"
        raise SelectionError(f"nothing {what} can {verb}: {reasons or 'there is no layer for it'}{more}{advice}")
