"""Diagrams in the language of graphviz; long ones stand in several columns."""
from __future__ import annotations

import math
import re
import subprocess
from bisect import bisect_right
from collections.abc import Sequence
from html import escape

import graphviz
from torch.fx import GraphModule

from fxgrow.diagram.heat import VIRIDIS, WORDS, Heat
from fxgrow.diagram.look import COLOURS, SCREEN, Look
from fxgrow.diagram.parts import Box, Cluster, Diagram, Item, below, until
from fxgrow.diagram.titles import crossed, placed
from fxgrow.errors import DrawError

FRAME, PALE, INK = "#555555", "#666666", "#333333"
LONG = 70  # lines from which on there is more than one column
PATIENCE = 60  # seconds
SHAPE = 22  # lines of a column that is as high as it is wide: found by looking at pictures


def rendered(picture: Picture, kind: str) -> bytes:
    """Return the bytes of a picture; raise DrawError where Graphviz's program cannot make it, or not in time."""
    source = picture.look.scaled(picture.graph.source)
    if kind == "dot":
        return re.sub(r"labeljust=l\d+", "labeljust=l", source).encode()
    return _run(kind, placed(source, crossed(_run("json", placed(source)))) if picture.clusters else source)


def _run(kind: str, source: str) -> bytes:
    try:
        done = subprocess.run(["dot", f"-T{kind}"], input=source.encode(), capture_output=True, check=True, timeout=PATIENCE)
    except FileNotFoundError as error:
        raise DrawError(f"{kind} pictures are made by Graphviz's program `dot`, which is not installed: install graphviz "
                        "(apt install graphviz, brew install graphviz), or write a .dot file") from error
    except subprocess.TimeoutExpired as error:
        raise DrawError(f"Graphviz's program `dot` did not finish within {PATIENCE} s: write an .html page, which shows any "
                        "number of boxes, or draw fewer of them (depth, collapse, repeats)") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        raise DrawError(f"Graphviz's program `dot` could not draw it ({said[0]}): write a .dot file and draw fewer boxes") \
            from error
    return done.stdout


def text(name: str) -> str:
    """Return a name as the text of a label: no markup, no control characters."""
    return escape("".join(c if c.isprintable() else "?" for c in name))


def small(words: str, colour: str = PALE) -> str:
    """Return a name in small letters behind what it belongs to; nothing for no name (which Graphviz would refuse)."""
    return f' <font point-size="8" color="{colour}">{text(words)}</font>' if words else ""


def behind(kind: str, colour: str = PALE) -> str:
    """Return a class's name behind that of its module; nothing for no name."""
    return f' <font color="{colour}">{text(kind)}</font>' if kind else ""


def tooltip(words: str) -> str:
    """Return words as Graphviz takes them for a tooltip."""
    return graphviz.escape("".join(c if c.isprintable() or c == "\n" else "?" for c in words))


class Picture:
    """A diagram as a Graphviz graph."""

    def __init__(self, gm: GraphModule, diagram: Diagram, columns: int | None = None, heat: Heat | None = None,
                 look: Look = SCREEN):
        if columns is not None and columns < 1:
            raise DrawError(f"columns {columns}: say 1 or more")
        self.look = look
        self.gm, self.diagram, self.heat, self.clusters = gm, diagram, heat, 0
        self.edges, self.column = diagram.edges(), columns_of(diagram, look.columns(columns))
        self.graph = graphviz.Digraph("model", graph_attr={
            "fontname": "Helvetica", "fontsize": "11", "labelloc": "t", "ranksep": "0.25", "nodesep": "0.25",
            "bgcolor": "white", "style": "rounded", "color": "#BBBBBB", "fontcolor": PALE, "labeljust": "l",
            **look.attributes},
            node_attr={"shape": "plain", "fontname": "Helvetica", "fontsize": "10"},
            edge_attr={"fontname": "Helvetica", "fontsize": "8", "color": FRAME, "fontcolor": PALE, "arrowsize": "0.6"})
        self._fill(self.graph, diagram.root)
        self._connect()
        told = f"<tr><td>{self.legend()}</td></tr>" if look.legend else ""
        told += f"<tr><td>{text(diagram.note)}</td></tr>" if diagram.note else ""
        self.graph.attr(label=f'<<table border="0" cellborder="0" cellspacing="0">{told}</table>>' if told else "")

    def _connect(self) -> None:
        """Draw edges; those from one column to another are grey and do not push what they lead to down."""
        column = self.column
        for edge in self.edges:
            across = column[edge.tail.key] != column[edge.head.key]
            self.graph.edge(edge.tail.key, edge.head.key, label=graphviz.escape(edge.shape),
                            tooltip=tooltip(edge.shape or edge.tail.shape),
                            **({"constraint": "false", "color": "#999999"} if across else {}))
        first = {c: key for key, c in reversed(column.items())}
        if len(first) > 1:
            self.graph.attr(newrank="true")
            with self.graph.subgraph(graph_attr={"rank": "same"}) as top:
                for c in range(1, len(first)):
                    top.edge(first[c - 1], first[c], style="invis", weight="0")

    def _fill(self, graph: graphviz.Digraph, cluster: Cluster) -> None:
        for child in cluster.children:
            if isinstance(child, Box):
                graph.node(child.key, label=self.label(child, cluster.path), tooltip=tooltip(self.hover(child)),
                           id=child.key)
            else:
                self.clusters += 1
                with graph.subgraph(name=f"cluster{self.clusters}") as inner:
                    heading = ("" if child.group else text(child.path)) + behind(child.kind) + self.times(child)
                    inner.attr(label=f"<{heading}>", labeljust=f"l{self.clusters}", tooltip=tooltip(child.path),
                               color=self.frame(child))
                    self._fill(inner, child)

    def times(self, item: Item) -> str:
        """Return how often something is repeated, and to which place or in which way."""
        if item.times == 1:
            return ""
        return f" <b>× {item.times}</b>{',' if item.how else ''}{small(until(item))}"

    def label(self, box: Box, path: str) -> str:
        """Return the label of a box in the module `path`."""
        rows = self._folded_rows(box, path) if box.folded else [self._row(box, i, path) for i in range(len(box.rows))]
        share = 0.0 if self.heat is None else self.heat.shares[box.key]
        facts = ["" if box.rows[0].title == "output" else box.shape, f"{share:.1%}" if share else ""]
        if any(facts):
            rows.append(f'<tr><td colspan="9">{small(", ".join(filter(None, facts))).strip()}</td></tr>')
        width = 2 if box.folded else 1
        return (f'<<table border="{width}" color="{self.frame(box)}" cellborder="0" cellspacing="0" cellpadding="3" '
                f'bgcolor="white">{"".join(rows)}</table>>')

    def _row(self, box: Box, i: int, path: str) -> str:
        row = box.rows[i]
        words = f"<b>{text(row.title)}</b> {text(row.settings)}" if i == 0 else f"{text(row.title)} {text(row.settings)}"
        if i == 0 or row.nodes[0].op == "call_module":
            words += small(below(row.name, path), self.pale(box))
        if i == 0:
            words += self.times(box)
        words += "".join(f"<br/>{small(line, self.pale(box))}" for line in row.lines(path, box.times))
        return self._cell(box, row.family, words)

    def _folded_rows(self, box: Box, path: str) -> list[str]:
        head = f"<b>{text(below(box.path, path))}</b>{behind(box.kind, self.pale(box))}{self.times(box)}"
        top = self._cell(box, "", head)
        if self.heat is not None:
            return [top]
        cells = "".join(f'<td bgcolor="{self.look.colours[f]}"><font point-size="8">{n}</font></td>'
                        for f, n in ((f, box.families[f]) for f in COLOURS) if n and f != "in and out")
        return [top, f"<tr>{cells}</tr>"]

    def frame(self, item: Item) -> str:
        """Return the colour of a frame."""
        return FRAME if isinstance(item, Box) else "#BBBBBB"

    def _cell(self, box: Box, family: str, words: str) -> str:
        """Return a row of a box in the colour of its family, or of its cost, with letters that stand out on it."""
        if self.heat is None:
            return f'<tr><td colspan="9" bgcolor="{self.look.colours.get(family, "#EFEFEF")}">{words}</td></tr>'
        return (f'<tr><td colspan="9" bgcolor="{self.heat.colour(box)}"><font color="{self.heat.ink(box)}">{words}</font>'
                "</td></tr>")

    def pale(self, box: Box) -> str:
        """Return the colour of what is less important in a box."""
        return self.heat.ink(box) if self.heat is not None else INK

    def hover(self, box: Box) -> str:
        """Return everything about a box, in full."""
        lines = [f"{box.path} {box.kind}".strip()] if box.folded else [
            " ".join(filter(None, (r.name, r.title, r.settings))) for r in box.rows]
        lines += [f"× {box.times}, {until(box)}"] if box.times > 1 else []
        lines += [f"{self.heat.shares[box.key]:.1%} of {WORDS[self.heat.what]}"] if self.heat is not None else []
        return "\n".join([*lines, box.shape])

    def legend(self) -> str:
        """Return the meaning of the colours."""
        if self.heat is not None:
            cells = "".join(f'<td bgcolor="{c}" width="16" height="10"></td>' for c in VIRIDIS)
            cells = f"<td>share of {WORDS[self.heat.what]}: 0</td>{cells}<td>{self.heat.top:.1%}</td>"
        else:
            used = {row.family for box in self.diagram.root.boxes() for row in box.rows} - {"in and out"}
            colours = self.look.colours
            cells = "".join(f'<td border="1" bgcolor="{colours[f]}">{f}</td>' for f in COLOURS if f in used) or "<td></td>"
        return f'<table border="0" cellborder="0" cellspacing="2" cellpadding="3"><tr>{cells}</tr></table>'


def columns_of(diagram: Diagram, count: int | None) -> dict[str, int]:
    """Return the column of each box, by its key; None: so many that a picture is about as wide as it is high."""
    boxes = list(diagram.root.boxes())
    length = sum(map(_lines, boxes))
    if count is None:
        count = round(math.sqrt(length / SHAPE)) if length > LONG else 1
    parts = _parts(diagram.root, length / count)
    sizes = [sum(_lines(b) for b in part) for part in parts]
    limit = max(sizes, default=1)
    while len(_filled(sizes, limit)) > count:
        limit += 1
    starts = _filled(sizes, limit)
    return {box.key: bisect_right(starts, i) - 1 for i, part in enumerate(parts) for box in part}


def _lines(box: Box) -> int:
    """Estimate how high a box is, with the space below it."""
    return (3 if box.folded else len(box.rows) + 1) + 1


def _parts(item: Item, most: float) -> list[list[Box]]:
    """Return what stays together: modules of at most so many lines."""
    if isinstance(item, Box):
        return [[item]]
    boxes = list(item.boxes())
    if item.times > 1 or (item.path and sum(map(_lines, boxes)) <= most):
        return [boxes]
    return [part for child in item.children for part in _parts(child, most)]


def _filled(sizes: Sequence[int], limit: int) -> list[int]:
    """Return where columns start if none is longer than `limit`."""
    starts, length = [0], 0
    for i, size in enumerate(sizes):
        if length and length + size > limit:
            starts.append(i)
            length = 0
        length += size
    return starts
