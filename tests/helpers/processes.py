"""Two processes of one group, by gloo."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def on_two(work: Callable[[int], Any], folder: Path, timeout: float) -> tuple[Any, Any]:
    """Return what `work(rank)` gives in each of two processes, within so many seconds; the folder holds where they meet."""
    context = mp.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_run, args=(work, rank, folder / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    try:
        (_, one), (_, two) = sorted(results.get(timeout=timeout) for _ in workers)
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    return one, two


def _run(work: Callable[[int], Any], rank: int, store: Path, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put((rank, work(rank)))
    dist.barrier()
    dist.destroy_process_group()
