"""Threads of torch in each worker."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def one_thread() -> None:
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
