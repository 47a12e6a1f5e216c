"""The processes that train one network together, as torchrun starts them: what they tell each other.

What lives here: the group, of one process too, for which all of this is nothing. What does not: the sum of gradients, which
is DistributedDataParallel's.
"""
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.errors import FxgrowError
from fxgrow.experiments.settings import TrainError

T = TypeVar("T")


class Group:
    """The processes that there are: `rank` is this one's place among `size`."""

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)

    def around(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return what trains a model in all processes alike: DistributedDataParallel, or alone the model."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def gathered(self, value: T) -> list[T]:
        """Return what each process gives, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def means(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the means over the processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        dist.all_reduce(total)
        return (total / self.size).tolist()

    def by_first(self, work: Callable[[], T]) -> T:
        """Return what the first process makes, in all of them; the error that it raises is all of theirs."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        try:
            if self.rank == 0:
                told[0] = work()
        except FxgrowError as error:
            told[1] = str(error)
            raise
        finally:
            dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise TrainError(told[1])
        return told[0]

    def take_buffers(self, model: nn.Module) -> None:
        """Give a model the first process's buffers (running statistics), which each has moved by its own batches."""
        for buffer in model.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, src=0)


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun has started, if it has, until the end of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Group()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo")
    try:
        yield Group()
    finally:
        dist.destroy_process_group()


def cuda_of_process() -> torch.device:
    """Return the CUDA device of this process: of several on one machine each has its own.

    Raises:
        TrainError: there are fewer devices than processes.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return torch.device("cuda")
    number, there = int(os.environ.get("LOCAL_RANK", dist.get_rank())), torch.cuda.device_count()
    if number >= there:
        raise TrainError(f"process {number} of this machine has no CUDA device of its own, there are {there}: start as many "
                         "processes, or use device cpu")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
