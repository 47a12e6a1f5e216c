"""Batches whose order and augmentations follow from (seed, epoch) alone.

That holds whatever else draws random numbers, for any number of workers, and wherever in an epoch training goes on.
"""
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fxgrow.common import mixed, mixed_each
from fxgrow.experiments.data.registry import Examples


class Batches(Sampler):
    """Indices of `size` examples in batches, each `iter()` the next epoch; shuffled, in an order from (seed, epoch).

    share: a place among so many, each of which gets its part of every batch, of `batch_size` examples; where the last batch
    may be smaller, its part of all examples.
    """

    def __init__(self, size: int, batch_size: int, *, shuffle: bool, seed: int, drop_last: bool,
                 share: tuple[int, int] = (0, 1)):
        self.size, self.shuffle, self.seed, self.share, self.whole = size, shuffle, seed, share, batch_size
        self.drop_last, self.batch_size = drop_last, batch_size // share[1] if drop_last else batch_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Let the next `iter()` be this epoch, without its first `skip` batches."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        place, parts = self.share
        return self.size // self.whole if self.drop_last else -(-len(range(place, self.size, parts)) // self.batch_size)

    def next_epoch(self) -> tuple[int, Tensor]:
        """Return the number of the next epoch, and the indices that it is to go through in batches. int64 [n]."""
        epoch, skip, (place, parts) = self.epoch, self.skip, self.share
        self.set_epoch(epoch + 1)
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
        order = order[skip * self.whole:len(order) // self.whole * self.whole if self.drop_last else None]
        return epoch, order.view(-1, self.whole)[:, place::parts].flatten() if self.drop_last else order[place::parts]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.next_epoch()
        for i in range(0, len(order), self.batch_size):
            yield [(epoch, index) for index in order[i:i + self.batch_size].tolist()]


class _Keyed(Dataset):
    """An example's random augmentation drawn from (seed, epoch, index); torch's generator is left as it was."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]):
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list:
        """Return the examples of a batch; at once where the dataset can do so and draws nothing."""
        if not getattr(self.dataset, "random", True):
            indices = [index for _, index in keys]
            together = getattr(self.dataset, "__getitems__", None)
            return together(indices) if together else [self.dataset[index] for index in indices]
        state = torch.default_generator.get_state()  # several times faster than fork_rng and manual_seed
        try:
            return [self._drawn(*key) for key in keys]
        finally:
            torch.default_generator.set_state(state)

    def _drawn(self, epoch: int, index: int):
        torch.default_generator.manual_seed(mixed(self.seed, epoch, index))
        return self.dataset[index]


class Together:
    """Batches of a dataset that gives many examples at once, on a device; each `iter()` the next epoch."""

    def __init__(self, dataset: Examples, batch_sampler: Batches, device: torch.device):
        self.dataset, self.batch_sampler, self.device = dataset, batch_sampler, device

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, order = self.batch_sampler.next_epoch()
        size, rows = self.batch_sampler.batch_size, self.dataset.rows[order]
        drawn = self.dataset.draw(mixed_each(self.batch_sampler.seed, epoch, order.numpy().astype(np.uint64)))
        for i in range(0, len(order), size):
            yield self.dataset.take(rows[i:i + size], None if drawn is None else drawn[i:i + size], self.device)


def loader(dataset: Dataset, batch_size: int, *, shuffle: bool = False, seed: int = 0, workers: int = 0,
           drop_last: bool = False, device: torch.device | str = "cpu",
           share: tuple[int, int] = (0, 1)) -> DataLoader | Together:
    """Return an iterable of batches that follow from (seed, epoch).

    `loader.batch_sampler.set_epoch(epoch, skip)` goes to an epoch, behind its first `skip` batches; left alone, each
    `iter()` is the next epoch. An example is the same with any number of workers.

    Args:
        dataset: a map-style dataset of pairs; its attribute `random` (default: True) says whether an example is drawn
            anew each time, from torch's generator.
        workers: processes that prepare batches; 0: this one does. Data in memory are prepared by this one whatever is said:
            a batch at once, which takes less than handing it over.
        drop_last: leave out a last batch that is not full.
        device: where data in memory are kept and their batches made; other batches are on the CPU.
        share: this process's place among so many, each of which gets its part of every batch.
    """
    batches = Batches(len(dataset), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last,  # type: ignore[arg-type]
                      share=share)
    if getattr(dataset, "together", False):
        return Together(dataset, batches, torch.device(device))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(mixed(seed))
    return DataLoader(_Keyed(dataset, seed), batch_sampler=batches, num_workers=workers, generator=generator,
                      pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0)
