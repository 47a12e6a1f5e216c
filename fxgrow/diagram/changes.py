"""`diff`: two models compared, to print and to draw: untouched layers grey, new numbers hatched, inserted layers framed."""
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fxgrow.common import atomic_write
from fxgrow.compare import Change, Changes, find_changes, mark, summed
from fxgrow.diagram.build import build, kinds_of
from fxgrow.diagram.dot import FRAME, PALE, Picture, behind, rendered, small, text
from fxgrow.diagram.drawing import format_of
from fxgrow.diagram.html import diagram_page
from fxgrow.diagram.look import FONT, SCREEN, Look
from fxgrow.diagram.parts import Box, Cluster, Diagram, below
from fxgrow.diagram.repeats import chosen
from fxgrow.record import Grown

GREY, GROWN, NEW, OLD = "#EDEDED", "#FFFFFF", "#0072B2", "#BBBBBB"  # the blue is Okabe and Ito's
CELLS = 20  # in a bar


class ChangesPicture(Picture):
    """Diagram of the new model, its boxes marked by what changed."""

    def __init__(self, difference: Changes, diagram: Diagram, columns: int | None, look: Look):
        self.difference = difference
        super().__init__(difference.graph, diagram, columns, look=look)

    def changes(self, box: Box) -> list[Change]:
        """Return what became of the operations of a box."""
        return [self.difference.nodes[node.name] for node in self.diagram.all_nodes(box)]

    def frame(self, item: Box | Cluster) -> str:
        """Return the colour of a frame: another one around what was inserted as a whole."""
        boxes = [item] if isinstance(item, Box) else list(item.boxes())
        return NEW if all(c.status == "inserted" for b in boxes for c in self.changes(b)) else super().frame(item)

    def _row(self, box: Box, i: int, path: str) -> str:
        row = box.rows[i]
        change = summed([self.difference.nodes[node.name] for node in row.nodes])
        status = change.status
        ink = PALE if status == "same" else "black"
        name = below(row.name, path) if row.nodes[0].op == "call_module" else ""
        words = f"{text(row.title)} {text(row.settings)}"
        words = f'<font color="{ink}">{f"<b>{words}</b>" if status != "same" else words}</font>{small(name, ink)}'
        if status in ("grown", "shrunk") and change.before != change.after:
            words += f"<br/>{small(f'was {change.before}')}"
        words += small("shrunk") if status == "shrunk" else ""
        words += self.times(box) if i == 0 else ""
        borders = {"inserted": f'border="2" color="{NEW}"', "shrunk": f'border="2" style="dashed" color="{FRAME}"'}
        fill = GREY if status == "same" else GROWN
        cell = f'<tr><td colspan="9" {borders.get(status, "")} bgcolor="{fill}">{words}</td></tr>'
        return cell + (bar(change.new, change.parameters[1]) if status == "grown" else "")  # all of an inserted one is new

    def _folded_rows(self, box: Box, path: str) -> list[str]:
        changes = self.changes(box)
        total = summed(changes)
        same, (old, size) = total.status == "same", total.parameters
        head = f"<b>{text(below(box.path, path))}</b>{behind(box.kind)}{self.times(box)}<br/>"
        counts = Counter(c.status for c in changes)
        words = "untouched" if same else ", ".join(f"{counts[s]} {s}" for s in ("grown", "shrunk", "inserted") if counts[s])
        words += f"; {old:,} ⇒ {size:,} parameters" if not same and old != size else ""
        return [f'<tr><td colspan="9" bgcolor="{GREY if same else GROWN}">{head}{small(words)}</td></tr>',
                "" if same else bar(total.new, size)]

    def legend(self) -> str:
        """Return the meaning of the colours, and the sums."""
        total, gone = self.difference.total, len([c for c in self.difference.layers if c.status == "removed"])
        words = (f"parameters {total.parameters[0]:,} ⇒ {total.parameters[1]:,}, {total.new:,} new; "
                 f"FLOPs {total.flops[0]:,} ⇒ {total.flops[1]:,}" + (f"; {gone} layers removed" if gone else ""))
        cells = (f'<td border="1" bgcolor="{GREY}">untouched</td><td border="1">grown</td>'
                 f'<td bgcolor="{OLD}">old numbers</td>'
                 f'<td bgcolor="{NEW}"><font color="white">//// new numbers ////</font></td>'
                 f'<td border="2" color="{NEW}">inserted</td>'
                f'<td border="2" style="dashed" color="{FRAME}">shrunk</td>')
        return (f'<table border="0" cellborder="0" cellspacing="2" cellpadding="3"><tr>{cells}</tr>'
                f'<tr><td colspan="6">{words}</td></tr></table>')


def bar(new: int, size: int) -> str:
    """Return a row with a bar: as much of it hatched as there are new numbers among all."""
    if not new:
        return ""
    count = min(max(round(CELLS * new / size), 1), CELLS)
    cells = [f'<td bgcolor="{OLD}"><font point-size="6"> </font></td>'] * (CELLS - count)
    cells += [f'<td bgcolor="{NEW}"><font point-size="6" color="white">/</font></td>'] * count
    share = small(f"{new / size:.0%} new" if new / size >= 0.01 else "less than 1% new")
    return (f'<tr><td colspan="9"><table border="0" cellborder="0" cellspacing="0" cellpadding="1"><tr>{"".join(cells)}</tr>'
            f'</table></td></tr><tr><td colspan="9" cellpadding="0">{share.strip()}</td></tr>')


@dataclass
class Difference(Changes):
    """Result of `diff`: print it, `draw` it, or read `layers`."""

    def draw(self, path: str | os.PathLike, *, depth: int | None = None, collapse: str | Sequence[str] = (),
             repeats: bool | None = None, columns: int | None = None, direction: str = "down", font_size: float = FONT,
             legend: bool = True, style: str = "screen") -> Path:
        """Draw the new model: untouched layers grey, grown ones with a bar whose hatched part is new, inserted ones framed.

        Arguments and errors as for `fxgrow.draw`.
        """
        target = Path(path)
        kind = format_of(target)
        if kind == "html":
            content = diagram_page(self.after, self.graph, self, depth=depth, repeats=repeats, collapse=collapse)
        else:
            content = rendered(self.picture(depth=depth, collapse=collapse, repeats=repeats, columns=columns,
                                            look=Look(direction, font_size, legend, style)), kind)
        with atomic_write(target) as file:
            file.write(content)
        return target

    def picture(self, *, depth: int | None = None, collapse: str | Sequence[str] = (), repeats: bool | None = None,
                columns: int | None = None, look: Look = SCREEN) -> ChangesPicture:
        """Return the picture that `draw` writes; `.graph` is a `graphviz.Digraph`."""
        diagram = chosen(build(self.graph, kinds_of(self.after)), depth, collapse, repeats,
                         lambda node: mark(self.nodes[node.name]), look.most)
        return ChangesPicture(self, diagram, columns, look)


def diff(before: nn.Module | Grown, after: nn.Module | Grown | None = None, example_inputs=None) -> Difference:
    """Compare two models, layer by layer.

    Args:
        before: the old model; or, without `after`, a grown one (also as loaded from a file): it is compared with the model
            that it grew from, whose structure its record holds.
        after: the new model.
        example_inputs: as for `capture`; not needed for what was captured, grown or loaded.

    Raises:
        GrowthError: there is no `after`, and `before` has not grown; or the record is not about this model.
        CaptureError: one of the models cannot be captured.
    """
    return Difference(**vars(find_changes(before, after, example_inputs)))
