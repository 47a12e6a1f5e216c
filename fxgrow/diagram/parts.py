"""The parts of a diagram: rows in boxes, boxes in modules, edges between them; and how parts are drawn as one box.

What does not live here: how a captured graph becomes parts (build.py), which are repeated (repeats.py), looks (dot.py).
"""
from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TypeAlias

from torch.fx import Node

from fxgrow.common import nearest_names
from fxgrow.errors import DrawError


@dataclass
class Row:
    """One operation in a box, or a run of operations that only move numbers: its type, settings and layer.

    parameters: names of those that it reads and that no layer in the picture stands for. call: which call of its layer it
    is, and of how many. notes: what else there is to say of it, a line each.
    """
    title: str
    family: str
    settings: str
    name: str
    nodes: list[Node]
    parameters: tuple[str, ...] = ()
    call: tuple[int, int] = (1, 1)
    notes: tuple[str, ...] = ()

    def lines(self, path: str, times: int = 1) -> list[str]:
        """Return what stands below its type in the module `path`: parameters, notes, and that others share its layer."""
        which, count = self.call
        shared = [f"× {count}, shared: call {which}"] if count > 1 and times == 1 else []
        return [f"with {below(name, path)}" for name in self.parameters] + [*self.notes] + shared


@dataclass
class Box:
    """A chain of operations, or (`folded`) a whole module.

    path: the module that it stands in, or that it is. kind: the module's class where it is known. shape: of what comes out.
    times: how often it stands there; last: the name of the last repetition; how: in which way if not one after another.
    families: how many operations of each family are in a folded one, those of repetitions within it too.
    """
    rows: list[Row]
    path: str
    shape: str
    kind: str = ""
    folded: bool = False
    times: int = 1
    last: str = ""
    how: str = ""
    families: Counter[str] = field(default_factory=Counter)

    @property
    def key(self) -> str:
        """Name that is unique in a diagram, and the same for the same graph: that of its first node."""
        return self.nodes[0].name

    @property
    def nodes(self) -> list[Node]:
        """Operations in it; of a repeated one, those of the first."""
        return [node for row in self.rows for node in row.nodes]

    @property
    def name(self) -> str:
        """Name of the module that it is, or of its first layer."""
        return self.path if self.kind or self.folded else self.rows[0].name or self.path


@dataclass
class Cluster:
    """A module with what is in it, or (`group`) several parts of the module `path` that are repeated together.

    Its boxes follow each other in the order of the graph, and no other stands between them: so no way leads out of a module
    and back into it, and modules drawn as one box each never form a cycle. A module that others interrupt is several.
    """
    path: str
    kind: str = ""
    children: list[Item] = field(default_factory=list)
    times: int = 1
    last: str = ""
    how: str = ""
    group: bool = False

    @property
    def name(self) -> str:
        """Path of the module; of parts that are repeated together, the name of the first that has one."""
        return next((child.name for child in self.children if child.name), "") if self.group else self.path

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


def below(name: str, path: str) -> str:
    """Return a name as it is called within a module; nothing for the module itself."""
    return "" if name == path else name.removeprefix(path + ".")


def until(item: Item) -> str:
    """Say to which place a part is repeated, or in which way."""
    return item.how if item.how == "shared" else f"{item.how} to {item.last}".strip()


def closed(item: Cluster) -> Box:
    """Return a module as one box."""
    boxes = list(item.boxes())
    return Box([r for b in boxes for r in b.rows], item.name, boxes[-1].shape, item.kind, True, item.times, item.last,
               item.how, families(item.children))


def _squeezed(cluster: Cluster, most: int) -> Cluster:
    """Share a number of boxes out among the parts of a module; those that would get less than three become one."""
    parts = cluster.children
    sizes = [len(list(part.boxes())) if isinstance(part, Cluster) else 1 for part in parts]
    if sum(sizes) <= most:
        return cluster
    if len(parts) <= most // 2:
        shares = [size * (most - len(parts)) // sum(sizes) + 1 for size in sizes]
        return replace(cluster, children=[part if isinstance(part, Box) else closed(part) if share < 3 and size > share else
                                          _squeezed(part, share) for part, size, share in zip(parts, sizes, shares)])
    boxes = [part if isinstance(part, Box) else closed(part) for part in parts]
    ends = sum(_is_end(box) for box in boxes)
    size = math.ceil((len(boxes) - ends) / max(most - 2 * ends, most // 3, 1))
    runs = [list(run) for _, run in groupby(boxes, key=_is_end)]
    return replace(cluster, children=[
        part for run in runs for part in (run if _is_end(run[0]) else
                                          [_several(run[i:i + size]) for i in range(0, len(run), size)])])


def _is_end(box: Box) -> bool:
    return box.rows[0].family == "in and out"


def _several(boxes: Sequence[Box]) -> Box:
    """Return boxes that follow each other as one."""
    if len(boxes) == 1:
        return boxes[0]
    return Box([r for b in boxes for r in b.rows], f"{boxes[0].name} … {boxes[-1].name}", boxes[-1].shape,
               f"{len(boxes)} parts", True, families=families(boxes))


def families(items: Sequence[Item]) -> Counter[str]:
    """Count the operations of each family in parts of a module, with their repetitions."""
    counts: Counter[str] = Counter()
    for item in items:
        inner = families(item.children) if isinstance(item, Cluster) else item.families or Counter(
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
    note: a sentence about what it leaves out.
    """
    root: Cluster
    flow: list[tuple[Node, Node, str]]
    stands: dict[Node, Node] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def _repetitions(self) -> dict[Node, list[Node]]:
        found: dict[Node, list[Node]] = {}
        for node, first in self.stands.items():
            found.setdefault(first, []).append(node)
        return found

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
        return box.nodes + [other for node in box.nodes for other in self._repetitions.get(node, ())]

    def fold(self, depth: int | None = None, globs: Sequence[str] = ()) -> Diagram:
        """Draw modules `depth` levels below the model, and those whose path a glob matches, as one box each."""
        def shut(item: Item) -> Item:
            if isinstance(item, Box):
                return item
            deep = depth and item.path.count(".") + 1 >= depth
            if item.path and not item.group and (deep or any(fnmatch.fnmatchcase(item.path, g) for g in globs)):
                return closed(item)
            return replace(item, children=list(map(shut, item.children)))
        return replace(self, root=replace(self.root, children=list(map(shut, self.root.children))))

    def squeeze(self, most: int) -> Diagram:
        """Draw parts that follow each other as one box for several, so that there are some `most` boxes."""
        root = _squeezed(self.root, most)
        note = (f"{len(list(root.boxes()))} boxes stand for {len(list(self.root.boxes())):,}, which are more than a picture "
                "can show: write an .html page, where all of them are a click away")
        return replace(self, root=root, note=note)

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
