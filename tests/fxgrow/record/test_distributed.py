"""Freezing in several processes: all gradients are waited for there, and what comes out is the same in each."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxgrow
from fxgrow.passes import Widen


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def train(model, optimizer, rank, first):
    for step in range(first, first + 3):
        x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        model.train()(x).square().sum().backward()
        optimizer.step()


def frozen_and_free(rank, wrapped_first):
    """Whether old numbers stayed and new ones learned while they were frozen, and all numbers after three steps more."""
    model, x = net(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("0", by=4, seed=0))
    before = copy.deepcopy(grown.model)
    outer = DistributedDataParallel(grown.model) if wrapped_first else grown.model
    with grown.record.freeze_old(outer):
        outer = outer if wrapped_first else DistributedDataParallel(outer)
        optimizer = torch.optim.SGD(outer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        train(outer, optimizer, rank, 0)
    kept = all(torch.equal(p, q) for p, q in zip(grown.record.shrink(outer).parameters(), model.parameters()))
    learned = not torch.equal(grown.model.get_submodule("0").weight, before.get_submodule("0").weight)
    train(outer, optimizer, rank, 3)
    return kept and learned, [p.detach().flatten().tolist() for p in outer.parameters()]


def run(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results.put((rank, [frozen_and_free(rank, first) for first in (True, False)]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_processes_freeze_and_go_on_alike(tmp_path):
    context = mp.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=run, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    try:
        (_, one), (_, two) = sorted(results.get(timeout=240) for _ in workers)
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    assert all(right for right, _ in one + two)
    assert [numbers for _, numbers in one] == [numbers for _, numbers in two]
