"""Faults: an error that nobody foresaw becomes one of fxgrow's, which says what was being done and at which layer.

What does not live here: errors of the user's forward, of which a recording says where they were raised (fxgrow/tracing).
"""
import contextlib
import dis
import functools
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.fx import Node

from fxgrow.errors import FxgrowError
from fxgrow.graph.names import path_of

OF_PYTHON = f"{Path(os.__file__).parent}{os.sep}"
OF_TORCH, OF_US = f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}"
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


@functools.cache
def is_of_user(filename: str) -> bool:
    """Tell whether code in a file is neither torch's nor ours."""
    return not filename.startswith((OF_TORCH, OF_US, "<frozen", "<string>"))


@functools.cache
def is_of_python(filename: str) -> bool:
    """Tell whether code in a file is Python's own (`copy`, `statistics`)."""
    return filename.startswith(OF_PYTHON) and "site-packages" not in filename


def raised_on_purpose(error: BaseException) -> bool:
    """Tell whether an error comes from a `raise` or `assert` of the user's code; else something could not be run."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    code = place.tb_frame.f_code
    return is_of_user(code.co_filename) and code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _place(error: BaseException) -> str:
    """Return at which layer the code worked that raised an error: at that of the node which it had in its hands."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        held = frame.f_locals
        node = next((held[name] for name in ("node", "n", *held) if isinstance(held.get(name), Node)), None)
        if node is not None:
            path = path_of(node)
            return f" at {node.name}, in {path}," if path and path != node.name else f" at {node.name}"
    return ""
