"""Schedulers follow a growth: the rates that would have come, for each of torch's kinds."""
from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler
from torch.optim.swa_utils import SWALR

import fxgrow
from fxgrow.passes import Widen

S = lr_scheduler
KINDS = {
    "LambdaLR": lambda o: S.LambdaLR(o, [lambda k: 1 / (1 + k), lambda k: 0.9 ** k]),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda k: 0.9), "StepLR": lambda o: S.StepLR(o, 4),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [3, 9]), "ConstantLR": lambda o: S.ConstantLR(o, 0.1, 20),
    "LinearLR": lambda o: S.LinearLR(o, 0.1, total_iters=30), "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 40, 2), "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.001, 0.1, 3, mode="triangular2"),
    "CyclicLR by a function": lambda o: S.CyclicLR(o, 0.001, 0.1, 3, scale_fn=lambda k: 0.9 ** k, scale_mode="iterations"),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.1, total_steps=60),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, total_iters=5), S.CosineAnnealingLR(o, 30)], [5]),
    "ChainedScheduler": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.1, 9), S.ExponentialLR(o, 0.9)]),
    "SWALR": lambda o: SWALR(o, 0.5, 10)}


def test_all_of_torchs_are_here():
    torchs = {n for n, c in vars(S).items() if isinstance(c, type) and issubclass(c, S.LRScheduler)}
    assert torchs - {"LRScheduler", "_LRScheduler"} <= KINDS.keys()


def trained(make, before, kind=SGD):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 4)
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.02}]
    optimizer = kind(groups, **({"momentum": 0.9} if kind is SGD else {}))
    scheduler = make(optimizer)
    rates(optimizer, scheduler, before)
    grown = fxgrow.transform(model, x, Widen("0", by=2, seed=0))
    return grown, optimizer, scheduler, grown.step.migrate_optimizer(optimizer, grown.model, model)


def rates(optimizer, scheduler, steps):
    found = []
    for k in range(steps):
        found.append([(g["lr"], g.get("momentum", g.get("betas"))) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step(*([1.0 + k % 3] if isinstance(scheduler, S.ReduceLROnPlateau) else []))
    return found


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("before", [0, 7])
def test_the_rates_go_on(name, before):
    grown, optimizer, scheduler, after = trained(KINDS[name], before, Adam if before and "Cyc" in name else SGD)
    was = copy.deepcopy(scheduler.state_dict())
    follower = grown.record.migrate_scheduler(scheduler, after)
    assert type(follower) is type(scheduler) and follower.optimizer is after and scheduler.optimizer is optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of steps in the wrong order
        warnings.filterwarnings("ignore", "The epoch parameter")  # which SequentialLR itself gave before torch 2.9
        mine = rates(after, follower, 12)
    assert str(scheduler.state_dict()) == str(was)
    assert mine == rates(optimizer, scheduler, 12)


def test_what_cannot_follow_is_refused():
    grown, optimizer, scheduler, after = trained(KINDS["StepLR"], 3)
    for other in (optimizer, torch.optim.SGD(grown.model.parameters(), lr=0.7)):
        with pytest.raises(fxgrow.GrowthError, match="give what migrate_optimizer has returned"):
            grown.record.migrate_scheduler(scheduler, other)
    with pytest.raises(fxgrow.GrowthError, match="a str does not say"):
        grown.record.migrate_scheduler("cosine", after)
    scheduler.log = (line for line in ())
    with pytest.raises(fxgrow.GrowthError, match="cannot be copied"):
        grown.record.migrate_scheduler(scheduler, after)
