"""Where tasks run: here, or in a pool of processes. (On a Ray cluster: ray_engine.py.)"""
from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from typing import Protocol

import torch

from fxgrow.experiments.config import TrainError
from fxgrow.experiments.evolve.worker import Outcome, Task, run


class Engine(Protocol):
    """Runs tasks. `submit` gives a token; `wait` blocks until one of those running has ended, and gives (token, outcome).

    workers: how many run at a time, so that a search knows how many to submit.
    """
    @property
    def workers(self) -> int: ...
    def submit(self, task: Task) -> int: ...
    def wait(self) -> tuple[int, Outcome]: ...
    def close(self) -> None: ...


class Serial:
    """One task after another, in this process, with one thread, so that sums are those of the other engines."""
    workers = 1

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Task]] = []
        self.count = 0

    def submit(self, task: Task) -> int:
        self.count += 1
        self.waiting.append((self.count, task))
        return self.count

    def wait(self) -> tuple[int, Outcome]:
        token, task = self.waiting.pop(0)
        with threads(1):
            return token, run(task)

    def close(self) -> None:
        self.waiting.clear()


class Processes:
    """A pool of processes, each with one thread."""

    def __init__(self, workers: int):
        self.workers = workers
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread)
        self.running: dict[concurrent.futures.Future, int] = {}
        self.count = 0

    def submit(self, task: Task) -> int:
        self.count += 1
        self.running[self.pool.submit(run, task)] = self.count
        return self.count

    def wait(self) -> tuple[int, Outcome]:
        done, _ = concurrent.futures.wait(self.running, return_when=concurrent.futures.FIRST_COMPLETED)
        first = min(done, key=lambda f: self.running[f])
        token = self.running.pop(first)
        try:
            return token, first.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise TrainError("a worker process ended, perhaps for want of memory: go on with --resume and fewer --workers; "
                             "what had been finished is kept") from error

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, then as many as before: their number decides how it sums up."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
