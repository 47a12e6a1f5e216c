"""Running statistics measured anew: what they are, what is left alone, and what that is worth behind a growth."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training import clusters, plain, trainer

import fxgrow
from fxgrow.experiments.train import Watcher
from fxgrow.loops import measure_statistics


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4),
                         nn.BatchNorm1d(4, momentum=None)).double()


def inputs(count: int = 3) -> list[torch.Tensor]:
    return list(torch.randn(count, 32, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 1)


def test_statistics_are_means_over_batches_as_norms_see_them_without_dropout():
    model, batches, random = network(), inputs(), torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    assert measure_statistics(model.eval(), batches) == 3
    hidden = [model[0](x) for x in batches]
    first = model[1]
    seen = [model[4](nn.functional.batch_norm(h, None, None, first.weight, first.bias, True).relu()) for h in hidden]
    for norm, each in ((model[1], hidden), (model[5], seen)):
        torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in each]).mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in each]).mean(0), rtol=1e-9, atol=1e-12)
    assert model[1].momentum == 0.1 and model[5].momentum is None
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if "running" not in n)  # counts too
    assert not any(m.training for m in model.modules()) and torch.equal(torch.get_rng_state(), random)


def test_norms_kept_in_eval_mode_and_modes_stay_as_they_are():
    model = network().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    measure_statistics(model, inputs())
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"5.running_mean", "5.running_var"}
    assert [m.training for m in model] == [True, False, True, True, True, True]


def test_without_batches_or_norms_nothing_is_done():
    model = network()
    before = copy.deepcopy(model.state_dict())
    assert measure_statistics(model, []) == 0 and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert measure_statistics(nn.Linear(6, 2).double(), inputs()) == 0
    fixed = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)).double()
    assert measure_statistics(fixed, inputs()) == 0


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(),
                         nn.Linear(16, 3))


def grown_run(norm_statistics: str, *watchers):
    return trainer("step=20: widen factor=2 method=r2r", model=wide(), data=clusters(train=320, validation=60), steps=40,
                   batch_size=32, eval_every=5, lr=0.5, schedule="constant", watchers=watchers,
                   norm_statistics=norm_statistics)


def test_the_trainer_measures_behind_a_growth_only_and_trains_the_same():
    runs = {way: grown_run(way) for way in ("grown", "always", "never")}
    rows = {way: run.fit().rows for way, run in runs.items()}
    one, never = rows["grown"], rows["never"]
    assert [r["step"] for r in one] == [0, 5, 10, 15, 20, 20, 25, 30, 35, 40] == [r["step"] for r in never]
    assert plain(one[:6]) == plain(never[:6])                            # up to the growth, both sides of it
    assert [r["val_loss"] for r in one[6:]] != [r["val_loss"] for r in never[6:]]
    assert abs(rows["always"][4]["val_loss"] - rows["always"][5]["val_loss"]) < 1e-5  # exact at the growth still
    assert rows["always"][1]["val_loss"] != never[1]["val_loss"]
    for way in ("grown", "always"):
        assert [r["train_loss"] for r in rows[way]] == [r["train_loss"] for r in never]
        assert all(torch.equal(a, b) for a, b in zip(runs[way].model.parameters(), runs["never"].model.parameters()))
        assert runs[way].eval_flops > runs["never"].eval_flops and runs[way].flops == runs["never"].flops


class Truth(Watcher):
    """The validation loss in train mode at each evaluation: what the network itself is worth."""

    def __init__(self):
        self.losses = []

    def evaluated(self, trainer, row):
        model = copy.deepcopy(trainer.model).train()
        x, y = (torch.stack([torch.as_tensor(pair[i]) for pair in trainer.data.validation]) for i in (0, 1))
        self.losses.append(nn.functional.cross_entropy(model(x), y).item())


def test_what_is_evaluated_is_the_network_that_trains():
    truths = {way: Truth() for way in ("grown", "never")}
    far = {}
    for way, truth in truths.items():
        rows = grown_run(way, truth).fit().rows
        far[way] = max(abs(row["val_loss"] - loss) for row, loss in list(zip(rows, truth.losses))[6:])
    assert far["grown"] < 0.5 * far["never"]


def test_a_grower_measures_once_it_has_grown_and_not_right_behind_it():
    model, x = network().float(), torch.randn(32, 6) * 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grower = fxgrow.Grower(model, optimizer, "step=2: widen where=0 factor=2", x)

    def measured() -> bool:
        before = copy.deepcopy(model.state_dict())
        grower.measure_norms([x, x + 1])
        return not all(torch.equal(t, before[n]) for n, t in model.state_dict().items())

    for step in range(3):
        model.train()(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model = grower.step(step)
        assert measured() == (step == 2)
    with pytest.raises(fxgrow.CaptureError):
        grower.measure_norms([3])
