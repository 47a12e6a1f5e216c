"""A captured graph as a diagram: boxes in nested clusters, and edges between them.

What does not live here: blocks that repeat (repeats.py), names of operations (fxgrow/graph/words.py), looks (dot.py).
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix  # of any lists, in spite of its place
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import tree_leaves
from fxgrow.diagram.parts import Box, Cluster, Diagram, Item, Row
from fxgrow.graph import (
    MAKES,
    family,
    is_join,
    owner_of,
    passes_on,
    place_of,
    prefixes,
    run_shapes,
    settings,
    shape_of,
    title,
    written_argument,
)

NAMED = ("arithmetic", "shape", "other", "join", "in and out")  # parameters that these read are named in their box
PRODUCTS = ("matrix product", "convolution", "attention", "embedding")  # and those of these, unless a layer stands for them
FOLLOWERS = ("normalisation", "activation", "random")  # drawn in one box with what they follow


def build(gm: GraphModule, kinds: Mapping[str, str] | None = None) -> Diagram:
    """Return the diagram of a captured module; `kinds` has class names of modules by path.

    Sizes and flags, copies and members of tuples are no boxes; what is computed from parameters alone is named in the box
    that reads it.
    """
    values = run_shapes(gm)
    flow, reads = _flow(gm, values)
    boxes, framed = _chains(gm, [n for n in gm.graph.nodes if n in reads], flow, reads, values)
    root = Cluster("")
    around = [root]
    for box in boxes:
        wanted = [path for path in prefixes(box.path) if path in framed]
        same = len(commonprefix([[c.path for c in around[1:]], wanted]))
        del around[same + 1:]
        for path in wanted[same:]:
            cluster = Cluster(path, (kinds or {}).get(path, ""))
            around[-1].children.append(cluster)
            around.append(cluster)
        around[-1].children.append(box)
    return Diagram(replace(root, children=list(map(_flattened, root.children))), flow)


def kinds_of(model: nn.Module) -> dict[str, str]:
    """Return the class of every module that has one of its own, by path."""
    return {name: type(m).__name__ for name, m in model.named_modules(remove_duplicate=False)
            if type(m) is not nn.Module and not isinstance(m, GraphModule)}


def _flow(gm: GraphModule, values: Mapping[Node, Any]) -> tuple[list[tuple[Node, Node, str]], dict[Node, tuple[str, ...]]]:
    """Return what goes from where to where among the nodes that are shown, and the parameters that each reads directly."""
    flow: list[tuple[Node, Node, str]] = []
    reads: dict[Node, tuple[str, ...]] = {}
    origins: dict[Node, list[tuple[Node, str]]] = {}  # of each node: shown nodes that its value comes from, with the shapes
    constants: dict[Node, tuple[str, ...]] = {}  # of each hidden node: parameters that its value comes from
    for node in gm.graph.nodes:
        tensors = any(isinstance(v, Tensor) for v in tree_leaves(values[node]))
        makes = MAKES.match(title(gm, node)) is not None
        sources = [] if makes else list(dict.fromkeys(o for n in node.all_input_nodes for o in origins[n]))
        names = tuple(dict.fromkeys(c for n in node.all_input_nodes for c in constants.get(n, ())))
        written = None if node.users else written_argument(node)
        computes = (bool(sources) and (tensors or written is not None)) or _is_table(gm, node)
        if node.op not in ("placeholder", "output") and (
                not computes or passes_on(gm, node, values) or _same_anyway(node, origins) or _is_container(node)):
            shape = shape_of(values[node])
            origins[node] = [(tail, was if _is_container(node) else shape) for tail, was in sources] if tensors else []
            if tensors:
                constants[node] = (str(node.target),) if node.op == "get_attr" else names
            if written is not None and not sources:
                constants[written] = tuple(dict.fromkeys((*constants.get(written, ()), *names)))
            continue
        flow += [(tail, node, shape) for tail, shape in sources]
        reads[node] = names
        origins[node] = [(node, shape_of(values[node]))]
        if written is not None:  # whoever reads that memory later reads what was written
            origins[written] = [(node, shape_of(values[written]))]
    return flow, reads


def _is_container(node: Node) -> bool:
    """Tell whether a node makes an object that holds what it is given, such as the outputs of Hugging Face's models."""
    return node.op == "call_function" and isinstance(node.target, type)


def _is_table(gm: GraphModule, node: Node) -> bool:
    """Tell whether a node looks up rows of a table that is a layer: it is drawn even if the places are always the same."""
    return node.op == "call_module" and isinstance(gm.get_submodule(str(node.target)), nn.Embedding)


def _same_anyway(node: Node, origins: Mapping[Node, Sequence[tuple[Node, str]]]) -> bool:
    """Tell whether a value that depends on the mode comes from the same place in both."""
    return is_join(node) and len({tuple(origins[n]) if isinstance(n, Node) else () for n in node.args[1:]}) == 1


def _chains(gm: GraphModule, shown: Sequence[Node], flow: Sequence[tuple[Node, Node, str]],
            reads: Mapping[Node, tuple[str, ...]], values: Mapping[Node, Any]) -> tuple[list[Box], set[str]]:
    """Return boxes in the order of the graph, and the modules that are frames.

    Norms, activations and dropout are with the one operation that they follow.
    """
    readers, sources = Counter(t for t, _, _ in flow), Counter(h for _, h, _ in flow)
    before = {head: tail for tail, head, _ in flow if readers[tail] == 1 and sources[head] == 1}
    places = _places(shown)
    framed = _framed(list(places.values()))
    make = _Rows(gm, values, shown)
    at: dict[Node, Box] = {}
    boxes = []
    for node in shown:
        name, home = places[node]
        path = next((p for p in reversed(prefixes(home)) if p in framed), "")
        row = make.row(node, name, reads[node], home != name)
        box = at.get(before.get(node))  # type: ignore[arg-type]
        if box is not None and box.path == path and _joins(box.rows[-1], row):
            if row.family == "shape":
                box.rows[-1].title += f", {row.title}"
                box.rows[-1].nodes.append(node)
            else:
                box.rows.append(row)
            box.shape = shape_of(values[node])
        else:
            box = Box([row], path, shape_of(values[node]))
            boxes.append(box)
        at[node] = box
    return boxes, framed


def _places(shown: Sequence[Node]) -> dict[Node, tuple[str, str]]:
    """Return of each operation the name of its layer, or of the module whose code it is; and the module that it is in."""
    inside = Counter(place for node in shown for place in prefixes(owner_of(node)))
    places = {}
    for node in shown:
        name = place_of(node)
        alone = node.op == "call_module" or inside[name] == 1  # a module that calls one function is as good as a layer
        places[node] = name, name.rpartition(".")[0] if alone else name
        if node.op in ("placeholder", "output"):
            places[node] = "" if node.op == "output" else str(node.target), ""
    return places


def _framed(places: Sequence[tuple[str, str]]) -> set[str]:
    """Return the modules that are frames: all but lists of modules whose members others stand between.

    Such a list has no code of its own and is not called as a whole, which would run its members again.
    """
    runs: Counter[str] = Counter()
    ran: dict[tuple[str, str], int] = {}  # of a module and a name in it: in which run it was
    called = {path for name, path in places if name == path}
    last: set[str] = set()
    for name, path in places:
        now = set(prefixes(path))
        runs.update(now - last)
        called.update(p for p in now if ran.setdefault((p, name), runs[p]) != runs[p])
        last = now
    return {path for path, count in runs.items() if count == 1 or path in called}


class _Rows:
    """Makes the rows of boxes of a captured module."""

    def __init__(self, gm: GraphModule, values: Mapping[Node, Any], shown: Sequence[Node]):
        self.gm, self.values = gm, values
        self.layers = Counter(str(node.target) for node in shown if node.op == "call_module")
        self.calls: Counter[str] = Counter()
        self.first: dict[int, str] = {}  # of each parameter: its first name
        for name, tensor in gm.named_parameters(remove_duplicate=False):
            self.first.setdefault(id(tensor), name)

    def row(self, node: Node, name: str, read: tuple[str, ...], alone: bool) -> Row:
        """Return the row of an operation; `alone`: its module stands for the parameters that it reads."""
        kind = family(self.gm, node)
        words, call = title(self.gm, node), (1, 1)
        if words == "slice" and any(isinstance(self.values[n], Tensor) for n in node.all_input_nodes[1:]):
            words = "index"
        if node.op == "call_module":
            layer = self.gm.get_submodule(str(node.target))
            held = dict(layer.named_parameters())
            read += tuple(f for key, t in held.items() if (f := self.first[id(t)]) != f"{node.target}.{key}")
            self.calls[name] += 1
            call = (self.calls[name], self.layers[name]) if held else call
        elif kind not in NAMED and (alone or kind not in PRODUCTS):
            read = ()
        return Row(words, kind, settings(self.gm, node), name, [node], read, call, self.notes(node))

    def notes(self, node: Node) -> tuple[str, ...]:
        """Return the keys of what the model gives."""
        if node.op != "output":
            return ()
        return tuple(f"{'.'.join(map(str, path))}: {shape_of(self.values[leaf]) if isinstance(leaf, Node) else leaf}"
                     for path, leaf in _leaves(node.args[0]) if any(isinstance(key, str) for key in path))


def _leaves(value: Any, path: tuple = ()) -> list[tuple[tuple, Any]]:
    """Return what is in nested containers, each with the keys and places that lead to it."""
    if isinstance(value, Node) and _is_container(value):
        value = {**dict(enumerate(value.args)), **value.kwargs}
    if not isinstance(value, (dict, list, tuple)):
        return [] if value is None else [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for key, part in items for leaf in _leaves(part, (*path, key))]


def _joins(last: Row, row: Row) -> bool:
    if row.family == "shape":
        return last.family == "shape" and not row.parameters and row.title not in ("cat", "stack")
    return row.family in FOLLOWERS and last.family != "in and out"


def _flattened(item: Item) -> Item:
    """Replace modules that hold one box by that box."""
    if isinstance(item, Box):
        return item
    children = list(map(_flattened, item.children))
    if len(children) == 1 and isinstance(children[0], Box):
        return replace(children[0], path=item.path, kind=item.kind)
    return replace(item, children=children)
