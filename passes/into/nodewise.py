"""A captured graph run a node at a time, on numbers that are read when a node needs them.

Of two graphs, the second computes nothing again that the first one has computed of the same: what a value is made of is told
by the op, by what its inputs hold, and by which numbers of the first model those that are read equal.
"""
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from fxgrow.aten import HALF, TorchDispatchMode, storage_of, tree_map, wide, wide_values
from fxgrow.graph import tensors_of, writes_in_place

PART, LEAST = 1 << 20, 16  # numbers of a weight, and columns, that are float32 at a time
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


class Known:
    """The results of a graph by what they were computed of, which another one takes over.

    read: from a name, numbers of the first model. names: from names of the second model, those of their counterparts.
    """

    def __init__(self, read: Callable[[str], Tensor], names: Mapping[str, str]):
        self.results: dict[Any, tuple[Any, Any]] = {}
        self.tensors: dict[Any, list[tuple[object, Tensor]]] = {}  # by form and sum, with what stands for each
        self.read, self.names = read, names
        self.first, self.second = _Side(self, False), _Side(self, True)

    def counterpart(self, name: str, numbers: Callable[[str], Tensor]) -> str | None:
        """Return the tensor of the first model whose numbers one of the second has, bit by bit."""
        ours = self.names.get(name)
        if ours is None:
            return None
        one, two = self.read(ours), numbers(name)
        alike = one.dtype == two.dtype and one.shape == two.shape and one.stride() == two.stride()
        return ours if alike and torch.equal(_bits(one), _bits(two)) else None

    def held(self, value: Any) -> Any:
        """Return what stands for a value, the same for equal ones; None for what has an effect or is not known."""
        if isinstance(value, Tensor):
            like = self.tensors.setdefault((value.dtype, value.shape, value.stride(), int(_bits(value).sum())), [])
            for token, other in like:
                if torch.equal(_bits(value), _bits(other)):
                    return token
            like.append((object(), value))
            return like[-1][0]
        if isinstance(value, (tuple, list)):
            parts = [*map(self.held, value)]
            return None if None in parts else (type(value), *parts)
        return (type(value), value) if isinstance(value, (int, float, str, torch.dtype, torch.device)) else None


class _Side:
    """What is known while one of both graphs runs."""

    def __init__(self, known: Known, second: bool):
        self.known, self.second = known, second
        self.found: dict[str, Any] = {}

    def weight(self, name: str, numbers: Callable[[str], Tensor]) -> Any:
        """Tell which numbers a weight has."""
        if name not in self.found:
            ours = self.known.counterpart(name, numbers) if self.second else name
            self.found[name] = ("weight", ours) if ours is not None else ("weight of the second", name)
        return self.found[name]

    def result(self, key: Any) -> tuple[Any, Any] | None:
        """Return what a value holds and the value, if the first graph has computed it."""
        return self.known.results.get(key) if self.second else None

    def keep(self, key: Any, held: Any, value: Any) -> None:
        """Keep a result of the first graph."""
        if not self.second:
            self.known.results[key] = held, value


class _Lazily(Interpreter):
    """A graph run on numbers that are read for each node.

    read: from a name, the numbers. side: what is known of another graph (None: nothing). widened: in float32 where a node
    says 16 bits.
    """

    def __init__(self, gm: GraphModule, read: Callable[[str], Tensor], side: _Side | None, widened: bool):
        super().__init__(gm)
        first: dict[int, str] = {}
        self.names = {name: first.setdefault(id(t), name) for name, t in tensors_of(gm).items()}
        self.read, self.widened = read, widened
        writes = any(map(writes_in_place, gm.graph.nodes)) or any(getattr(m, "inplace", False) for m in gm.modules())
        self.side = None if writes else side
        self.held: dict[Node, Any] = {}  # what stands for each value

    def run_node(self, n: Node) -> Any:
        if self.side is None:
            return self._run(n)
        key = self._key(n)
        if found := self.side.result(key):
            self.held[n], value = found
            return value
        value = self._run(n)
        if n.op == "get_attr" or self._is_view(n, value):
            held = key or self.side.known.held(value)
        else:
            held = self.side.known.held(value)
            if held is not None and key is not None:
                self.side.keep(key, held, value)
        self.held[n] = object() if held is None else held
        return value

    def _run(self, n: Node) -> Any:
        with _Products():
            return super().run_node(n)

    def _key(self, n: Node) -> Any:
        """Return what a node's value is made of, None where that is not known."""
        assert self.side is not None
        if n.op in ("placeholder", "output"):
            return None
        if n.op == "get_attr":
            name = self.names.get(str(n.target))
            return self.side.weight(name, self.read) if name and self.fetch_attr(str(n.target)).is_meta else None
        what: tuple = (n.target,)
        if n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            if not type(layer).__module__.startswith("torch.nn."):
                return None
            held = {name: t.is_meta for name, t in tensors_of(layer).items()}
            if not all(held.values()):
                return None
            weights = (self.side.weight(self.names[f"{n.target}.{name}"], self.read) for name in held)
            what = type(layer), repr(layer), *weights
        key = (n.op, what, self._holds(n.args), self._holds(n.kwargs))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _holds(self, value: Any) -> Any:
        """Return what an argument holds, nested as it is."""
        if isinstance(value, Node):
            return self.held[value]
        if isinstance(value, (tuple, list)):
            return type(value), *map(self._holds, value)
        if isinstance(value, dict):
            return tuple((name, self._holds(v)) for name, v in value.items())
        if isinstance(value, slice):
            return slice, *map(self._holds, (value.start, value.stop, value.step))
        return type(value), value

    def _is_view(self, n: Node, value: Any) -> bool:
        """Tell whether a value lies in the memory of an input, such as a weight, which is let go."""
        taken = (self.env.get(v) for v in n.all_input_nodes)
        return isinstance(value, Tensor) and any(isinstance(v, Tensor) and storage_of(v) == storage_of(value) for v in taken)

    def fetch_args_kwargs_from_env(self, n):
        taken = super().fetch_args_kwargs_from_env(n)
        if not self.widened:
            return taken
        return tree_map(lambda v: torch.float32 if isinstance(v, torch.dtype) and v in HALF else v, taken)

    def get_attr(self, target, args, kwargs):
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, Tensor) and value.is_meta:
            return self.read(self.names[str(target)])
        return wide_values(value) if self.widened else value

    def call_module(self, target, args, kwargs):
        layer = self.fetch_attr(target)
        state = {name: self.read(self.names[f"{target}.{name}"]) for name, t in tensors_of(layer).items() if t.is_meta}
        return torch.func.functional_call(layer, state, args, kwargs)


def _bits(tensor: Tensor) -> Tensor:
    """Return what a tensor holds as integers, as few as can be."""
    found = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return found if found.numel() % 8 or found.storage_offset() % 8 else found.view(torch.int64)


class _Products(TorchDispatchMode):
    """Products of 16-bit numbers in float32, rounded at the end, as kernels do: several times as fast on CPUs.

    A weight is made float32 a part at a time, which stays in the cache of the processor.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func not in PRODUCTS or args[0].dtype not in HALF or args[0].device.type != "cpu":
            return func(*args, **(kwargs or {}))
        *first, weight = args
        step = max(LEAST, PART // weight.shape[0])
        if func is torch.ops.aten.bmm.default or kwargs or weight.shape[1] <= step or (first[1:] and first[0].ndim > 1):
            return func(*map(wide, args), **(kwargs or {})).to(weight.dtype)
        x, *bias = map(wide, reversed(first))
        made = x.new_empty(x.shape[0], weight.shape[1], dtype=weight.dtype)
        for at in range(0, weight.shape[1], step):
            some = slice(at, at + step)
            made[:, some] = func(*(b[some] for b in bias), x, weight[:, some].float())
        return made


def run(gm: GraphModule, read: Callable[[str], Tensor], inputs: Mapping[str, Tensor], side: _Side | None = None,
        widened: bool = False) -> Any:
    """Return what a graph gives for inputs by name, in eval mode.

    Args:
        read: from a tensor's name, its numbers.
        side: what another graph has computed, or is told.
        widened: let nodes that say 16 bits compute in float32.
    """
    gm.eval()
    with torch.no_grad():
        nodes = gm.graph.find_nodes(op="placeholder")
        return _Lazily(gm, read, side, widened).run(*(inputs.get(str(n.target), *n.args) for n in nodes))
