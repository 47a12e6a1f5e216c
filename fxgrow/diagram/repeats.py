"""Choice of what a picture shows: how deep, what is collapsed, and blocks that stand several times in a row drawn once.

Parts side by side in a module are repetitions where they do the same (operations, settings, shapes, connections within),
each takes what the one before it gives, and nobody else what is within. Blocks that take turns (Swin's) repeat together.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch.fx import Node

from fxgrow.diagram.build import Box, Cluster, Diagram, Item
from fxgrow.errors import DrawError

PERIODS = (1, 2, 3, 4)
MOST = 60  # boxes in a picture, unless more are asked for


def chosen(diagram: Diagram, depth: int | None, collapse: str | Sequence[str], repeats: bool | None,
           mark: Callable[[Node], object] | None = None, most: int = MOST) -> Diagram:
    """Fold modules and draw repetitions once, as asked for or as the diagram's size wants it (`most` boxes)."""
    def count(some: Diagram) -> int:
        return len(list(some.root.boxes()))

    if depth is not None and depth < 0:
        raise DrawError(f"depth {depth}: say how many levels of modules to draw, or 0 for all")
    globs = [collapse] if isinstance(collapse, str) else list(collapse)
    diagram.check(globs)
    if repeats or (repeats is None and count(diagram) > most):
        diagram = fold_repeats(diagram, mark)
    whole = diagram.fold(depth, globs)
    if depth is None and count(whole) > most:
        folded = [diagram.fold(level, globs) for level in range(1, diagram.depths() + 1)]
        return max((d for d in folded if count(d) <= most), key=count, default=folded[0])
    return whole


def fold_repeats(diagram: Diagram, mark: Callable[[Node], object] | None = None) -> Diagram:
    """Draw repetitions once; `times` of what is left says how often. Their operations have the same `mark` on them."""
    folder = _Folder(diagram, mark or (lambda node: None))
    root, stands = folder.folded(diagram.root), folder.stands
    for node, first in stands.items():
        while first in stands:
            first = stands[first]
        stands[node] = first
    return replace(diagram, root=root, stands=stands)  # type: ignore[arg-type]  # a cluster stays one


class _Folder:
    """Finds repetitions in a diagram; `stands` has their nodes, and those of the first in the row."""

    def __init__(self, diagram: Diagram, mark: Callable[[Node], object]):
        self.mark = mark
        self.sources: dict[Node, list[Node]] = {}
        self.readers: dict[Node, list[Node]] = {}
        for tail, head, _ in diagram.flow:
            self.sources.setdefault(head, []).append(tail)
            self.readers.setdefault(tail, []).append(head)
        self.stands: dict[Node, Node] = {}

    def folded(self, item: Item) -> Item:
        """Fold the repetitions at every level, the outermost first."""
        if isinstance(item, Box):
            return item
        children: list[Item] = []
        at = 0
        while at < len(item.children):
            period, times = self.longest(item.children, at)
            unit, *others = [item.children[at + period * m:at + period * (m + 1)] for m in range(times)]
            children.append(self.once(item, unit, others) if others else self.folded(unit[0]))
            at += period * times
        return replace(item, children=children)

    def longest(self, items: Sequence[Item], at: int) -> tuple[int, int]:
        """Return how many items are repeated from `at` on, and how often they stand there, so that most are covered."""
        best = (1, 1)
        for period in PERIODS:
            units = [list(items[i:i + period]) for i in range(at, len(items) - period + 1, period)]
            times, link = 1, None
            while times < len(units) and self.form(units[0]) == self.form(units[times]):
                following = self.link(units[times - 1], units[times])
                if following is None or link not in (None, following):
                    break
                times, link = times + 1, following
            if times > 1 and period * (times - 1) > best[0] * (best[1] - 1):
                best = period, times
        return best

    def form(self, items: Sequence[Item]) -> list:
        """Return what repetitions have in common: modules and the operations in them. Rates of dropout may differ."""
        return [("box", i.shape, i.kind, [(r.title, r.family == "random" or r.settings, len(r.parameters),
                                           *map(self.mark, r.nodes)) for r in i.rows])
                if isinstance(i, Box) else ("module", i.kind, self.form(i.children)) for i in items]

    def link(self, unit: Sequence[Item], following: Sequence[Item]) -> tuple | None:
        """Return what each operation of a unit reads: of its own, the one before, outside; None if it is no repetition."""
        before, after = ({n: i for i, n in enumerate(_nodes(u))} for u in (unit, following))
        if any(r not in before and r not in after for n in before for r in self.readers.get(n, ())):
            return None
        reads: list[tuple] = []
        for old, new in zip(before, after):
            theirs, ours = self.sources.get(old, []), self.sources.get(new, [])
            if len(theirs) != len(ours):
                return None
            for a, b in zip(theirs, ours):
                if a in before and b not in after:
                    return None
                if b in before:
                    reads.append(("before", before[b]))
                elif b in after and before.get(a) == after[b]:
                    reads.append(("own", after[b]))
                elif a is b:
                    reads.append(("outside", b))
                else:
                    return None
        return tuple(reads) if any(kind == "before" for kind, _ in reads) else None

    def once(self, cluster: Cluster, unit: Sequence[Item], others: Sequence[Sequence[Item]]) -> Item:
        """Return the first unit of a row, standing for all of them."""
        for other in others:
            self.stands.update(zip(_nodes(other), _nodes(unit)))
        times, last = len(others) + 1, others[-1][-1].path
        unit = list(map(_spanned, unit, others[-1]))
        whole = Cluster(cluster.path, children=unit, group=True) if len(unit) > 1 else unit[0]
        return replace(self.folded(whole), times=times, last=last)


def _nodes(items: Sequence[Item]) -> list[Node]:
    return [node for i in items for box in ((i,) if isinstance(i, Box) else i.boxes()) for node in box.nodes]


def _spanned(first: Item, last: Item) -> Item:
    """Return the first of several repetitions; settings that differ say from what to what."""
    if isinstance(first, Cluster):
        assert isinstance(last, Cluster)
        return replace(first, children=[_spanned(a, b) for a, b in zip(first.children, last.children)])
    assert isinstance(last, Box)
    return replace(first, rows=[a if a.settings == b.settings else replace(a, settings=f"{a.settings} … {b.settings}")
                                for a, b in zip(first.rows, last.rows)])
