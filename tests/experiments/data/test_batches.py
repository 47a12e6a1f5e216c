"""Batches follow from (seed, epoch): with any number of workers, from any batch on, whatever else draws random numbers."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from fxgrow.common import mixed
from fxgrow.experiments.data import load_data, loader, mnist1d
from fxgrow.experiments.data.arrays import padded_crop


class Noisy(Dataset):
    """An example is drawn anew each time."""
    random = True

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return torch.rand(2), index


def epoch(batches) -> list[tuple[list, list]]:
    return [(x.tolist(), y.tolist()) for x, y in batches]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_batches_with_any_number_of_workers(workers):
    expected = loader(Noisy(), 5, shuffle=True, seed=3)
    found = loader(Noisy(), 5, shuffle=True, seed=3, workers=workers)
    torch.manual_seed(workers)  # the global generator plays no part
    for _ in range(2):
        assert epoch(found) == epoch(expected)


def test_epochs_differ_and_each_is_all_examples():
    batches = loader(Noisy(), 5, shuffle=True, seed=0)
    first, second = epoch(batches), epoch(batches)
    for each in (first, second):
        assert sorted(i for _, y in each for i in y) == list(range(23))
    assert [y for _, y in first] != [y for _, y in second]
    values = [dict(zip(sum((y for _, y in e), []), sum((x for x, _ in e), []))) for e in (first, second)]
    assert all(values[0][i] != values[1][i] for i in range(23))
    assert epoch(loader(Noisy(), 5, shuffle=True, seed=1)) != first


def test_taken_up_again_in_the_middle_of_an_epoch():
    whole = loader(Noisy(), 4, shuffle=True, seed=5)
    epochs = [epoch(whole) for _ in range(3)]
    again = loader(Noisy(), 4, shuffle=True, seed=5)
    again.batch_sampler.set_epoch(1, skip=2)
    assert epoch(again) == epochs[1][2:]
    assert epoch(again) == epochs[2]


def test_generators_of_the_process_are_left_alone():
    load_data("digits", limit=1)  # scikit-learn draws a number or two while it is imported
    mnist1d._generate.cache_clear()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = load_data("digits", augment=True, limit=40)
    epoch(loader(data.train, 8, shuffle=True, seed=0))
    load_data("mnist1d", limit=10)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]


@pytest.mark.parametrize("size, batch, drop, expected", [(23, 5, False, [5, 5, 5, 5, 3]), (23, 5, True, [5, 5, 5, 5]),
                                                         (4, 8, False, [4]), (4, 8, True, []), (0, 3, False, [])])
def test_sizes_of_batches(size, batch, drop, expected):
    batches = loader(TensorDataset(torch.zeros(size, 1), torch.arange(size)), batch, drop_last=drop)
    assert len(batches) == len(expected) and [len(y) for _, y in batches] == expected
    assert [i for _, y in batches for i in y.tolist()] == list(range(sum(expected)))


def test_mixed_seeds_have_nothing_in_common():
    seeds = [mixed(a, b, c) for a in range(8) for b in range(8) for c in range(8)]
    assert len(set(seeds)) == 512 and all(0 <= s < 2 ** 63 for s in seeds)
    bits = torch.tensor([[s >> i & 1 for i in range(63)] for s in seeds]).float().mean(0)
    assert float((bits - 0.5).abs().max()) < 0.1
    assert mixed(1) != mixed(0, 1) != mixed(1, 0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 24), (2, 40)])
def test_a_crop_is_a_shifted_image(shape):
    x = torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        out = padded_crop(shape)(x)
        assert out.shape == x.shape
        kept = out != 0
        offset = (out - x)[kept]
        assert float(offset.max() - offset.min()) == 0  # one shift for all positions that are left
        assert kept.float().mean() >= 0.75
        seen.add(float(offset[0]))
    assert 0.0 in seen and len(seen) > 2
    rising = [float(padded_crop(shape, flip=True)(x).flatten()[-2:].diff()) for _ in range(100)]
    assert any(step == 1 for step in rising) and any(step == -1 for step in rising)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", ["digits", "mnist1d", "npz"])
def test_a_batch_read_at_once_is_bit_by_bit_its_examples_read_one_by_one(name, augment, tmp_path):
    if name == "npz":
        numbers = np.random.default_rng(0)
        name = str(tmp_path / "a.npz")
        np.savez(name, images=numbers.integers(0, 256, (60, 3, 9, 7), dtype=np.uint8), labels=np.arange(60) % 3)
    train = load_data(name, augment=augment, limit=30, seed=4).train
    found = loader(train, 8, shuffle=True, seed=7)
    for at in range(2):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(mixed(7, at))).tolist()
        for i, (x, y) in enumerate(found):
            assert x.dtype == torch.float32 and y.dtype == torch.int64
            for index, image, label in zip(order[8 * i:], x, y):
                with torch.random.fork_rng():
                    torch.manual_seed(mixed(7, at, index))
                    alone, one = train[index]
                assert torch.equal(image, alone) and label == one


class Paired(TensorDataset):
    """A dataset that gives many examples at once counts how often it is asked."""
    random, asked = False, 0

    def __getitems__(self, indices):
        self.asked += 1
        return [self[i] for i in indices]


def test_a_dataset_of_ones_own_may_give_a_batch_at_once():
    data = Paired(torch.arange(10.0)[:, None], torch.arange(10))
    assert [y.tolist() for _, y in loader(data, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and data.asked == 3
