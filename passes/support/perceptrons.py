"""Dense perceptrons in a captured graph, found by what they compute: layers of one value, pointwise functions, one layer.

What lives here: finding them, gated or not. What does not: what is made of them.
"""
import os
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.aten import CONTRACTIONS, JOIN, LINEAR, ODD, OTHER_POINTWISE, ZERO_AT_ZERO
from fxgrow.common import Refusal
from fxgrow.graph import location_of, prefixes, tensors_of
from fxgrow.identity import Trace, Val

VIEWS = ("view", "_unsafe_view", "_reshape_alias")
ALONG = {"split": (2, 0), "split_with_sizes": (2, 0), "slice": (1, 0), "cat": (1, 0), "mean": (1, ()), "sum": (1, ()),
         "_softmax": (1, 0)}  # where an op has its axis among its arguments, and which one it is unless told
PLAIN = (*LINEAR, "mul", "div", "native_dropout", JOIN)  # neither bends a function, a product of two values aside
BENT = (*ODD, *ZERO_AT_ZERO, *OTHER_POINTWISE)
SUMS = [name for name in CONTRACTIONS if name != "convolution"]


@dataclass(eq=False)
class Perceptron:
    """One that treats each row, a position of all axes but the last, alone.

    name: the module that it is the code of, or its last layer. home: the module that holds all of its layers. nodes: in the
    order of the graph. takes, gives: the nodes of its input and of its result.
    """
    name: str
    home: str
    nodes: list[Node]
    takes: Node
    gives: Node


def find_perceptrons(gm: GraphModule, trace: Trace) -> tuple[list[Perceptron], dict[str, str]]:
    """Return the perceptrons of a graph, none in another; and for each other layer why it ends none, by its name."""
    finder = _Finder(gm, trace)
    found: list[Perceptron] = []
    reasons: dict[str, str] = {}
    taken: set[Node] = set()
    for last in filter(finder.is_layer, gm.graph.nodes):
        try:
            one = finder.ending_in(last)
        except Refusal as why:
            reasons[location_of(last)] = str(why)
            continue
        if taken.isdisjoint(one.nodes):
            found.append(one)
            taken.update(one.nodes)
    return found, reasons


class _Finder:
    def __init__(self, gm: GraphModule, trace: Trace):
        self.gm, self.trace = gm, trace
        self.order = {node: i for i, node in enumerate(gm.graph.nodes)}

    def ops(self, node: Node) -> list[Val]:
        """Return the ops of a node on data."""
        return [v for v in self.trace.made.get(node.name, ()) if not v.param_only]

    def is_layer(self, node: Node) -> bool:
        """Tell whether a node multiplies data by a matrix of the model's."""
        return any(_is_layer(v) for v in self.ops(node))

    def shape(self, node: Node) -> tuple[int, ...]:
        """Return the shape of a node's value, () of what is no tensor."""
        value = self.trace.values.get(node.name)
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def ending_in(self, last: Node) -> Perceptron:
        """Return the perceptron whose last layer a node is, or refuse."""
        inputs = self._inputs(last)
        if len(inputs) != 1:
            raise Refusal(f"its hidden values come from {len(inputs) or 'no'} values through layers and functions, not one")
        x = inputs.pop()
        for takes in dict.fromkeys((x, self._behind_views(x))):
            gives = self._in_shape_of(takes, last)
            nodes = self._between(takes, gives)
            if nodes is not None:
                for node in nodes:
                    self._insist_by_rows(node)
                self._insist_alone(nodes, gives)
                self._insist_bent(nodes, last)
                home, name = self._name(nodes, last)
                return Perceptron(name, home, nodes, takes, gives)
        raise Refusal("its hidden values are made of other values than its input")

    def _inputs(self, last: Node) -> set[Node]:
        """Return what the layers in front of the last one take."""
        found: set[Node] = set()
        queue, seen = [n for n in last.all_input_nodes if self._is_data(n)], set()
        while queue:
            node = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            layer = self.is_layer(node)
            self._insist_by_rows(node)
            sources = [n for n in node.all_input_nodes if self._is_data(n)]
            if layer:
                found.update(sources)
            elif not sources:
                raise Refusal(f"its hidden values come from {location_of(node)} and no layer")
            else:
                queue += sources
        return found

    def _is_data(self, node: Node) -> bool:
        """Tell whether a node gives a tensor that is not made of the model's own alone."""
        given = self.trace.gives.get(node.name)
        return bool(self.ops(node)) if given is None else not given.param_only

    def _behind_views(self, node: Node) -> Node:
        while node.all_input_nodes and self.ops(node) and all(v.name in VIEWS for v in self.ops(node)) and \
                self.shape(node.all_input_nodes[0])[-1:] == self.shape(node)[-1:]:
            node = node.all_input_nodes[0]
        return node

    def _in_shape_of(self, takes: Node, node: Node) -> Node:
        """Return a node, or the view of its value whose axes in front of the last are those of the input."""
        while self.shape(node)[:-1] != self.shape(takes)[:-1] and len(node.users) == 1:
            user = next(iter(node.users))
            if not self.ops(user) or any(v.name not in VIEWS for v in self.ops(user)):
                break
            node = user
        return node

    def _between(self, takes: Node, gives: Node) -> list[Node] | None:
        """Return the nodes that make one value of another and of the model's own; None where they need more."""
        found, queue = set(), [gives]
        while queue:
            node = queue.pop()
            if node is takes or node in found:
                continue
            if node.op == "placeholder" or (self.order[node] < self.order[takes] and node.op != "get_attr"):
                return None
            found.add(node)
            queue += node.all_input_nodes
        same = self.shape(takes)[:-1] == self.shape(gives)[:-1]
        return sorted(found, key=self.order.__getitem__) if same and takes not in found else None

    def _insist_by_rows(self, node: Node) -> None:
        """Refuse a node that does more than to treat each row alone."""
        for v in self.ops(node):
            if not _by_rows(v):
                raise Refusal(f"{v.name.strip('_')} at {location_of(node)} may look at more than one row")

    def _insist_alone(self, nodes: list[Node], gives: Node) -> None:
        """Refuse values that others read, and layers that others call."""
        inside = set(nodes)
        for node in nodes:
            if node is not gives and self._is_data(node) and not inside.issuperset(node.users):
                raise Refusal(f"its hidden value {location_of(node)} is read elsewhere")
        own = {id(t) for n in nodes for t in self._held(n)}
        other = next((n for n in self.gm.graph.nodes if n not in inside for t in self._held(n) if id(t) in own), None)
        if other is not None:
            raise Refusal(f"its weights are used at {location_of(other)} too")

    def _held(self, node: Node) -> list[Tensor]:
        """Return the model's tensors that a node reads."""
        if node.op == "call_module":
            return list(tensors_of(self.gm.get_submodule(str(node.target))).values())
        given = self.trace.values.get(node.name) if node.op == "get_attr" else None
        return [] if given is None else [_attribute(self.gm, str(node.target))]

    def _insist_bent(self, nodes: list[Node], last: Node) -> None:
        if not any(v.name in BENT or (v.name == "mul" and len([i for i in v.ins if not i.param_only]) == 2)
                   for n in nodes if n is not last for v in self.ops(n)):
            raise Refusal("no function is between its layers")

    def _name(self, nodes: list[Node], last: Node) -> tuple[str, str]:
        """Return the deepest module that holds all layers, and its name where it holds no others, else the last layer's."""
        held = [prefixes(str(n.target).rpartition(".")[0]) for n in nodes if self._held(n)]
        home = next(reversed(os.path.commonprefix(held)), "")  # of lists, too
        own = {id(t) for n in nodes for t in self._held(n)}
        whole = {id(t) for t in tensors_of(self.gm.get_submodule(home)).values()} == own
        return home, home if home and whole else location_of(last)


def _attribute(gm: GraphModule, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    return getattr(gm.get_submodule(owner), last)


def _is_layer(v: Val) -> bool:
    weight = v.operand(CONTRACTIONS[v.name][0]) if v.name in SUMS else None
    return weight is not None and weight.param_only


def _by_rows(v: Val) -> bool:
    """Tell whether an op gives for each row of data what it would give for that row alone."""
    rows = v.tensor.shape[:-1]
    data = [i.tensor.shape for i in v.ins if not i.param_only]
    if v.name in VIEWS:
        return data[0][-1:] == v.tensor.shape[-1:]
    if v.name in ALONG:
        along = v.arg(*ALONG[v.name])
        return all(d in (-1, len(data[0]) - 1) for d in (along if isinstance(along, (list, tuple)) else [along]))
    if v.name in ("native_layer_norm", "_fused_rms_norm"):
        return len(v.arg(1)) == 1
    beside = [n for i in v.ins if i.param_only for n in i.tensor.shape[:-1]]
    return _is_layer(v) or (v.name in (*PLAIN, *BENT) and all(shape[:-1] == rows for shape in data)
                            and all(n == 1 for n in beside))
