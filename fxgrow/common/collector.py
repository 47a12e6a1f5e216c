"""A pause of the cyclic garbage collector."""
import contextlib
import gc


@contextlib.contextmanager
def without_collector():
    """Pause the cyclic garbage collector, which would walk the many small objects of graphs again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
