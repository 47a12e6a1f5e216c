"""Where tasks run: here, or in a pool of processes. (On a Ray cluster: ray_engine.py.)"""
from __future__ import annotations

import concurrent.futures
import multiprocessing
from typing import Protocol

from fxgrow.experiments.evolve.threads import one_thread, threads
from fxgrow.experiments.evolve.worker import Outcome, Task, run
from fxgrow.experiments.settings import TrainError


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
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), one_thread)
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
