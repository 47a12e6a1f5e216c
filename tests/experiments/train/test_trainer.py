"""The loop: what it learns, what it counts, what growth changes and what it does not."""
from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn
from training import Tied, clusters, perceptron, plain, trainer

import fxgrow
from fxgrow.errors import GrowthError
from fxgrow.experiments.data import load_data
from fxgrow.experiments.settings import TrainError, read_toml
from fxgrow.experiments.train import TrainConfig, Trainer, Watcher, runnable
from fxgrow.zoo import create_model


class Numbers(Watcher):
    """Keeps rates, gradient norms and chosen parameters of each step."""

    def __init__(self, *names):
        self.names, self.lrs, self.norms, self.kept = names, [], [], []

    def stepped(self, trainer, loss):
        self.lrs.append(trainer.optimizer.param_groups[0]["lr"])
        grads = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()))
        self.kept.append([trainer.model.get_parameter(n).detach().clone() for n in self.names])


# --- learning ----------------------------------------


@pytest.mark.parametrize("spec, settings", [
    ("mlp", {"hidden": (32,), "input_shape": (1, 8, 8)}),
    ("cifar_resnet10", {"in_channels": 1, "size": 8, "r": 2 ** -3})])
def test_digits_with_growth(spec, settings):
    torch.manual_seed(0)
    data = load_data("digits")
    config = TrainConfig(epochs=5, lr=0.1, batch_size=64, grow=["epoch=2: widen factor=2 method=r2r"])
    run = Trainer(create_model(spec, num_classes=10, **settings), data, config)
    planned = run.plan()
    rows = run.fit().rows
    assert [r["step"] for r in rows] == [0, 20, 40, 40, 60, 80, 100]
    assert rows[-1]["train_loss"] < 0.5 * rows[1]["train_loss"] and rows[-1]["val_loss"] < 0.5
    assert run.evaluate(data.test)[1] > 0.9
    before, after = rows[2:4]
    assert abs(before["val_loss"] - after["val_loss"]) < 1e-5 and before["parameters"] < after["parameters"]
    assert before["val_accuracy"] == after["val_accuracy"] and before["flops"] == after["flops"]
    assert planned.flops == run.flops == rows[-1]["flops"]


def test_the_model_given_is_left_alone_and_the_result_is_a_module_of_its_own():
    model = perceptron()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    run = trainer("step=5: widen by=2", model=model, steps=10)
    run.fit()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not run.model.training and run.model(torch.zeros(2, 6)).shape == (2, 3)
    assert fxgrow.transform(run.model, torch.zeros(2, 6), []).record.lineage[0]["pass"] == "widen"


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    one, two, other = (trainer("step=5: widen by=2", seed=s) for s in (1, 1, 2))
    for run in (one, two, other):
        run.fit()
    assert plain(one.history.rows) == plain(two.history.rows) != plain(other.history.rows)


# --- counting ----------------------------------------


def test_flops_by_hand():
    """Linear 6 -> 8 -> 3, then 6 -> 12 -> 3: a multiply-add is two; backward is twice forward but for the first input."""
    def step(width, batch=4):
        return batch * (2 * 6 * width * 2 + 2 * width * 3 * 3)

    run = trainer("step=7: widen by=4", steps=12)
    rows = run.fit().rows
    assert run.flops == 7 * step(8) + 5 * step(12)
    assert [r["flops"] for r in rows] == [0, 7 * step(8), 7 * step(8), 7 * step(8) + 3 * step(12), run.flops]
    assert run.history.growths[0]["flops_per_step"] == (step(8), step(12))
    evaluation = [12 * (2 * 6 * w + 2 * w * 3) for w in (8, 12)]
    measured = 8 * 4 * evaluation[1] // 12  # running statistics, on 8 batches of 4
    assert run.eval_flops == 2 * evaluation[0] + 3 * evaluation[1] + 2 * measured  # 0, 7; 7, 10, 12; 10, 12
    assert [r["samples"] for r in rows] == [0, 28, 28, 40, 48]
    assert run.plan().segments == []


def test_flops_while_old_numbers_are_frozen():
    """A new layer behind the first: what is all old gets no gradient, and what is in front of all that learns neither."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    run = trainer("step=2 freeze=3: deepen where=0 method=netmorph", model=model, steps=8)
    planned = run.plan()
    run.fit()
    first, second, last = 2 * 6 * 8 * 4, 2 * 8 * 8 * 4, 2 * 8 * 3 * 4
    frozen = [s.flops for s in planned.segments]
    assert frozen == [2 * first + 3 * last, first + 2 * second + 2 * last, 2 * first + 3 * second + 3 * last]
    assert run.flops == planned.flops == 2 * frozen[0] + 3 * frozen[1] + 3 * frozen[2]


def test_a_plan_is_told_beforehand_what_cannot_be():
    with pytest.raises(fxgrow.SelectionError):
        trainer("step=3: widen where=nothing by=2").plan()
    planned = trainer("step=3: widen by=2", "plateau=2: widen by=2", steps=10).plan()
    assert planned.unknown == ["plateau=2: widen by=2"] and [(s.start, s.end) for s in planned.segments] == [(0, 3), (3, 10)]


# --- growth in the loop ----------------------------------------


def test_the_optimizer_goes_on_or_starts_anew():
    kept = []
    for how in ("migrate", "reset"):
        run = trainer(f"step=9 optimizer={how}: widen by=4", steps=10, checkpoint_every=100)

        class Look(Watcher):
            def grown(self, trainer, growth):
                weight = trainer.model.get_parameter("0.weight")
                kept.append({k: v.clone() for k, v in trainer.optimizer.state.get(weight, {}).items()})

        run.watchers.append(Look())
        run.fit()
    momentum = kept[0]["momentum_buffer"]
    assert momentum.shape == (12, 6) and momentum[:8].any() and not momentum[8:].any()
    assert kept[1] == {}


def test_rates_after_growths():
    watch = Numbers()
    run = trainer("step=4 lr=ratio: widen by=8", "step=6 lr=rewarm rewarm=2: widen by=2", "step=8 lr=restart: widen by=2",
                  steps=12, schedule="linear", lr=1e-3, watchers=[watch])
    run.fit()
    sizes = [g["parameters"] for g in run.history.growths]
    ratio = sizes[0][0] / sizes[0][1]
    expected = [1 - t / 12 for t in range(4)] + [ratio * (1 - t / 12) for t in (4, 5)]
    expected += [ratio * (1 - 6 / 12) / 2, ratio * (1 - 7 / 12)] + [ratio * (1 - t / 4) for t in range(4)]
    assert watch.lrs == pytest.approx([1e-3 * e for e in expected])


def test_weight_decay_by_the_ratio():
    run = trainer("step=2 decay=ratio: widen by=8", steps=4, weight_decay=0.1)
    run.fit()
    before, after = run.history.growths[0]["parameters"]
    assert run.optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.1 * before / after)


def test_parts_learn_at_their_own_rates():
    """One step of plain SGD: old numbers by half of it, new ones three times, against the same step without factors."""
    steps = []
    for options in ("", " lr=parts new=3 old=0.5"):
        torch.manual_seed(0)
        run = trainer(f"step=2{options}: widen by=4", steps=3, momentum=0.0, schedule="constant",
                      model=nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
        start: dict = {}

        class Keep(Watcher):
            def grown(self, trainer, growth):
                start.update({n: p.detach().clone() for n, p in trainer.model.named_parameters()})

        run.watchers.append(Keep())
        run.fit()
        steps.append({n: p.detach() - start[n] for n, p in run.model.named_parameters()})
    for name, moved in steps[0].items():
        assert moved.any()
        new = run.grower.last.record.new_mask(name, moved)
        factors = torch.where(new, 3.0, 0.5)
        assert torch.allclose(steps[1][name], factors * moved, atol=1e-6), name


def test_frozen_for_some_steps():
    watch = Numbers("0.weight")
    run = trainer("step=4 freeze=5: widen by=4", steps=12, weight_decay=0.1, watchers=[watch])
    run.fit()
    weights = [kept[0] for kept in watch.kept]
    for step in range(4, 9):
        assert torch.equal(weights[step][:8], weights[3]), step
    assert not torch.equal(weights[8][8:], weights[4][8:])
    assert not torch.equal(weights[9][:8], weights[3])
    assert all(p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_tied_weights_batch_norm_and_dropout(method):
    torch.manual_seed(0)
    run = trainer(f"step=10: widen factor=2 method={method}", f"step=20: widen factor=1.5 method={method}", model=Tied(),
                  steps=100, lr=0.1)
    rows = run.fit().rows
    for before, after in zip(rows, rows[1:]):
        if after["event"]:
            assert abs(before["val_loss"] - after["val_loss"]) < 1e-5
    assert run.model.a.weight is run.model.b.weight and run.model.a.weight.shape == (24, 24)
    assert rows[-1]["val_loss"] < 0.6 * rows[0]["val_loss"]


def test_random_padding_is_allowed_and_told_of(tmp_path):
    run = trainer("step=10: widen by=4 method=random", steps=20, out=tmp_path)
    run.fit()
    growth = run.history.growths[0]
    assert not growth["preserving"] and growth["inexact"] == ["widen by random"] and growth["max_rel_error"] > 1e-3
    assert "NOT function preserving, as asked: widen by random" in (tmp_path / "log.txt").read_text()


def test_a_growth_that_is_not_exact_stops_the_run(monkeypatch):
    honest = fxgrow.transform

    def broken(*args):
        grown = honest(*args)
        grown.model.get_parameter("4.bias").data += 1
        return grown

    monkeypatch.setattr(fxgrow, "transform", broken)
    with pytest.raises(GrowthError, match="step=4: widen by=2"):
        trainer("step=4: widen by=2").fit()


# --- the settings ----------------------------------------


def test_clipping():
    watch = Numbers()
    trainer(clip=0.05, steps=5, watchers=[watch]).fit()
    assert max(watch.norms) <= 0.05 * 1.001
    watch = Numbers()
    trainer(steps=5, watchers=[watch]).fit()
    assert min(watch.norms) > 0.06


def test_early_stopping_counts_anew_after_a_growth():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    run = trainer("step=3: widen by=2 method=netmorph", model=model, patience=2, eval_every=2, lr=0.0, steps=100)
    rows = run.fit().rows
    assert "has not fallen for 2 evaluations" in run.stopped
    assert [r["step"] for r in rows] == [0, 2, 3, 3, 4, 6]  # without the growth: 0, 2, 4
    data = clusters()
    data.validation = []
    with pytest.raises(TrainError, match="patience needs validation data"):
        trainer(patience=2, data=data)


def test_without_validation_data():
    data = clusters()
    data.validation = []
    run = trainer("step=5: widen by=2", data=data, steps=10)
    rows = run.fit().rows
    assert all(r["val_loss"] is None and r["val_accuracy"] is None for r in rows) and rows[-1]["train_loss"] > 0


@pytest.mark.thinned(2)
@pytest.mark.parametrize("settings", [
    {"optimizer": "adamw", "lr": 0.01}, {"nesterov": True, "fused": True}, {"precision": "bf16"}, {"compile": "eager"},
    {"label_smoothing": 0.1}, {"workers": 1}])
def test_other_ways_to_train(settings):
    run = trainer("step=15 freeze=3: widen by=4", steps=60, **settings)
    rows = run.fit().rows
    assert rows[-1]["val_loss"] < 0.6 * rows[0]["val_loss"] and rows[-1]["parameters"] > rows[0]["parameters"]


def test_cuda_graphs_are_a_mode_of_inductor(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **how: (model, how))
    assert runnable(TrainConfig(compile="reduce-overhead"), None) == (None, {"mode": "reduce-overhead"})
    assert runnable(TrainConfig(compile="inductor"), None) == (None, {"backend": "inductor"})
    assert runnable(TrainConfig(), 1) == 1


def test_batches_larger_than_the_data_and_none_left_over():
    run = trainer(batch_size=1000, steps=None, epochs=3)
    assert (run.batch, run.per_epoch, run.total) == (40, 1, 3)
    run = trainer(batch_size=13, steps=None, epochs=3)
    assert (run.per_epoch, run.total) == (3, 9)


def test_what_does_not_go_together():
    with pytest.raises(TrainError, match="gives 4 outputs and the data have 3 classes"):
        trainer(model=nn.Linear(6, 4))
    with pytest.raises(TrainError, match="one row of logits"):
        trainer(model=nn.Unflatten(1, (2, 3)))
    data = clusters()
    data.train = []
    with pytest.raises(TrainError, match="no training data"):
        trainer(data=data)
    with pytest.raises(TrainError, match="no backend of torch.compile; did you mean inductor"):
        trainer(compile="inducto")
    if not torch.cuda.is_available():
        with pytest.raises(TrainError, match="no cuda device"):
            trainer(device="cuda")
        with pytest.raises(TrainError, match="reduce-overhead is for CUDA graphs, and the device is .*: use inductor"):
            trainer(compile="reduce-overhead", device="cpu")
        with pytest.raises(TrainError, match="fp16 needs a CUDA device"):
            trainer(precision="fp16")


@pytest.mark.parametrize("settings, said", [
    ({"lrr": 0.1}, "no setting 'lrr'; did you mean lr"), ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
    ({"epochs": 1.5}, "whole number"), ({"epochs": 1, "steps": 1}, "both given"),
    ({"optimizer": "adam"}, "one of sgd, adamw"),
    ({"nesterov": 1}, "true or false"), ({"batch_size": 0}, "at least 1"), ({"momentum": 2}, "between 0 and 1"),
    ({"milestones": [0.5, 3]}, "between 0 and 1"), ({"nesterov": True, "momentum": 0}, "nesterov needs"),
    ({"lr": float("nan")}, "must be a number"), ({"grow": [1]}, "must be a word"), ({"clip": -1}, "at least 0")])
def test_settings_that_make_no_sense(settings, said):
    with pytest.raises(TrainError) as error:
        TrainConfig.of(settings)
    assert said in str(error.value)


def test_settings_from_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('lr = 1\nsteps = 5\ngrow = ["step=2: widen by=2"]\nmilestones = [0.5]\n')
    config = TrainConfig.of(read_toml(file), str(file))
    assert (config.lr, config.steps, config.epochs, config.grow, config.milestones) == (1.0, 5, None, ["step=2: widen by=2"],
                                                                                        [0.5])
    assert TrainConfig.of(config.to_json()) == config and TrainConfig().epochs == 10
    file.write_text("lr = ")
    with pytest.raises(TrainError, match="is not TOML"):
        read_toml(file)
    with pytest.raises(TrainError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")


# --- files ----------------------------------------


def test_what_is_written(tmp_path):
    run = trainer("step=12: widen by=4", out=tmp_path / "a" / "b", tensorboard=True)
    history = run.fit()
    folder = tmp_path / "a" / "b"
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert rows == history.rows
    table = list(csv.DictReader(io.StringIO((folder / "history.csv").read_text())))
    assert [int(r["step"]) for r in table] == [0, 10, 12, 12, 20, 30] and float(table[-1]["flops"]) == run.flops
    log = (folder / "log.txt").read_text()
    assert "0 " in log and "8 -> 12" in log and "parameters 99 -> 147" in log and "equal: max relative error" in log
    loaded = fxgrow.load(folder / "model.pt")
    x = torch.randn(3, 6)
    assert torch.equal(loaded(x), run.model(x))
    assert json.loads((folder / "growths.json").read_text())[0]["step"] == 12


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    run = trainer("step=12: widen where=0 by=4", data=clusters(shape=(1, 4, 4)), model=model, out=tmp_path, tensorboard=True)
    run.fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"histograms": 0, "images": 0, "tensors": 0})
    events.Reload()
    assert {e.step: round(e.value) for e in events.Scalars("flops")} == {r["step"]: r["flops"] for r in run.history.rows}
    assert [e.step for e in events.Scalars("loss/validation")] == [0, 10, 12, 12, 20, 30]
    assert "0.weight" in events.Tags()["histograms"] and "filters/0.weight" in events.Tags()["images"]
    text = events.Tensors("growth/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "step=12: widen where=0 by=4" in text and "4 -> 8" in text
    with pytest.raises(TrainError, match="need a folder"):
        trainer(tensorboard=True).fit()


def test_tensorboard_of_a_resumed_run_has_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Crash(Watcher):
        def stepped(self, trainer, loss):
            if trainer.step == 17:
                raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError):
        trainer("step=12: widen by=4", eval_every=5, checkpoint_every=10, out=tmp_path, tensorboard=True,
                watchers=[Crash()]).fit()
    Trainer.resume(tmp_path, clusters()).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("lr")] == [0, 5, 10, 12, 12, 15, 20, 25, 30]
