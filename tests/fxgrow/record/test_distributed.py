"""Freezing in several processes: all gradients are waited for there, and what comes out is the same in each.

Models whose parameters are sharded over processes are refused."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from processes import on_two
from random_nets import RandomNet
from small_nets import train
from support import shake
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.passes import Widen


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def train_on_noise(model, optimizer, rank, first):
    for step in range(first, first + 3):
        x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * step + rank))
        train(model.train(), optimizer, x, 1)


def frozen_and_free(rank, wrapped_first):
    """Whether old numbers stayed and new ones learned while they were frozen, and all numbers after three steps more."""
    model, x = net(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("0", by=4, seed=0))
    before = copy.deepcopy(grown.model)
    outer = DistributedDataParallel(grown.model) if wrapped_first else grown.model
    with grown.record.freeze_old(outer):
        outer = outer if wrapped_first else DistributedDataParallel(outer)
        optimizer = torch.optim.SGD(outer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        train_on_noise(outer, optimizer, rank, 0)
    kept = all(torch.equal(p, q) for p, q in zip(grown.record.shrink(outer).parameters(), model.parameters()))
    learned = not torch.equal(grown.model.get_submodule("0").weight, before.get_submodule("0").weight)
    train_on_noise(outer, optimizer, rank, 3)
    return kept and learned, [p.detach().flatten().tolist() for p in outer.parameters()]


def grown_on(rank, seed):
    """A random network that grows in the middle of its training, old numbers frozen at first; all numbers behind it."""
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    model = shake(RandomNet(seed).double(), seed)
    outer = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.Adam(outer.parameters(), lr=0.001)
    train(outer, optimizer, x, 2)
    grown = fxgrow.transform(outer, x, Widen(by=2, seed=seed))
    new = DistributedDataParallel(grown.model, find_unused_parameters=True)
    follower = grown.step.migrate_optimizer(optimizer, new, outer)
    before = grown.step.shrink(new).state_dict()
    with grown.step.freeze_old(new):
        train(new, follower, x, 2)
        after = grown.step.shrink(new).state_dict()
    train(new, follower, x, 2)
    kept = all(torch.equal(after[n], t) for n, t in before.items())
    return kept, [p.detach().flatten().tolist() for p in new.parameters()]


def sharded(_):
    """What is said of a model whose parameters are in pieces."""
    model, x = net(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("0", by=4, seed=0))
    shards, said = fully_shard(net(), mesh=init_device_mesh("cpu", (2,))), []
    for ask in (lambda: fxgrow.transform(shards, x, Widen("0", by=4)), lambda: fxgrow.verify(shards, model, x),
                lambda: grown.step.migrate_tensors(shards.state_dict()), lambda: fxgrow.tie(shards, grown),
                lambda: fxgrow.save(shards, "nowhere", example_inputs=x), lambda: grown.step.freeze_old(shards)):
        try:
            ask()
        except FxgrowError as why:
            said.append("sharded over processes" in str(why))
    return said == [True] * 6, []


def work(rank):
    return [*(frozen_and_free(rank, first) for first in (True, False)), *(grown_on(rank, s) for s in range(3)),
            sharded(rank)]


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_processes_freeze_and_go_on_alike(tmp_path):
    one, two = on_two(work, tmp_path, timeout=240)
    assert all(right for right, _ in one + two)
    assert [numbers for _, numbers in one] == [numbers for _, numbers in two]
