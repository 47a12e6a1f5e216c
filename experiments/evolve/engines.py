"""Engines run the trainings of a search: here one after another, or in a pool of processes.

What lives here: what an engine is, and its choice by name. What does not: the one on a Ray cluster (ray_engine.py).
"""
import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from typing import Protocol

import torch

from fxgrow.experiments.evolve.worker import Task, TaskResult, run, threads
from fxgrow.experiments.settings import TrainError


class Engine(Protocol):
    """Run tasks, `workers` of them at a time."""
    @property
    def workers(self) -> int:
        """Return how many tasks run at a time, so that a search knows how many to submit."""

    def submit(self, task: Task) -> int:
        """Queue a task and return its token."""

    def wait(self) -> tuple[int, TaskResult]:
        """Block until one of the submitted tasks has ended; return its token and result."""

    def close(self) -> None:
        """Drop the tasks that have not ended."""


class Serial:
    """One task after another in this process, on one thread, so that sums equal those of the other engines."""
    workers = 1

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Task]] = []
        self.count = 0

    def submit(self, task: Task) -> int:
        """Queue a task and return its token."""
        self.count += 1
        self.waiting.append((self.count, task))
        return self.count

    def wait(self) -> tuple[int, TaskResult]:
        """Run the task that has waited longest."""
        token, task = self.waiting.pop(0)
        with threads(1):
            return token, run(task)

    def close(self) -> None:
        """Drop the tasks that wait."""
        self.waiting.clear()


class Processes:
    """A pool of processes with one thread each."""

    def __init__(self, workers: int):
        self.workers = workers
        spawn = multiprocessing.get_context("spawn")
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,))
        self.running: dict[concurrent.futures.Future, int] = {}
        self.count = 0

    def submit(self, task: Task) -> int:
        """Hand a task to the pool and return its token."""
        self.count += 1
        self.running[self.pool.submit(run, task)] = self.count
        return self.count

    def wait(self) -> tuple[int, TaskResult]:
        """Block until a task has ended; raise TrainError if a process of the pool has died."""
        done, _ = concurrent.futures.wait(self.running, return_when=concurrent.futures.FIRST_COMPLETED)
        first = min(done, key=lambda future: self.running[future])
        token = self.running.pop(first)
        try:
            return token, first.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise TrainError("a worker process ended, perhaps for want of memory: go on with --resume and fewer --workers; "
                             "what had been finished is kept") from error

    def close(self) -> None:
        """End the pool without waiting for what runs."""
        self.pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def engine(name: str, workers: int | None = None, address: str | None = None, gpus: float | None = None
           ) -> Iterator[Engine]:
    """Yield the engine of a name, closed at the end.

    Args:
        name: serial, processes or ray.
        workers: tasks at a time; None: as many as there are CPUs.
        address: of a running Ray cluster.
        gpus: ray: what each task takes of a GPU (0.25: four tasks share one); None: one where there are any. Without Ray,
            all tasks of this machine share its first GPU, as many as `workers` says.

    Raises:
        TrainError: there is no such engine, or it has no use for an argument.
    """
    running: Engine
    if gpus is not None and name != "ray":
        raise TrainError(f"gpus is for engine ray; with {name}, workers says how many tasks share the GPU")
    if name == "serial":
        running = Serial()
    elif name == "processes":
        running = Processes(workers or os.cpu_count() or 1)
    elif name == "ray":
        from fxgrow.experiments.evolve.ray_engine import Ray
        running = Ray(workers, address, gpus=gpus)
    else:
        raise TrainError(f"there is no engine {name!r}: choose serial, processes or ray")
    with contextlib.closing(running):
        yield running
