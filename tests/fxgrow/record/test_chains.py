"""Random chains of what a record is for: passes, optimizers, schedulers, wrappers, freezing, files, tying, averages."""
from __future__ import annotations

import copy
import random

import pytest
import torch
from optimizers import Lion
from random_nets import RandomNet, random_pass
from small_nets import train
from support import shake
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import AveragedModel

import fxgrow
from fxgrow import FxgrowError, GrowthError

OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.01), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.1),
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=True),
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True), lambda p: torch.optim.Adam(p, lr=0.001, amsgrad=True),
    lambda p: torch.optim.Adam(p, lr=torch.tensor(0.001), fused=True), lambda p: torch.optim.AdamW(p, lr=0.001),
    lambda p: torch.optim.NAdam(p, lr=0.001), lambda p: torch.optim.RAdam(p, lr=0.001),
    lambda p: torch.optim.Adamax(p, lr=0.001),
    lambda p: torch.optim.Adagrad(p, lr=0.01), lambda p: torch.optim.Adadelta(p), lambda p: torch.optim.ASGD(p, lr=0.01),
    lambda p: torch.optim.Rprop(p, lr=0.001), lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
    lambda p: Lion(p, lr=0.001)]
SCHEDULERS = [
    lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)), lambda o: schedules.MultiplicativeLR(o, lambda k: 0.9),
    lambda o: schedules.StepLR(o, 3), lambda o: schedules.MultiStepLR(o, [2, 5]), lambda o: schedules.ConstantLR(o, 0.1, 20),
    lambda o: schedules.LinearLR(o, 0.1, total_iters=30), lambda o: schedules.ExponentialLR(o, 0.9),
    lambda o: schedules.PolynomialLR(o, 40, 2), lambda o: schedules.CosineAnnealingLR(o, 9),
    lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    lambda o: schedules.OneCycleLR(o, 0.01, total_steps=60, cycle_momentum=False),
    lambda o: schedules.CyclicLR(o, 0.001, 0.01, 3, mode="exp_range", gamma=0.9, cycle_momentum=False),
    lambda o: schedules.ReduceLROnPlateau(o, patience=1),
    lambda o: schedules.ChainedScheduler([schedules.ConstantLR(o, 0.1, 3), schedules.ExponentialLR(o, 0.9)]),
    lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, 0.1, total_iters=4), schedules.StepLR(o, 3)], [4])]


class Task(nn.Module):
    """A network of somebody's own around ours, with a number of its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.gain = net, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.net(x) * self.gain


WRAPPERS = [lambda m: m, lambda m: m, nn.DataParallel, Task, lambda m: nn.Sequential(m, nn.Softplus()),
            lambda m: Task(nn.DataParallel(m))]


def follow(scheduler, value):
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        scheduler.step(value)
    else:
        scheduler.step()


def rates(optimizer, scheduler, steps):
    found = []
    for k in range(steps):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        follow(scheduler, 1.0 + k % 2)
    return found


def optimizer_over(rng, model, make):
    """One group, or two, of parameters with or without names."""
    named = [(n, p) for n, p in model.named_parameters()]
    if rng.random() < 0.3:
        return make(named)
    if rng.random() < 0.5:
        return make([p for _, p in named])
    flat, deep = ([p for _, p in named if (p.ndim < 2) == small] for small in (True, False))
    return make([{"params": deep, "weight_decay": 0.01}, {"params": flat}])


def numbers(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def grow(rng, model, x):
    """The model after one to three random passes, those that can be done."""
    gm = fxgrow.capture(model, x)
    for _ in range(20):
        steps = [random_pass(rng, gm, ("r2r", "netmorph")) for _ in range(rng.randint(1, 3))]
        try:
            return fxgrow.transform(model, x, steps)
        except FxgrowError:
            continue
    return fxgrow.transform(model, x, [])


@pytest.mark.parametrize("seed", range(4))
def test_a_chain(seed, tmp_path):
    chain(seed, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(0, 5000, 100))
def test_a_hundred_chains(start, tmp_path):
    for seed in range(start, start + 100):
        chain(seed, tmp_path)


def chain(seed, tmp_path):
    """Train, grow and train on, and ask of each step what a record promises."""
    rng = random.Random(seed)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    model = shake(RandomNet(seed).double(), seed).train()
    wrap, make, plan = rng.choice(WRAPPERS), rng.choice(OPTIMIZERS), rng.choice(SCHEDULERS)
    outer = wrap(model)
    optimizer = optimizer_over(rng, outer, make)
    scheduler = plan(optimizer)
    for k in range(rng.randint(1, 5)):
        train(outer, optimizer, x, 1, k)
        follow(scheduler, 1.0)
    for _ in range(rng.randint(1, 2)):
        was = numbers(model)
        grown = grow(rng, model, x)
        new = wrap(grown.model)
        if isinstance(outer, Task):
            new.gain = copy.deepcopy(outer.gain)
        follower = grown.step.migrate_optimizer(optimizer, new, outer)
        assert sum(len(g["params"]) for g in follower.param_groups) == len(list(new.parameters()))
        later = grown.step.migrate_scheduler(scheduler, follower)
        twins = [copy.deepcopy(pair) for pair in ((optimizer, scheduler), (follower, later))]
        assert rates(*twins[0], 5) == rates(*twins[1], 5)
        assert not plain(grown.step) or equal(numbers(grown.step.shrink(new)), was)
        check_step(grown, (outer, optimizer), (new, follower), x)
        check_freezing(rng, grown, new, follower, x, tmp_path)
        if not all(t.isfinite().all() for m in (outer, new) for t in m.state_dict().values()):
            return  # the training has diverged
        check_tying(model, grown, x)
        check_average(model, grown, x)
        model, outer, optimizer, scheduler = grown.model, new, follower, later


def plain(record):
    """Whether old numbers get the very gradients that they had."""
    return all(p.scale == 1.0 and not p.shift and p.shares == [None] * len(p.shares) for p in record.parameters.values())


def check_step(grown, small, big, x):
    """The next step is the small network's, where an optimizer blows no rounding up."""
    for model, optimizer in (small, big):
        train(model, optimizer, x, 1, 99)
    if isinstance(small[1], torch.optim.SGD) and plain(grown.step):
        now = grown.step.shrink(big[0]).state_dict()
        inner = grown.step.small_side().prefix_in(small[0])
        for name, number in small[0].state_dict().items():
            if name.startswith(inner):
                mine = now[name[len(inner):]]
                assert torch.allclose(mine, number.to(mine), rtol=1e-7, atol=1e-8), name
        if isinstance(small[0], Task):
            assert torch.allclose(small[0].gain, big[0].gain, rtol=1e-9)


def check_freezing(rng, grown, outer, optimizer, x, tmp_path):
    shape = AveragedModel(outer) if rng.random() < 0.2 else outer
    if not any(grown.step.new_mask(n, p).any() for n, p in grown.model.named_parameters()):
        return
    before = numbers(grown.step.shrink(shape))
    with grown.step.freeze_old(shape):
        train(shape, optimizer, x, 2, 7)
        fxgrow.save(grown.model, tmp_path / "frozen.pt")
        twins = [fxgrow.load(tmp_path / "frozen.pt"), copy.deepcopy(grown.model), grown.step.shrink(grown.model)]
    assert not plain(grown.step) or equal(numbers(grown.step.shrink(shape)), before)
    assert all(p.requires_grad for m in [grown.model, *twins] for p in m.parameters())
    assert equal(numbers(grown.record.shrink(twins[0])), numbers(grown.record.shrink(grown.model))) or shape is not outer


def check_tying(model, grown, x):
    outputs = [m.eval()(x) for m in (model, grown.model)]
    try:
        child = fxgrow.tie(grown.step.shrink(grown.model), grown.model, grown.step)
    except GrowthError:
        child = grown.model
    assert torch.allclose(child.eval()(x), outputs[1], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(m.eval()(x), y) for m, y in zip((model, grown.model), outputs))
    model.train(), grown.model.train()


def check_average(model, grown, x):
    """The old numbers moved into a network of the grown shape are still themselves."""
    moved = grown.step.migrate_tensors(model.state_dict(), like=grown.model)
    twin = copy.deepcopy(grown.model)
    twin.load_state_dict(moved, strict=False)
    small = grown.step.shrink(twin).state_dict()
    assert all(torch.allclose(small[n], t, rtol=1e-9, atol=1e-12) for n, t in model.state_dict().items())
