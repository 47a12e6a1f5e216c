"""The trace of the identity analysis: each ATen op of a block, with the node that it belongs to."""
from __future__ import annotations

import operator
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from fxgrow.aten import JOIN, Watching, compute, effects, storage_of, tensors_in
from fxgrow.graph import MetaRunner, home_of, location_of, named_tensors, owner_of, prefixes, remembered
from fxgrow.identity.values import Range, Val, range_of, union


class Trace(Watching):
    """Notes every ATen op that runs in this mode: what the value of each node of a captured graph is made of."""

    def __init__(self):
        super().__init__()
        self.now: dict[int, Val] = {}  # id of a tensor: what it is since the last write to it
        self.views: dict[int, set[int]] = {}  # storage: the ids of the tensors that look at it
        self.alive: list[Tensor] = []  # so that no id is used twice
        self.values: dict[str, Any] = {}  # node name: its value on meta tensors
        self.reads: dict[tuple[str, str], Val] = {}  # (node, an input of it): the input when the node ran
        self.gives: dict[str, Val] = {}  # node name: its value when it ran
        self.below: dict[str, list[Node]] = {}  # every path: the nodes that call, read or are code of what is below it
        self.made: dict[str, list[Val]] = {}  # node name: the results of the ATen ops in it, in order, but empty memory
        self.inside: list[Val] = []  # those of the node that runs
        self.place = ""
        self.graph: Graph | None = None  # whose nodes these are

    @classmethod
    def of(cls, gm: GraphModule, ranges: dict[str, Range] | None = None) -> Trace:
        """Run a captured graph on meta tensors, its inputs within `ranges` by name (else anywhere), and return its trace."""
        if ranges is None:
            return remembered(gm, "trace", lambda gm: cls.of(gm, {}), lambda trace: trace.graph is gm.graph)
        trace = cls()
        trace.graph = gm.graph
        runner = _TraceRunner(gm, trace, ranges)
        for name, tensor in named_tensors(runner.root):
            trace.keep(tensor, Val(tensor=tensor, source=name, param_only=True))
        with trace:
            runner.run()
        return trace

    def val(self, tensor: Tensor) -> Val:
        """Return what a tensor is now."""
        return self.now.get(id(tensor)) or self.keep(tensor, Val("unknown", self.place, tensor=tensor))

    def keep(self, tensor: Tensor, val: Val) -> Val:
        """Note what a tensor is from now on, and return that."""
        if id(tensor) not in self.now:
            self.alive.append(tensor)
            self.views.setdefault(storage_of(tensor), set()).add(id(tensor))
        self.now[id(tensor)] = val
        return val

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        of = [self.val(a) if isinstance(a, Tensor) else None for a in args]
        lists = [a for a in (*args, *kwargs.values()) if isinstance(a, (list, tuple))]
        named = [a for a in kwargs.values() if isinstance(a, Tensor)]
        ins = [*(v for v in of if v is not None), *map(self.val, tensors_in([*lists, *named]))]
        out = compute(func, args, kwargs)
        name, _, written = effects(func)
        targets = [kwargs.get(w) if isinstance(w, str) else args[w] for w in written]
        for target in tensors_in(targets):
            for view in self.views.get(storage_of(target), set()) - {id(target)}:
                self.now[view] = Val("written through another view", self.place, tensor=target)
        op = {"name": name.rstrip("_") if written else name, "place": self.place, "func": func, "args": args, "ins": ins,
              "of": of, "alpha": kwargs.get("alpha", 1), "param_only": bool(ins) and all(v.param_only for v in ins)}
        for at, tensor in enumerate(out if isinstance(out, (tuple, list)) else (out,)):
            if isinstance(tensor, Tensor):
                val = Val(**op, tensor=tensor, at=at)
                val.range = range_of(val)
                self.keep(tensor, val)
                if name != "empty":  # which batch norms ask for, or not, for the same result
                    self.inside.append(val)
        return out


class _TraceRunner(MetaRunner):
    """Run a captured graph, telling the trace which node runs and what its value is."""

    def __init__(self, gm: GraphModule, trace: Trace, ranges: dict[str, Range]):
        super().__init__(gm)
        self.trace, self.ranges = trace, ranges
        self.around: dict[str, list[list[Node]]] = {}  # by path: the nodes below it, and below all that is around it

    def before(self, node: Node) -> None:
        """Note what a node belongs to and what it reads, as that is now."""
        trace = self.trace
        trace.place, trace.inside = location_of(node), trace.made.setdefault(node.name, [])
        if node.op not in ("placeholder", "output"):
            home = self._home(node)
            if home not in self.around:
                self.around[home] = [trace.below.setdefault(path, []) for path in prefixes(home)]
            for nodes in self.around[home]:
                nodes.append(node)
        for source in node.all_input_nodes:
            if isinstance(tensor := self.values[source], Tensor):
                trace.reads[node.name, source.name] = trace.val(tensor)

    def _home(self, node: Node) -> str:
        """Return what a node belongs to; one of several values belongs to what made them, not to who first reads it."""
        source = node.args[0] if node.target is operator.getitem else None
        several = isinstance(source, Node) and not isinstance(self.values[source], Tensor)
        return owner_of(source) if several else home_of(node)  # type: ignore[arg-type]

    def join(self, node: Node) -> Any:
        """Return a value that may be that of either mode."""
        _, train_value, eval_value = self.look_up(node.args)
        if not (isinstance(train_value, Tensor) and isinstance(eval_value, Tensor)):
            return eval_value
        ins = [self.trace.val(train_value), self.trace.val(eval_value)]
        value = torch.empty_like(eval_value)
        self.trace.keep(value, Val(JOIN, self.trace.place, tensor=value, ins=ins, range=union(*(i.range for i in ins))))
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
