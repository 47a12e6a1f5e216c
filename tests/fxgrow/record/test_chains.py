"""Random chains of what a record is for: passes, optimizers, schedulers, wrappers, freezing, files, tying, averages."""
from __future__ import annotations

import copy
import functools
import random

import pytest
import torch
from optimizers import Lion
from random_nets import RandomNet, random_pass
from support import shake
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

import fxgrow
from fxgrow import FxgrowError, GrowthError
from fxgrow.passes import Widen
from fxgrow.record import record_in

OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.01), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.1),
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=True),
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True), lambda p: torch.optim.Adam(p, lr=0.001, amsgrad=True),
    lambda p: torch.optim.Adam(p, lr=torch.tensor(0.001), fused=True), lambda p: torch.optim.AdamW(p, lr=0.001),
    lambda p: torch.optim.NAdam(p, lr=0.001, foreach=True), lambda p: torch.optim.RAdam(p, lr=0.001, maximize=True),
    lambda p: torch.optim.Adamax(p, lr=0.001), lambda p: torch.optim.Adagrad(p, lr=0.01),
    lambda p: torch.optim.Adadelta(p), lambda p: torch.optim.ASGD(p, lr=0.01), lambda p: torch.optim.Rprop(p, lr=0.001),
    lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True), lambda p: Lion(p, lr=0.001),
    lambda p: torch.optim.LBFGS(p, lr=0.01, max_iter=3), lambda p: torch.optim.Adafactor(p, lr=0.001),
    lambda p: torch.optim.SparseAdam(p, lr=0.001), *[lambda p: torch.optim.Muon(p, lr=0.001)] * hasattr(torch.optim, "Muon")]
REFUSED = (torch.optim.LBFGS, torch.optim.Adafactor)  # where they keep what belongs to no single number


def cycled(optimizer):
    return not {"momentum", "betas"}.isdisjoint(optimizer.defaults) and optimizer.defaults.get("momentum") != 0


SCHEDULERS = [
    lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)), lambda o: schedules.MultiplicativeLR(o, lambda k: 0.9),
    lambda o: schedules.StepLR(o, 3), lambda o: schedules.MultiStepLR(o, [2, 5]), lambda o: schedules.ConstantLR(o, 0.1, 20),
    lambda o: schedules.LinearLR(o, 0.1, total_iters=30), lambda o: schedules.ExponentialLR(o, 0.9),
    lambda o: schedules.PolynomialLR(o, 40, 2), lambda o: schedules.CosineAnnealingLR(o, 9),
    lambda o: schedules.CosineAnnealingWarmRestarts(o, 4),
    lambda o: schedules.OneCycleLR(o, 0.01, total_steps=60, cycle_momentum=cycled(o)),
    lambda o: schedules.CyclicLR(o, 0.001, 0.01, 3, mode="exp_range", gamma=0.9, cycle_momentum=cycled(o)),
    lambda o: schedules.ReduceLROnPlateau(o, patience=1), lambda o: SWALR(o, 0.002, 3),
    lambda o: schedules.ChainedScheduler([schedules.ConstantLR(o, 0.1, 3), schedules.ExponentialLR(o, 0.9)]),
    lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, 0.1, total_iters=4), schedules.StepLR(o, 3)], [4])]


class Task(nn.Module):
    """A network of somebody's own around ours, with a number of its own."""

    def __init__(self, net):
        super().__init__()
        self.net, self.gain = net, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.net(x) * self.gain


class Words(nn.Module):
    """A table whose gradients are sparse."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.fc = nn.Embedding(9, 6, sparse=True), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, tokens):
        return self.fc(torch.tanh(self.mix(self.table(tokens)).mean(1)))


WRAPPERS = [lambda m: m, nn.DataParallel, Task, lambda m: nn.Sequential(m, nn.Softplus()),
            lambda m: Task(nn.DataParallel(m)), AveragedModel]


def test_all_of_torchs_are_here():
    optimizers = [make([nn.Parameter(torch.ones(2, 2))]) for make in OPTIMIZERS]
    theirs = {c for c in vars(torch.optim).values() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}
    assert theirs - {torch.optim.Optimizer} <= {type(o) for o in optimizers}
    made = {type(plan(optimizers[0])) for plan in SCHEDULERS}
    assert {getattr(schedules, name) for name in schedules.__all__} - {schedules.LRScheduler} <= made


@pytest.mark.thinned(12)
@pytest.mark.parametrize("seed", range(100))
def test_a_chain(seed, tmp_path):
    chain(seed, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(100, 5000, 100))
def test_a_hundred_chains(start, tmp_path):
    for seed in range(start, start + 100):
        chain(seed, tmp_path)


# --- A chain ----------------------------------------------------------------------------------------------------------


def chain(seed, tmp_path):
    """Train, grow and train on, and ask of each step what a record promises."""
    rng, make = random.Random(seed), OPTIMIZERS[seed % len(OPTIMIZERS)]
    plan, wrap = rng.choice(SCHEDULERS), rng.choice(WRAPPERS)
    if seed % 25 == 24:  # it takes a second
        torch.compiler.reset()
        wrap = functools.partial(torch.compile, backend="eager")
    first, gm, x = network(rng, seed, make)
    outer = wrap(first)
    model = inside(outer, first)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if rng.random() < 0.3 else None
    optimizer = optimizer_over(rng, outer, make)
    scheduler = plan(optimizer)
    for k in range(rng.randint(1, 5)):
        train(outer, optimizer, x, k)
        follow(scheduler, 1.0)
        if average:
            average.update_parameters(model)
    for _ in range(rng.randint(1, 2)):
        gm.load_state_dict(model.state_dict())
        grown = grow(rng, gm, x)
        new = wrap(grown.model)
        grown.model = inside(new, grown.model)
        if isinstance(outer, Task):
            new.gain = copy.deepcopy(outer.gain)
        average = average and check_average(grown, average, x)
        follower, later = migrated(grown, (outer, optimizer, scheduler), new, make, plan)
        assert not plain(grown.step) or equal(grown.step.shrink(new), model)
        check_step(grown, (outer, optimizer), (new, follower), x)
        if rng.random() < 0.5:
            check_freezing(rng, grown, new, follower, x, tmp_path)
        if not all(t.isfinite().all() for m in (outer, new) for t in m.state_dict().values()):
            return  # the training has diverged
        if rng.random() < 0.5:
            check_tying(model, grown, x)
        model, outer, optimizer, scheduler, gm = grown.model, new, follower, later, grown.model
        if rng.random() < 0.2 and not isinstance(follower, torch.optim.LBFGS):  # of which no copy steps
            model, outer, optimizer, scheduler = resumed(grown, new, (follower, later), wrap, tmp_path)
            gm = model
    back = grown.record.shrink(model)
    assert [(n, t.shape) for n, t in back.state_dict().items()] == [(n, t.shape) for n, t in first.state_dict().items()]


def network(rng, seed, make):
    """A network in train mode, the graph of it, and an input: of each five seeds the same, with other numbers."""
    sparse = is_sparse(make) or (rng.random() < 0.1 and make in OPTIMIZERS[:1])
    model, gm = copy.deepcopy(captured(-1 if sparse else seed // 5))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    shake(model, seed)
    return model.train(), gm.train(), torch.randint(9, (4, 5), generator=generator) if sparse else x


@functools.lru_cache(maxsize=2)
def captured(number):
    model = (Words() if number < 0 else RandomNet(number)).double()
    x = torch.zeros(4, 5, dtype=torch.long) if number < 0 else torch.randn(2, 3, 6, 6, dtype=torch.float64)
    return model, fxgrow.capture(model, x)


def is_sparse(make):
    return "SparseAdam" in make.__code__.co_names


def inside(outer, model):
    """The network that a wrapper trains, which for an average is a copy."""
    return outer.module if isinstance(outer, AveragedModel) else model


def optimizer_over(rng, model, make):
    """One group, or two, of parameters with or without names; of those that the optimizer takes."""
    takes = (lambda n, p: n.endswith("table.weight")) if is_sparse(make) else \
        (lambda n, p: p.ndim == 2) if "Muon" in make.__code__.co_names else lambda n, p: True
    named = [(n, p) for n, p in model.named_parameters() if takes(n, p)]
    if rng.random() < 0.3:
        return make(named)
    if rng.random() < 0.5 or "LBFGS" in make.__code__.co_names or any(n.endswith("table.weight") for n, _ in named):
        return make([p for _, p in named])
    flat, deep = ([p for _, p in named if (p.ndim < 2) == small] for small in (True, False))
    return make([{"params": deep, "weight_decay": 0.01}, {"params": flat}])


def train(model, optimizer, x, number):
    """One step towards random targets."""
    def loss():
        y = model(x)
        target = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(number))
        model.zero_grad()
        error = (y - target).square().sum()
        error.backward()
        return error

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(loss)
    else:
        loss()
        optimizer.step()


def follow(scheduler, value):
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        scheduler.step(value)
    else:
        scheduler.step()


def grow(rng, gm, x):
    """The model after one or two random passes, those that can be done."""
    for _ in range(20):
        steps = [Widen(rng.choice(["table", "mix"]), by=2, seed=0)] if x.ndim == 2 else [
            random_pass(rng, gm, ("r2r", "netmorph")) for _ in range(rng.randint(1, 2))]
        try:
            return fxgrow.transform(gm, x, steps)
        except FxgrowError:
            continue
    return fxgrow.transform(gm, x, [])


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def plain(record):
    """Whether old numbers get the very gradients that they had."""
    return all(p.scale == 1.0 and not p.shift and p.shares == [None] * len(p.shares) for p in record.parameters.values())


# --- What a record promises -------------------------------------------------------------------------------------------


def migrated(grown, small, new, make, plan):
    """The optimizer and the scheduler of the grown model; new ones, where the old one is refused."""
    outer, optimizer, scheduler = small
    try:
        follower = grown.step.migrate_optimizer(optimizer, new, outer)
    except GrowthError as why:
        assert isinstance(optimizer, REFUSED) and "start a new optimizer" in str(why), why
        follower = make(new.parameters())
        return follower, plan(follower)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    count = sum(len(g["params"]) for g in follower.param_groups)
    if len(held) == len(list(outer.parameters())):
        assert count == len(list(new.parameters()))
    else:
        theirs = {n for n, p in outer.named_parameters() if p in held}
        assert count >= len(theirs) and all(p.ndim == 2 for g in follower.param_groups for p in g["params"])
    later = grown.step.migrate_scheduler(scheduler, follower)
    if not isinstance(optimizer, torch.optim.LBFGS):
        twins = [copy.deepcopy(pair) for pair in ((optimizer, scheduler), (follower, later))]
        assert settings(*twins[0]) == settings(*twins[1])
    return follower, later


def settings(optimizer, scheduler):
    """What a scheduler sets in the next five steps."""
    found = []
    for k in range(5):
        found.append([(float(g["lr"]), g.get("momentum"), g.get("betas")) for g in optimizer.param_groups])
        optimizer.step()
        follow(scheduler, 1.0 + k % 2)
    return found


def check_step(grown, small, big, x):
    """The next step is the small network's, where an optimizer blows no rounding up."""
    for model, optimizer in (small, big):
        train(model, optimizer, x, 99)
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
    before = grown.step.shrink(shape)
    with grown.step.freeze_old(shape):
        for k in (7, 8):
            train(shape, optimizer, x, k)
        fxgrow.save(grown.model, tmp_path / "frozen.pt")
        twins = [fxgrow.load(tmp_path / "frozen.pt"), copy.deepcopy(grown.model), grown.step.shrink(grown.model)]
    assert not plain(grown.step) or equal(grown.step.shrink(shape), before)
    assert all(p.requires_grad for m in [grown.model, *twins] for p in m.parameters())
    assert equal(grown.record.shrink(twins[0]), grown.record.shrink(grown.model)) or shape is not outer


def check_tying(model, grown, x):
    outputs = [m.eval()(x) for m in (model, grown.model)]
    try:
        child = fxgrow.tie(grown.step.shrink(grown.model), grown.model, grown.step)
    except GrowthError:
        child = grown.model
    assert torch.allclose(child.eval()(x), outputs[1], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(m.eval()(x), y) for m, y in zip((model, grown.model), outputs))
    model.train(), grown.model.train()


def check_average(grown, average, x):
    """The average, grown: it computes what it has computed, and old numbers are still themselves."""
    moved = grown.step.migrate_tensors(average.module.state_dict(), like=grown.model)
    new = AveragedModel(grown.model, multi_avg_fn=average.multi_avg_fn)
    new.module.load_state_dict(moved)
    new.n_averaged.copy_(average.n_averaged)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(
        grown.step.shrink(new).state_dict().values(), average.module.state_dict().values()))
    if plain(grown.step):
        assert torch.allclose(new.eval()(x), average.eval()(x), rtol=1e-9, atol=1e-9)
    return new.train()


def resumed(grown, outer, state, wrap, tmp_path):
    """The grown model out of a file, and what has trained it over its numbers, as a training that is taken up again."""
    fxgrow.save(grown.model, tmp_path / "model.pt")
    model = fxgrow.load(tmp_path / "model.pt")
    assert record_in(model).to_json() == grown.record.to_json() and equal(model, grown.model)
    again = wrap(model)
    if isinstance(outer, Task):
        again.gain = copy.deepcopy(outer.gain)
    theirs = dict(again.named_parameters())
    return inside(again, model), again, *copy.deepcopy(state, {id(p): theirs[n] for n, p in outer.named_parameters()})
