"""Runs whose networks are stacked get the numbers that they get alone."""
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from training import clusters, perceptron, trainer

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import Diverged, Interrupted, Trainer, Watcher, fit_stacked

GROW = 2 * [["step=5 lr=ratio freeze=2: widen by=4"]] + [[]]  # the last takes its steps alone then


class Ask(Watcher):
    def stepped(self, trainer, loss):
        if trainer.step == 10:
            os.kill(os.getpid(), signal.SIGINT)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def three(folder: Path | None = None, **settings) -> list[Trainer]:
    return [trainer(*grow, model=network(seed), seed=seed, steps=14, eval_every=4, out=folder and folder / str(seed),
                    watchers=[Ask()] if folder and seed == 0 else [], weight_decay=0.01, **settings)
            for seed, grow in enumerate(GROW)]


@pytest.mark.parametrize("settings", [
    {"optimizer": "adamw", "lr": 0.01, "clip": 0.5}, pytest.param({"momentum": 0.9}, marks=pytest.mark.sweep)])
def test_the_numbers_of_runs_alone_growth_and_interruption_included(settings, tmp_path):
    alone = three(**settings)
    for run in alone:
        run.fit()
    with pytest.raises(Interrupted):
        fit_stacked(three(tmp_path, **settings))
    together = [Trainer.resume(tmp_path / str(seed), clusters()) for seed in range(3)]
    assert [run.step for run in together] == [11] * 3 and fit_stacked(together) == [None] * 3
    for a, b in zip(alone, together):
        assert (a.fired, a.flops, a.eval_flops) == (b.fired, b.flops, b.eval_flops)
        for (name, one), two in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-6), name
            assert two.untyped_storage().nbytes() == two.nbytes  # no part of a stack any more
        for one, two in zip(a.history.rows, b.history.rows, strict=True):
            assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4) and one["lr"] == two["lr"]


def test_equal_networks_take_one_step_together(monkeypatch):
    called = []
    monkeypatch.setattr("fxgrow.experiments.train.stacked.Stack.step", lambda self, batches: called.append(len(batches)) or [
        1.0] * len(batches))
    fit_stacked([trainer(model=network(seed), seed=seed, steps=3) for seed in range(3)])
    assert called == [3, 3, 3]


def test_one_that_diverges_leaves_the_others():
    class Spoil(Watcher):
        def stepped(self, trainer, loss):
            if trainer.config.seed == 1:
                trainer.model.get_parameter("3.bias").data.fill_(float("nan"))

    runs = [trainer(model=network(seed), seed=seed, steps=4, watchers=[Spoil()]) for seed in range(3)]
    first, lost, last = fit_stacked(runs)
    assert isinstance(lost, Diverged) and "at step 1 " in str(lost) and first is last is None
    assert [run.step for run in runs] == [4, 1, 4] and runs[2].model.get_parameter("3.bias").isfinite().all()


@pytest.mark.parametrize("settings, said", [
    ({"model": perceptron()}, "draws random numbers, dropout"), ({"compile": "eager"}, "a compiled network is one alone"),
    ({"channels_last": True}, "another form of memory")])
def test_what_cannot_be_stacked_is_refused(settings, said):
    runs = [trainer(steps=2, **{"model": network(0), **settings}) for _ in range(2)]
    with pytest.raises(TrainError, match=f"{said}.*stacked"):
        fit_stacked(runs)
    with pytest.raises(TrainError, match="differ in their seeds and growths alone, and here in lr"):
        fit_stacked([trainer(model=network(0), lr=lr) for lr in (0.1, 0.2)])
