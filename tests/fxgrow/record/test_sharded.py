"""Sharded models, as docs/record.md says: gathered, grown, sharded again; on two processes."""
from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from processes import on_two
from shards import FULL, X, shard
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fxgrow
from fxgrow.errors import CaptureError
from fxgrow.passes import Widen

GROWTH = Widen("0", by=4, seed=0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)).double()


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, torch.Tensor]:
    for step in range(2):
        x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2 * step + rank))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return get_model_state_dict(model, options=FULL)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-2)


def grown_and_sharded(rank: int) -> tuple[list[bool], list[float]]:
    """Whether the grown model is in pieces, computes the same and goes on from the optimizer's state; its numbers then."""
    sharded = shard(net())
    optimizer = adam(sharded)
    trained(sharded, optimizer, rank)
    expected = sharded(X)
    with pytest.raises(CaptureError, match=r"full_state_dict=True\).* gather its numbers"):
        fxgrow.transform(sharded, X, GROWTH)
    full = get_model_state_dict(sharded, options=FULL)
    plain = net()
    plain.load_state_dict(full)
    before = adam(plain)
    set_optimizer_state_dict(plain, before, get_optimizer_state_dict(sharded, optimizer, options=FULL), options=FULL)
    grown = fxgrow.transform(plain, X, GROWTH)
    state = get_optimizer_state_dict(grown.model, grown.step.migrate_optimizer(before, grown.model, plain), options=FULL)
    model = shard(grown.model)
    follower = adam(model)
    set_optimizer_state_dict(model, follower, state, options=FULL)
    parts = [type(p).__name__ for p in model.parameters()]
    right = [parts == ["DTensor"] * 6, torch.allclose(model(X), expected, rtol=1e-12, atol=1e-12)]
    after = trained(model, follower, rank)
    steps = {float(s["step"]) for s in follower.state.values()}
    return [*right, steps == {4.0}, on_meta(rank, full, expected)], [float(t.sum()) for t in after.values()]


def on_meta(rank: int, full: dict[str, torch.Tensor], expected: torch.Tensor) -> bool:
    """Whether a structure that grew without numbers, and got its pieces from the first process, computes the same."""
    with torch.device("meta"):
        empty = net()
    model = fxgrow.transform(empty, X.to("meta"), GROWTH).model
    numbers = {}
    if rank == 0:
        plain = net()
        plain.load_state_dict(full)
        numbers = fxgrow.transform(plain, X, GROWTH).model.state_dict()
    model = shard(model)
    model.to_empty(device="cpu")
    set_model_state_dict(model, numbers, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return torch.allclose(model(X), expected, rtol=1e-12, atol=1e-12)


def from_tensor_parallel(rank: int) -> tuple[list[bool], list[float]]:
    torch.manual_seed(1)  # equal in both processes
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    expected = model(X)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parts = parallelize_module(model, init_device_mesh("cpu", (2,)), plan)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    plain.load_state_dict(get_model_state_dict(parts, options=FULL))
    grown = parallelize_module(fxgrow.transform(plain, X, GROWTH).model, init_device_mesh("cpu", (2,)), plan)
    return [float((grown(X) - expected).detach().abs().max()) < 1e-12], []


def work(rank: int) -> list[tuple[list[bool], list[float]]]:
    torch.set_num_threads(1)
    return [grown_and_sharded(rank), from_tensor_parallel(rank)]


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_what_is_said_of_sharded_models_works(tmp_path):
    one, two = on_two(work, tmp_path, timeout=60)
    assert all(all(right) for right, _ in one + two), (one, two)
    assert [numbers for _, numbers in one] == [numbers for _, numbers in two]
