"""Mixtures of experts that a network has: more experts from fewer, each copied with its row of the router.

Copies have equal scores, so that the `k r` largest are all `r` copies of the `k` largest, and share the weight of one. That
a block's code makes no more of it is found by running it on drawn numbers, as it was and as it becomes.
"""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from fxgrow.common import Refusal
from fxgrow.graph import below, location_of, named_tensors, owner_of, prefixes
from fxgrow.growth import Edit
from fxgrow.record import Outcome, ParameterRecord

CLOSE, DRAWN = 1e-5, 0.3  # code may compute in single precision; the deviation of drawn numbers
SHAPED = ("view", "reshape", "expand", "unflatten", "repeat", "zeros", "ones", "empty", "full", "new_zeros", "new_ones",
          "new_empty", "new_full", "arange")  # calls of which numbers stand for sizes, those that name an axis aside
COUNTS = {"topk": ((1, "k"),), "one_hot": ((1, "num_classes"),), "bincount": ((2, "minlength"),),
          "histc": ((1, "bins"), (3, "max"))}  # other calls that are told how many experts there are, or are chosen


@dataclass
class Routed:
    """A block whose router chooses `chosen` of `count` experts; what it is made of, in the order of the graph.

    stacked: the tensors that hold something for each expert along their first axis.
    """
    path: str
    count: int
    chosen: int
    nodes: list[Node]
    stacked: set[str]

    def grow(self, edit: Edit, experts: int) -> Outcome:
        """Put copies beside the experts, and return what was done, or refuse."""
        times = experts // self.count
        if experts % self.count or times < 2:
            raise Refusal(f"it has {self.count} experts: copies of all of them are exact, and make {2 * self.count}, "
                          f"{3 * self.count} and so on")
        self._insist_alone(edit)
        index = torch.arange(self.count).repeat_interleave(times)
        changed = {node: self._retold(node, times) for node in self.nodes}
        self._insist_equal(edit, changed, index)
        for node, (args, kwargs) in changed.items():
            node.args, node.kwargs = args, kwargs
        for name in sorted(self.stacked):
            tensor = edit.tensor(name)
            entry = ParameterRecord.same(edit.recorded_name(name), tensor.ndim)
            entry.index[0], entry.fresh[0] = index, torch.arange(experts) % times > 0
            edit.set_tensor(name, tensor.detach().index_select(0, index.to(tensor.device)), entry)
            layer = edit.gm.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, nn.Linear):
                layer.out_features = experts
        why = f"equal experts are chosen together, {self.chosen * times} in place of {self.chosen}, and share their " \
              "weight; they learn alike until noise tells them apart"
        return Outcome(self.path, self.count, experts, [self.path], "copies", why)

    def _insist_alone(self, edit: Edit) -> None:
        """Refuse experts that code elsewhere reads too."""
        own, mine = {id(edit.tensor(name)) for name in self.stacked}, set(self.nodes)
        for node in edit.graph.nodes:
            if node not in mine and any(id(t) in own for _, t in _tensors(edit, node)):
                raise Refusal(f"{location_of(node)} reads its experts or its router too")

    def _retold(self, node: Node, times: int) -> tuple[tuple, dict]:
        """Return the arguments of a call, told of so many times as many experts."""
        def told(a: Any) -> Any:
            if isinstance(a, (tuple, list)):
                return type(a)(map(told, a))
            if isinstance(a, bool) or not isinstance(a, (int, float)):
                return a
            return a * times if a in (self.count, self.chosen) else self.count * times - 1 if a == self.count - 1 else a

        args, kwargs, name = list(node.args), dict(node.kwargs), _called(node)
        for at, key in COUNTS.get(name, ()):
            if len(args) > at:
                args[at] = told(args[at])
            elif key in kwargs:
                kwargs[key] = told(kwargs[key])
        if name in SHAPED:
            first = 0 if not node.args or not isinstance(node.args[0], Node) else 2 if name == "unflatten" else 1
            args[first:] = [a if a == self.count - 1 else told(a) for a in args[first:]]
        return tuple(args), kwargs

    def _insist_equal(self, edit: Edit, changed: dict[Node, tuple], index: Tensor) -> None:
        """Refuse unless the block gives the same with drawn numbers and their copies."""
        outside = self._outside(edit)
        given = [node for node in outside if isinstance(edit.values.get(node.name), Tensor)]
        for node in given:
            if not edit.values[node.name].is_floating_point():
                raise Refusal(f"its code reads {location_of(node)}, which holds no number of the stream")
        code = [*(node for node in outside if node not in given), *self.nodes]
        one, two = self._both(edit, code, given, changed, index)
        for node in self.nodes:
            if any(user not in changed for user in node.users) and not _alike(one[node], two[node]):
                raise Refusal(f"copies change {location_of(node)}: the weights of equal experts do not add up to the weight "
                              "of one, or it gives out what it makes of each expert")

    def _both(self, edit: Edit, code: list[Node], given: list[Node], changed: dict[Node, tuple], index: Tensor) -> tuple:
        """Return what the nodes give with drawn numbers, as they were and as they become."""
        names = sorted({name for node in self.nodes for name, _ in _tensors(edit, node)})
        reasons: list[str] = []
        for kind in (torch.float32, torch.float64):  # torch groups no products in double precision
            generator = torch.Generator().manual_seed(0)
            x = {node: torch.randn(edit.values[node.name].shape, generator=generator, dtype=kind) for node in given}
            held = {name: DRAWN * torch.randn(t.shape, generator=generator, dtype=kind) if t.is_floating_point() else t
                    for name, t in ((name, edit.tensor(name)) for name in names)}
            more = {name: t.index_select(0, index) if name in self.stacked else t for name, t in held.items()}
            try:
                return _run(edit, code, {}, x, held), _run(edit, code, changed, x, more)
            except Exception as error:
                reasons.append(str(error))
        raise Refusal(f"its code does not run on drawn numbers, or says in a way that is not known how many experts there "
                      f"are: {reasons[0]}")

    def _outside(self, edit: Edit) -> list[Node]:
        """Return what the block reads, tensors or numbers that are computed of these, in the order of the graph."""
        mine, found = set(self.nodes), set()
        waiting = [source for node in self.nodes for source in node.all_input_nodes if source not in mine]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += [] if isinstance(edit.values.get(node.name), Tensor) else node.all_input_nodes
        return [node for node in edit.graph.nodes if node in found]


def find_routed(edit: Edit) -> tuple[dict[str, Routed], dict[str, str]]:
    """Return the blocks of a graph that choose among stacked experts, by name; and why other choices are none of these."""
    found: dict[str, Routed] = {}
    reasons: dict[str, str] = {}
    for node in edit.graph.nodes:
        scores, k = node.args[0] if node.args else None, node.args[1] if len(node.args) > 1 else node.kwargs.get("k")
        if _called(node) != "topk" or not isinstance(scores, Node) or not isinstance(k, int):
            continue
        count = edit.values[scores.name].shape[-1]
        for path in reversed(["", *prefixes(owner_of(node))]):
            nodes = [n for n in edit.graph.nodes if below(owner_of(n), path) and n.op not in ("placeholder", "output")]
            stacked = set(_stacked(edit, nodes, node, count))
            if any(edit.tensor(name).ndim > 2 for name in stacked):
                name = path or location_of(node)
                found[name] = Routed(name, count, k, nodes, stacked)
                break
        else:
            where = location_of(node)
            reasons[owner_of(node) or where] = f"what {where} chooses among is no stack of experts in one tensor: where " \
                "each is a layer of its own, name that, and it becomes a mixture itself"
    return found, reasons


def _stacked(edit: Edit, nodes: list[Node], topk: Node, count: int) -> Iterator[str]:
    """Yield the tensors that have a row for each expert: the router's, and those of more axes that the block reads."""
    router, waiting, mine = {topk}, [topk], set(nodes)
    while waiting:
        new = [n for n in waiting.pop().all_input_nodes if n in mine and n not in router]
        router.update(new)
        waiting += new
    for node in nodes:
        for name, tensor in _tensors(edit, node):
            if tensor.ndim and tensor.shape[0] == count and (node in router or (node.op == "get_attr" and tensor.ndim > 1)):
                yield name


def _tensors(edit: Edit, node: Node) -> list[tuple[str, Tensor]]:
    """Return the tensors that a node reads or whose layer it calls, by name."""
    if node.op == "call_module":
        return named_tensors(edit.gm.get_submodule(str(node.target)), str(node.target))
    tensor = edit.tensor(str(node.target)) if node.op == "get_attr" else None
    return [(str(node.target), tensor)] if isinstance(tensor, Tensor) else []


def _called(node: Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


@torch.no_grad()
def _run(edit: Edit, nodes: list[Node], changed: dict[Node, tuple], given: dict[Node, Tensor],
         held: dict[str, Tensor]) -> dict[Node, Any]:
    """Run nodes on given values, with other arguments where they have changed, and return what each gives."""
    values: dict[Node, Any] = dict(given)
    for node in nodes:
        args, kwargs = map_arg(changed.get(node, (node.args, node.kwargs)), values.__getitem__)
        if node.op == "get_attr":
            name = str(node.target)
            values[node] = held[name] if name in held else edit.tensor(name)
        elif node.op == "call_module":
            layer = edit.gm.get_submodule(str(node.target))
            own = {name[len(str(node.target)) + 1:]: held[name] for name, _ in _tensors(edit, node)}
            values[node] = torch.func.functional_call(layer, own, args, kwargs)
        else:
            call: Callable = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
            values[node] = call(*(args[1:] if isinstance(node.target, str) else args), **kwargs)
    return values


def _alike(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return not isinstance(a, Tensor) and a == b
    scale = float(a.abs().max()) if a.numel() else 0.0
    return a.shape == b.shape and math.isfinite(scale) and bool(torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * scale))
