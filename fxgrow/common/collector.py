"""A pause of the cyclic garbage collector."""
from __future__ import annotations

import contextlib
import gc


@contextlib.contextmanager
def without_collector():
    """Graphs and expressions are many small objects: the cyclic garbage collector would walk them all again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
