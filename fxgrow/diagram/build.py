"""A captured graph as a diagram: boxes in nested clusters, and edges between them.

What does not live here: blocks that repeat (repeats.py), names of operations (fxgrow/graph/words.py), looks (dot.py).
"""
from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import tree_leaves
from fxgrow.common import nearest_names
from fxgrow.errors import DrawError
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

FOLLOWERS = ("normalisation", "activation", "random")  # drawn in one box with what they follow


@dataclass
class Row:
    """One operation in a box, or a run of operations that only move numbers: its type, settings and layer."""
    title: str
    family: str
    settings: str
    name: str
    nodes: list[Node]
    parameters: tuple[str, ...] = ()  # names of those that it reads and that no layer in the picture stands for


@dataclass
class Box:
    """A chain of operations, or (`folded`) a whole module.

    path: the module that it stands in, or that it is. kind: the module's class where it is known. shape: of what comes out.
    times: how often it stands there; last: the path of the last repetition. families: how many operations of each family are
    in a folded one, those of repetitions within it too.
    """
    rows: list[Row]
    path: str
    shape: str
    kind: str = ""
    folded: bool = False
    times: int = 1
    last: str = ""
    families: Counter[str] = field(default_factory=Counter)

    @property
    def key(self) -> str:
        """Name that is unique in a diagram, and the same for the same graph: that of its first node."""
        return self.nodes[0].name

    @property
    def nodes(self) -> list[Node]:
        """Operations in it; of a repeated one, those of the first."""
        return [node for row in self.rows for node in row.nodes]


@dataclass
class Cluster:
    """A module with what is in it; or (`group`) several parts of the module `path` that are repeated together."""
    path: str
    kind: str = ""
    children: list[Item] = field(default_factory=list)
    times: int = 1
    last: str = ""
    group: bool = False

    def items(self) -> Iterator[Item]:
        """Yield the boxes and modules in it, at any depth."""
        for child in self.children:
            yield child
            if isinstance(child, Cluster):
                yield from child.items()

    def boxes(self) -> Iterator[Box]:
        """Yield the boxes in it, at any depth."""
        return (item for item in self.items() if isinstance(item, Box))

    def clusters(self) -> Iterator[Cluster]:
        """Yield the modules in it, at any depth."""
        return (item for item in self.items() if isinstance(item, Cluster))


Item: TypeAlias = "Box | Cluster"


def families(items: Sequence[Item]) -> Counter[str]:
    """Count the operations of each family in parts of a module, with their repetitions."""
    counts: Counter[str] = Counter()
    for item in items:
        inner = families(item.children) if isinstance(item, Cluster) else Counter(
            row.family for row in item.rows for _ in row.nodes)
        counts.update({name: count * item.times for name, count in inner.items()})
    return counts


@dataclass
class Edge:
    """A value that goes from one box to another; `shape` where it is not the one that the first box gives."""
    tail: Box
    head: Box
    shape: str


@dataclass
class Diagram:
    """A model's boxes and what goes between them.

    flow: (operation, its reader, shape of what goes there). stands: operations of repetitions, and those drawn for them.
    """
    root: Cluster
    flow: list[tuple[Node, Node, str]]
    stands: dict[Node, Node] = field(default_factory=dict)

    def edges(self) -> list[Edge]:
        """Return one edge for each pair of boxes and shape; none within a box, none into a repetition."""
        at = {node: box for box in self.root.boxes() for node in box.nodes}
        edges: dict[tuple[str, str, str], Edge] = {}
        for tail, head, shape in self.flow:
            source = at[self.stands.get(tail, tail)]
            if head not in self.stands and source is not at[head]:
                edge = Edge(source, at[head], "" if shape == source.shape else shape)
                edges.setdefault((source.key, edge.head.key, edge.shape), edge)
        return list(edges.values())

    def all_nodes(self, box: Box) -> list[Node]:
        """Return the operations that a box stands for, those of its repetitions too."""
        own = set(box.nodes)
        return box.nodes + [node for node, first in self.stands.items() if first in own]

    def fold(self, depth: int | None = None, globs: Sequence[str] = ()) -> Diagram:
        """Draw modules `depth` levels below the model, and those whose path a glob matches, as one box each."""
        def shut(item: Item) -> Item:
            if isinstance(item, Box):
                return item
            level = item.path.count(".") + 1 if item.path else 0
            if not item.group and level and (level == depth or any(fnmatch.fnmatchcase(item.path, g) for g in globs)):
                boxes = list(item.boxes())
                return Box([r for b in boxes for r in b.rows], item.path, boxes[-1].shape, item.kind, True, item.times,
                           item.last, families(item.children))
            return replace(item, children=list(map(shut, item.children)))
        return replace(self, root=replace(self.root, children=list(map(shut, self.root.children))))

    def check(self, globs: Sequence[str]) -> None:
        """Raise DrawError where a glob matches no module."""
        paths = [c.path for c in self.root.clusters()]
        for glob in globs:
            if not fnmatch.filter(paths, glob):
                near = nearest_names(glob, paths, cutoff=0.3) or paths[:3]
                raise DrawError(f"{glob!r} matches no module that could be one box; the nearest are: "
                                f"{', '.join(near) or 'none'}")

    def depths(self) -> int:
        """Return how deep the modules of the picture are nested."""
        return max((c.path.count(".") + 1 for c in self.root.clusters() if c.path), default=0)


def build(gm: GraphModule, kinds: Mapping[str, str] | None = None) -> Diagram:
    """Return the diagram of a captured module; `kinds` has class names of modules by path.

    Sizes and flags, copies and members of tuples are no boxes; what is computed from parameters alone is named in the box
    that reads it.
    """
    values = run_shapes(gm)
    flow, reads = _flow(gm, values)
    shown = [n for n in gm.graph.nodes if n in reads]
    root = Cluster("")
    clusters = {"": root}
    for box in _chains(gm, shown, flow, reads, values):
        place = ""
        for inner in prefixes(box.path):
            if inner not in clusters:
                clusters[inner] = Cluster(inner, (kinds or {}).get(inner, ""))
                clusters[place].children.append(clusters[inner])
            place = inner
        clusters[place].children.append(box)
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
        computes = bool(sources) and (tensors or written is not None)
        if node.op not in ("placeholder", "output") and (
                not computes or passes_on(gm, node, values) or _same_anyway(node, origins)):
            shape = shape_of(values[node])
            origins[node] = [(tail, shape) for tail, _ in sources] if tensors else []
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


def _same_anyway(node: Node, origins: Mapping[Node, Sequence[tuple[Node, str]]]) -> bool:
    """Tell whether a value that depends on the mode comes from the same place in both."""
    return is_join(node) and len({tuple(origins[n]) if isinstance(n, Node) else () for n in node.args[1:]}) == 1


def _chains(gm: GraphModule, shown: Sequence[Node], flow: Sequence[tuple[Node, Node, str]],
            reads: Mapping[Node, tuple[str, ...]], values: Mapping[Node, Any]) -> list[Box]:
    """Return boxes in the order of the graph; norms, activations and dropout are with the one operation that they follow."""
    readers, sources = Counter(t for t, _, _ in flow), Counter(h for _, h, _ in flow)
    before = {head: tail for tail, head, _ in flow if readers[tail] == 1 and sources[head] == 1}
    inside = Counter(place for node in shown for place in prefixes(owner_of(node)))
    at: dict[Node, Box] = {}
    boxes = []
    for node in shown:
        target, kind = str(node.target), family(gm, node)
        name = place_of(node)
        alone = node.op == "call_module" or inside[name] == 1  # a module that calls one function is as good as a layer
        path = name.rpartition(".")[0] if alone else name
        if node.op in ("placeholder", "output"):
            name, path = "" if node.op == "output" else target, ""
        named = reads[node] if kind in ("arithmetic", "shape", "other", "join", "in and out") else ()
        row = Row(title(gm, node), kind, settings(gm, node), name, [node], named)
        box = at.get(before.get(node))  # type: ignore[arg-type]
        if box is not None and box.path == path and _joins(box.rows[-1], row):
            if kind == "shape":
                box.rows[-1].title += f", {row.title}"
                box.rows[-1].nodes.append(node)
            else:
                box.rows.append(row)
            box.shape = shape_of(values[node])
        else:
            box = Box([row], path, shape_of(values[node]))
            boxes.append(box)
        at[node] = box
    return boxes


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
