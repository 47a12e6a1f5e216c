"""Choice of what a picture shows: how deep, what is collapsed, and blocks that stand several times in a row drawn once.

Parts that follow each other in a module are repetitions where they do the same (operations, settings, shapes, connections
within), each takes what the one before it gives, and nobody else what is within. A unit may be several parts: Swin's blocks
that take turns, or a block and the addition that follows it in a loop. From four on, equal parts side by side are
repetitions, too: all of them read the same, and the same reads them.
"""
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch.fx import Node

from fxgrow.diagram.look import MOST
from fxgrow.diagram.parts import Box, Cluster, Diagram, Item
from fxgrow.diagram.periods import Read, periods
from fxgrow.errors import DrawError

FEW = 8  # boxes that tell too little of a model that has more


def chosen(diagram: Diagram, depth: int | None, collapse: str | Sequence[str], repeats: bool | None,
           mark: Callable[[Node], object] | None = None, most: int = MOST) -> Diagram:
    """Fold modules and draw repetitions once, as asked for or as the diagram's size wants it (`most` boxes)."""
    def count(some: Diagram) -> int:
        return len(list(some.root.boxes()))

    if depth is not None and depth < 0:
        raise DrawError(f"depth {depth}: say how many levels of modules to draw, or 0 for all")
    globs = [collapse] if isinstance(collapse, str) else list(collapse)
    diagram.check(globs)
    if repeats is not False:
        diagram = fold_repeats(diagram, mark, repeats is None and count(diagram) <= most)
    whole = diagram.fold(depth, globs)
    if depth is not None or count(whole) <= most:
        return whole
    folded = [*(diagram.fold(level, globs) for level in range(1, diagram.depths() + 1)), whole]
    fits = max((d for d in folded if count(d) <= most), key=count, default=None)
    return fits if fits and count(fits) >= FEW else min((d for d in folded if count(d) > most), key=count).squeeze(most)


def fold_repeats(diagram: Diagram, mark: Callable[[Node], object] | None = None, only_shared: bool = False) -> Diagram:
    """Draw repetitions once; `times` of what is left says how often. Their operations have the same `mark` on them.

    only_shared: only where it is one layer that runs several times in a row.
    """
    folder = _Folder(diagram, mark or (lambda node: None), only_shared)
    root, stands = folder.folded(diagram.root), folder.stands
    for node, first in stands.items():
        while first in stands:
            first = stands[first]
        stands[node] = first
    return replace(diagram, root=root, stands=stands)  # type: ignore[arg-type]  # a cluster stays one


class _Folder:
    """Finds repetitions in a diagram; `stands` has their nodes, and those of the first in the row."""

    def __init__(self, diagram: Diagram, mark: Callable[[Node], object], only_shared: bool):
        self.mark, self.only_shared = mark, only_shared
        self.sources: dict[Node, list[tuple[Node, str]]] = {}
        self.readers: dict[Node, list[Node]] = {}
        for tail, head, shape in diagram.flow:
            self.sources.setdefault(head, []).append((tail, shape))
            self.readers.setdefault(tail, []).append(head)
        self.numbers: dict[tuple, int] = {}  # of forms
        self.stands: dict[Node, Node] = {}

    def folded(self, item: Item) -> Item:
        """Fold the repetitions at every level, the outermost first."""
        if isinstance(item, Box):
            return item
        items, forms = item.children, list(map(self.form, item.children))
        found = periods(forms, self.reads(items))
        children: list[Item] = []
        at = 0
        while at < len(items):
            period, times = self.longest(items, forms, at, found[at])
            shift = 0 if _matched(items[at:at + period]) else next(
                (i for i in range(1, period) if period in found[at + i] and _matched(items[at + i:at + i + period])
                 and self.times(items, forms, at + i, period) == times), 0)
            children += map(self.folded, items[at:at + shift])
            at += shift
            unit, *others = [items[at + period * m:at + period * (m + 1)] for m in range(times)]
            children.append(self.once(item, unit, others) if others else self.folded(unit[0]))
            at += period * times
        return replace(item, children=children)

    def longest(self, items: Sequence[Item], forms: Sequence[int], at: int, found: Sequence[int]) -> tuple[int, int]:
        """Return how many items are repeated from `at` on, and how often they stand there, so that most are covered."""
        for period in reversed(found):
            times = self.times(items, forms, at, period)
            unit, following = items[at:at + period], items[at + period:at + 2 * period]
            if times > 1 and (not self.only_shared or _shared(unit, following)):
                return period, times
        return 1, 1

    def times(self, items: Sequence[Item], forms: Sequence[int], at: int, period: int) -> int:
        """Return how often a unit of so many items stands there."""
        times, link = 1, None
        before = _nodes(items[at:at + period])
        while forms[at + period * times:at + period * (times + 1)] == forms[at:at + period]:
            after = _nodes(items[at + period * times:at + period * (times + 1)])
            following = self.link(before, after)
            if following is None or link not in (None, following):
                break
            before, times, link = after, times + 1, following
        return times if link is None or link[0] == "before" or times > 3 else 1

    def reads(self, items: Sequence[Item]) -> list[list[Read]]:
        """Return what each item reads of others: where that is as seen from it, and which it is."""
        places = {node: (i, j) for i, item in enumerate(items) for j, node in enumerate(_nodes([item]))}
        def read(i: int, source: Node) -> Read:
            at, within = places.get(source, (None, 0))
            return (source if at is None else (i - at, within)), source
        return [[read(i, source) for node in _nodes([item]) for source, _ in self.sources.get(node, ())
                 if places.get(source, (None, 0))[0] != i] for i, item in enumerate(items)]

    def form(self, item: Item) -> int:
        """Return a number for what repetitions have in common: modules and what is in them. Rates of dropout may differ."""
        if isinstance(item, Box):
            form: tuple = (item.shape, item.kind, *((r.title, r.family == "random" or r.settings, len(r.parameters),
                                                     *map(self.mark, r.nodes)) for r in item.rows))
        else:
            form = ("module", item.kind, *map(self.form, item.children))
        return self.numbers.setdefault(form, len(self.numbers))

    def link(self, before: dict[Node, int], after: dict[Node, int]) -> tuple | None:
        """Return what each operation of a unit reads: its own, the one before, outside; None if it is no repetition.

        Where none reads the unit before it, the last part says who reads the units from outside.
        """
        reads: list[tuple] = []
        for old, new in zip(before, after):
            theirs, ours = self.sources.get(old, []), self.sources.get(new, [])
            if [shape for _, shape in theirs] != [shape for _, shape in ours]:
                return None
            for (a, _), (b, _) in zip(theirs, ours):
                if b in before and a not in before:
                    reads.append(("before", before[b]))
                elif b in after and before.get(a) == after[b]:
                    reads.append(("own", after[b]))
                elif a is b:
                    reads.append(("outside", b))
                else:
                    return None
        if any(how == "before" for how, _ in reads):
            alone = all(r in before or r in after for n in before for r in self.readers.get(n, ()))
            return (("before", *reads) if alone else None)
        outer = [[[r for r in self.readers.get(n, ()) if r not in unit] for n in unit] for unit in (before, after)]
        return ("beside", *reads) if outer[0] == outer[1] else None

    def once(self, cluster: Cluster, unit: Sequence[Item], others: Sequence[Sequence[Item]]) -> Item:
        """Return the first unit of a row, standing for all of them."""
        first = _nodes(unit)
        for other in others:
            self.stands.update(zip(_nodes(other), first))
        times, how = len(others) + 1, "shared" if _shared(unit, others[0]) else ""
        if not how and "beside" in (self.link(first, _nodes(others[0])) or ()):
            how = "side by side"
        unit = list(map(_spanned, unit, others[-1]))
        whole = Cluster(cluster.path, children=unit, group=True) if len(unit) > 1 else unit[0]
        last = Cluster("", children=list(others[-1]), group=True).name
        return replace(self.folded(whole), times=times, last=last, how=how)


def _nodes(items: Iterable[Item]) -> dict[Node, int]:
    """Return the operations in parts, and the place of each."""
    found = [node for i in items for box in ((i,) if isinstance(i, Box) else i.boxes()) for node in box.nodes]
    return {node: place for place, node in enumerate(found)}


def _matched(items: Sequence[Item]) -> bool:
    """Tell whether the numbers in the names of a unit's parts do not disagree: all are from one round of a loop."""
    return len({number[0] for item in items if (number := re.search(r"\d+", item.name))}) <= 1


def _shared(unit: Sequence[Item], following: Sequence[Item]) -> bool:
    """Tell whether two units call the same layers."""
    rows, others = ([row for i in items for box in ((i,) if isinstance(i, Box) else i.boxes()) for row in box.rows]
                    for items in (unit, following))
    called = [(a.name, b.name) for a, b in zip(rows, others) if a.call[1] > 1]
    return bool(called) and all(a == b for a, b in called)


def _spanned(first: Item, last: Item) -> Item:
    """Return the first of several repetitions; settings that differ say from what to what."""
    if isinstance(first, Cluster):
        assert isinstance(last, Cluster)
        return replace(first, children=[_spanned(a, b) for a, b in zip(first.children, last.children)])
    assert isinstance(last, Box)
    return replace(first, rows=[a if a.settings == b.settings else replace(a, settings=f"{a.settings} … {b.settings}")
                                for a, b in zip(first.rows, last.rows)])
