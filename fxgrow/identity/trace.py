"""The trace of the identity analysis: each ATen op of a block, with the node that it belongs to."""
from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import JOIN, Watching, compute, effects, storage_of
from fxgrow.graph import MetaRunner, location_of, meta_twin, path_of, prefixes
from fxgrow.identity.ranges import range_of, union_of
from fxgrow.identity.values import Range, Val


class Trace(Watching):
    """Runs a captured graph on meta tensors and keeps, for every node, what its value is made of."""

    def __init__(self, gm: GraphModule, ranges: dict[str, Range] | None = None):
        super().__init__()
        self.known: dict[int, Val] = {}
        self.memory: dict[int, list[int]] = {}  # storage: the tensors that look at it
        self.alive: list[Tensor] = []
        self.values: dict[str, Any] = {}  # node name: its value on meta tensors
        self.reads: dict[tuple[str, str], Val] = {}  # (node, an input of it): the input when the node ran
        self.gives: dict[str, Val] = {}  # node name: its value when it ran
        self.below: dict[str, list[Node]] = {}  # every path: the nodes that call, read or are code of what is below it
        self.made: dict[str, list[Val]] = {}  # node name: the results of the ATen ops in it, in order
        self.inside: list[Val] = []
        self.place = ""
        twin = meta_twin(gm).eval()
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            self.keep(tensor, Val(tensor=tensor, source=name, param_only=True))

        with self:
            _TraceRunner(gm, twin, self, ranges or {}).run()

    def val(self, tensor: Tensor) -> Val:
        """What a tensor is now."""
        found = self.known.get(id(tensor))
        return found if found is not None else self.keep(tensor, Val("unknown", self.place, tensor=tensor))

    def keep(self, tensor: Tensor, val: Val) -> Val:
        """Say what a tensor is from now on."""
        if id(tensor) not in self.known:
            self.alive.append(tensor)
            self.memory.setdefault(storage_of(tensor), []).append(id(tensor))
        self.known[id(tensor)] = val
        return val

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        of = [self.val(a) if isinstance(a, Tensor) else None for a in args]
        ins = [v for v in of if v is not None]
        ins += [self.val(t) for a in (*args, *kwargs.values()) if isinstance(a, (list, tuple)) for t in a
                if isinstance(t, Tensor)]
        ins += [self.val(t) for t in kwargs.values() if isinstance(t, Tensor)]
        out = compute(func, args, kwargs)
        name, _, written = effects(func)
        for w in written:
            target = kwargs.get(w) if isinstance(w, str) else args[w]
            if isinstance(target, Tensor):
                for other in self.memory.get(storage_of(target), ()):
                    if other != id(target):
                        self.known[other] = Val("written through another view", self.place, tensor=target)
        name = name.rstrip("_") if written else name
        for at, tensor in enumerate(out if isinstance(out, (tuple, list)) else (out,)):
            if isinstance(tensor, Tensor):
                params = bool(ins) and all(v.param_only for v in ins)
                self.inside.append(self.keep(tensor, Val(
                    name, self.place, "", func, args, ins, tensor, of, at, kwargs.get("alpha", 1), param_only=params,
                    range=range_of(name, args, kwargs, ins))))
        return out


class _TraceRunner(MetaRunner):
    """Run a captured graph, telling the trace which node runs and what its value is."""

    def __init__(self, gm: GraphModule, root: nn.Module, trace: Trace, ranges: dict[str, Range]):
        super().__init__(gm, root)
        self.trace, self.ranges = trace, ranges

    def before(self, node: Node) -> None:
        """Note what a node belongs to and what it reads, as that is now."""
        trace = self.trace
        trace.place, trace.inside = location_of(node), trace.made.setdefault(node.name, [])
        for path in prefixes(path_of(node)) if node.op not in ("placeholder", "output") else ():
            trace.below.setdefault(path, []).append(node)
        for source in node.all_input_nodes:
            if isinstance(tensor := self.values[source], Tensor):
                trace.reads[node.name, source.name] = trace.val(tensor)

    def join(self, node: Node) -> Any:
        """Return a value that may be that of either mode."""
        _, train_value, eval_value = self.look_up(node.args)
        if not (isinstance(train_value, Tensor) and isinstance(eval_value, Tensor)):
            return eval_value
        ins = [self.trace.val(train_value), self.trace.val(eval_value)]
        value = torch.empty_like(eval_value)
        self.trace.keep(value, Val(JOIN, self.trace.place, tensor=value, ins=ins, range=union_of(ins)))
        return value

    def after(self, node: Node, value: Any) -> Any:
        """Note what a node gives."""
        value = super().after(node, value)
        self.trace.values[node.name] = value
        if isinstance(value, Tensor):
            if node.op == "placeholder":
                self.trace.keep(value, Val("input", tensor=value, range=self.ranges.get(node.name, (-inf, inf))))
            self.trace.gives[node.name] = self.trace.val(value)
        return value
