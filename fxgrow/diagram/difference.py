"""`diff`: two models compared, to print and to draw."""
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fxgrow.common import atomic_write
from fxgrow.compare import Changes, find_changes, mark
from fxgrow.diagram.build import build, kinds_of
from fxgrow.diagram.changes import ChangesPicture
from fxgrow.diagram.choice import chosen
from fxgrow.diagram.dot import rendered
from fxgrow.diagram.drawing import format_of
from fxgrow.diagram.html import diagram_page
from fxgrow.record import Grown


@dataclass
class Difference(Changes):
    """Result of `diff`: print it, `draw` it, or read `layers`."""

    def draw(self, path: str | os.PathLike, *, depth: int | None = None, collapse: str | Sequence[str] = (),
             repeats: bool | None = None, columns: int | None = None) -> Path:
        """Draw the new model: untouched layers grey, grown ones with a bar whose hatched part is new, inserted ones framed.

        Arguments and errors as for `fxgrow.draw`.
        """
        target = Path(path)
        kind = format_of(target)
        if kind == "html":
            content = diagram_page(self.after, self.graph, self, depth=depth, repeats=repeats, collapse=collapse)
        else:
            content = rendered(self.picture(depth=depth, collapse=collapse, repeats=repeats, columns=columns).graph, kind)
        with atomic_write(target) as file:
            file.write(content)
        return target

    def picture(self, *, depth: int | None = None, collapse: str | Sequence[str] = (), repeats: bool | None = None,
                columns: int | None = None) -> ChangesPicture:
        """Return the picture that `draw` writes; `.graph` is a `graphviz.Digraph`."""
        diagram = chosen(build(self.graph, kinds_of(self.after)), depth, collapse, repeats,
                         lambda node: mark(self.nodes[node.name]))
        return ChangesPicture(self, diagram, columns)


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
