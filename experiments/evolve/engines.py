"""The choice of an engine by its name."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from fxgrow.experiments.evolve.local_engine import Engine, Processes, Serial
from fxgrow.experiments.settings import TrainError


@contextlib.contextmanager
def engine(name: str, workers: int | None = None, address: str | None = None) -> Iterator[Engine]:
    """An engine by its name: serial, processes or ray. workers: tasks at a time; None: as many as there are CPUs.

    Raises:
        TrainError: there is no such engine, or its package is not installed.
    """
    made: Engine
    if name == "serial":
        made = Serial()
    elif name == "processes":
        made = Processes(workers or os.cpu_count() or 1)
    elif name == "ray":
        from fxgrow.experiments.evolve.ray_engine import Ray
        made = Ray(workers, address)
    else:
        raise TrainError(f"there is no engine {name!r}: choose serial, processes or ray")
    try:
        yield made
    finally:
        made.close()
