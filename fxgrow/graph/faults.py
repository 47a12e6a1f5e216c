"""Faults: an error that nobody foresaw becomes one of fxgrow's, which says what was being done and at which layer.

What does not live here: errors of the user's forward, of which a recording says where they were raised (fxgrow/tracing).
"""
import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch.fx import Node

from fxgrow.errors import FxgrowError
from fxgrow.graph.names import path_of

PASSED_ON = (FxgrowError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit, GeneratorExit)


@contextlib.contextmanager
def faults_told(kind: type[FxgrowError], what: str) -> Iterator[None]:
    """Turn an error that nobody foresaw into one of a kind; `what` begins its sentence.

    Raises:
        FxgrowError: of that kind, in place of any error that is none of fxgrow's.
    """
    try:
        yield
    except PASSED_ON:
        raise
    except BaseException as error:  # fxgrow's own signals are no `Exception`
        words = " ".join(str(error).split())[:300]
        raise kind(f"{what}{_place(error)} for a reason that fxgrow does not know: {type(error).__name__}: {words}. The "
                   "model is as it was; please report this with its code") from error


def _place(error: BaseException) -> str:
    """Return at which layer the code worked that raised an error: at that of the node which it had in its hands."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        held = frame.f_locals
        node = next((held[name] for name in ("node", "n", *held) if isinstance(held.get(name), Node)), None)
        if node is not None:
            path = path_of(node)
            return f" at {node.name}, in {path}," if path and path != node.name else f" at {node.name}"
    return ""
