"""A sharded model in a loop: it grows as one in one piece does, with its optimizer, and goes on from a checkpoint."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from processes import on_two
from shards import FULL, X, shard
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

import fxgrow
from fxgrow.errors import GrowthError, TrainError

GROW = ["step=2 lr=ratio: widen where=0 by=3", "step=4: deepen where=0"]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def made(model: nn.Module, **given):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    return fxgrow.Grower(model, optimizer, GROW, X, **given), optimizer


def trained(grower: fxgrow.Grower, optimizer: torch.optim.Optimizer, rank: int, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2 * step + rank))
        loss = (grower.model(x) - x.flip(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        grower.step(step, loss)
    return losses


def sharded() -> dict:
    return {"model": shard(net()), "wrap": shard, "plain": net().to("meta")}


def work(rank: int) -> tuple:
    expected = trained(*made(DistributedDataParallel(net())), rank, 0, 7)
    grower, optimizer = made(**sharded())
    losses = trained(grower, optimizer, rank, 0, 5)
    saved = copy.deepcopy((grower.state_dict(), get_model_state_dict(grower.model, options=FULL),
                           get_optimizer_state_dict(grower.model, optimizer, options=FULL)))
    kinds = {type(p).__name__ for p in grower.model.parameters()}
    losses += trained(grower, optimizer, rank, 5, 7)
    again, optimizer = made(**sharded())
    model = again.load_state_dict(saved[0])
    set_model_state_dict(model, saved[1], options=FULL)
    set_optimizer_state_dict(model, optimizer, saved[2], options=FULL)
    return expected, losses, trained(again, optimizer, rank, 5, 7), kinds, refusals()


def refusals() -> list[str]:
    said = []
    for grow, other in (("step=1: widen by=2", {"plain": None}), ("step=1 freeze=2: widen by=2", {}),
                        ("step=1: widen by=2", {"plain": nn.Sequential(nn.Linear(4, 8))})):
        given = {**sharded(), **other}
        model = given.pop("model")
        try:
            fxgrow.Grower(model, torch.optim.SGD(model.parameters(), 0.1), grow, X, **given).step(0)
        except (GrowthError, TrainError) as error:
            said.append(str(error))
    model = shard(net())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(X).sum().backward()
    optimizer.step()
    held = {p: {key: id(t) for key, t in optimizer.state[p].items()} for p in model.parameters()}
    optimizer.state[next(iter(held))]["exp_avg"] = torch.zeros(3, dtype=torch.float64)  # which cannot follow
    held[next(iter(held))]["exp_avg"] = id(optimizer.state[next(iter(held))]["exp_avg"])
    try:
        fxgrow.Grower(model, optimizer, "step=1: widen by=2", X, wrap=shard, plain=net()).step(0)
    except GrowthError as error:
        said.append(str(error))
    assert optimizer.param_groups[0]["params"] == [*held]
    assert {p: {key: id(t) for key, t in state.items()} for p, state in optimizer.state.items()} == held
    return said


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_a_sharded_model_grows_as_a_whole_one_and_goes_on(tmp_path):
    for expected, losses, again, kinds, said in on_two(work, tmp_path, timeout=120):
        assert losses == pytest.approx(expected, rel=1e-9) and kinds == {"DTensor"}
        assert again == losses[5:]
        assert ["give plain=" in said[0], "leave out freeze" in said[1], "not the model as it was" in said[2],
                "optimizer=reset" in said[3]] == [True] * 4
