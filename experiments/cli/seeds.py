"""The same run from several seeds, side by side in processes, and what they come to together."""
from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def side_by_side(work: Callable[[dict[str, Any], int], dict[str, Any]], settings: Sequence[dict[str, Any]], jobs: int
                 ) -> Iterator[dict[str, Any]]:
    """Give what `work(settings, threads)` returns for each run as it is done, `jobs` at a time in processes of their own.

    Threads are shared out among them; with one job the runs follow each other in this process, whose threads stay.
    """
    if jobs == 1:
        yield from (work(one, 0) for one in settings)
        return
    pool = concurrent.futures.ProcessPoolExecutor(min(jobs, len(settings)), multiprocessing.get_context("spawn"))
    try:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        for future in concurrent.futures.as_completed([pool.submit(work, one, threads) for one in settings]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def summary(reports: Sequence[dict[str, Any]], part: str) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation (0 for one run) of each figure on a part of the data."""
    figures = {name: [r[part][name] for r in reports] for name in reports[0][part]} if reports else {}
    return {name: {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
            for name, values in figures.items() if None not in values}
