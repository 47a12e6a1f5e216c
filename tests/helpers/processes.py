"""Two processes of one group, by gloo."""
from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def on_two(work: Callable[[int], Any], folder: Path, timeout: float) -> tuple[Any, Any]:
    """Return what `work(rank)` gives in each of two processes, within so many seconds; None for one that was killed.

    The folder holds where they meet. Processes are forked from one that has run nothing: torch takes no gradients in a fork
    of a process in which its autograd has made threads.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "fxgrow", "fxgrow.loops", "fxgrow.passes"])
    results = context.Queue()
    workers = [context.Process(target=_run, args=(work, rank, folder / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found, missing, end = dict.fromkeys(range(2)), {0, 1}, time.monotonic() + timeout
    try:
        while missing:
            try:
                rank, value = results.get(timeout=1)
                found[rank] = value
                missing.remove(rank)
            except queue.Empty:
                missing -= {rank for rank in missing if not workers[rank].is_alive()}
                if time.monotonic() > end:
                    raise
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    return found[0], found[1]


def _run(work: Callable[[int], Any], rank: int, store: Path, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put((rank, work(rank)))
    dist.barrier()
    dist.destroy_process_group()
