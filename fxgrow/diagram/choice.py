"""Choice of what a picture shows: how deep, what is collapsed, which repetitions are one."""
from collections.abc import Callable, Sequence

from torch.fx import Node

from fxgrow.diagram.build import Diagram
from fxgrow.diagram.repeats import fold_repeats
from fxgrow.errors import DrawError

MOST = 60  # boxes in a picture, unless more are asked for


def chosen(diagram: Diagram, depth: int | None, collapse: str | Sequence[str], repeats: bool | None,
           mark: Callable[[Node], object] | None = None, most: int = MOST) -> Diagram:
    """Fold modules and draw repetitions once, as asked for or as the diagram's size wants it (`most` boxes).

    Repetitions have the same `mark` on every operation.
    """
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
