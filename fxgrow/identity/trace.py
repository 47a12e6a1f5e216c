"""The trace of the identity analysis: each ATen op of a block, with the node that it belongs to."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.aten import INF, Watching, compute, effects
from fxgrow.graph import location_of, meta_twin, path_of, prefixes, run_meta
from fxgrow.identity.ranges import range_of, union_of
from fxgrow.identity.values import Range, Val
from fxgrow.layers import by_mode


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
            self._keep(tensor, Val(tensor, source=name, param_only=True))

        def before(node: Node) -> None:
            self.place, self.inside = location_of(node), self.made.setdefault(node.name, [])
            for path in prefixes(path_of(node)) if node.op not in ("placeholder", "output") else ():
                self.below.setdefault(path, []).append(node)
            for given in node.all_input_nodes:
                if isinstance(tensor := self.values.get(given.name), Tensor):
                    self.reads[node.name, given.name] = self.val(tensor)

        def visit(node: Node, value, env: dict) -> None:
            if node.target is by_mode and isinstance(value, Tensor):
                train = env.get(node.args[1], node.args[1]) if isinstance(node.args[1], Node) else node.args[1]
                if isinstance(train, Tensor):
                    ins = [self.val(train), self.val(value)]
                    value = env[node] = torch.empty_like(value)
                    self._keep(value, Val(value, "by_mode", self.place, ins=ins, range=union_of(ins)))
            self.values[node.name] = value
            if isinstance(value, Tensor):
                if node.op == "placeholder":
                    self._keep(value, Val(value, "input", range=(ranges or {}).get(node.name, (-INF, INF))))
                self.gives[node.name] = self.val(value)

        with self:
            run_meta(gm, visit, before, twin)

    def val(self, tensor: Tensor) -> Val:
        """What a tensor is now."""
        found = self.known.get(id(tensor))
        return found if found is not None else self._keep(tensor, Val(tensor, "unknown", self.place))

    def _keep(self, tensor: Tensor, val: Val) -> Val:
        if id(tensor) not in self.known:
            self.alive.append(tensor)
            self.memory.setdefault(tensor.untyped_storage()._cdata, []).append(id(tensor))
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
                for other in self.memory.get(target.untyped_storage()._cdata, ()):
                    if other != id(target):
                        self.known[other] = Val(target, "written through another view", self.place)
        name = name.rstrip("_") if written else name
        for at, tensor in enumerate(out if isinstance(out, (tuple, list)) else (out,)):
            if isinstance(tensor, Tensor):
                params = bool(ins) and all(v.param_only for v in ins)
                self.inside.append(self._keep(tensor, Val(tensor, name, self.place, func, args, ins, of, at, kwargs.get(
                    "alpha", 1), param_only=params, range=range_of(name, args, kwargs, ins))))
        return out
