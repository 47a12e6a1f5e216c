"""Every task trained on the way from its data to its report, growing meanwhile, and gone on with."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from commands import run
from torch import nn

from fxgrow.experiments.data import DataError, as_data
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import get_task, register
from fxgrow.experiments.tasks.registry import TASKS
from fxgrow.experiments.train import TrainConfig, Trainer


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_language(here):
    (here / "t.txt").write_text("abcabcabd" * 400)
    words = ("train zoo:gpt:width=16,depth=1,heads=2 --data text:t.txt?length=12 --batch-size 16 --steps 60 --eval-every 20 "
             "--optimizer adamw --lr 0.01 --grow 'step=20: deepen method=netmorph + widen factor=2 method=netmorph' ")
    shown = run(words + "-o runs/x --tensorboard").stdout
    assert "best        cross-entropy" in shown and "bits per byte on the validation part" in shown and "perplexity" in shown
    report = json.loads((here / "runs/x/report.json").read_text())
    assert report["task"] == "language" and report["growths"][0]["preserving"]
    assert report["test"]["bits_per_byte"] == pytest.approx(report["test"]["loss"] / np.log(2))
    assert report["best"]["bits_per_byte"]["value"] < 2 and report["flops"]["spent"] == report["flops"]["planned"]
    again = json.loads(run("train --resume runs/x --json").stdout)
    assert again["test"] == report["test"]
    assert (here / "runs/x/history.csv").read_text().splitlines()[0] == (
        "step,epoch,samples,flops,eval_flops,train_loss,val_loss,val_bits_per_byte,val_perplexity,lr,parameters,seconds,event")
    drawn = json.loads(run("plot runs/x -o p.svg --json").stdout)
    assert drawn["y"] == "val_bits_per_byte" and "validation cross-entropy (bits per byte)" in (here / "p.svg").read_text()
    (here / "runs/x/history.jsonl").unlink()
    assert json.loads(run("plot runs/x -x step --json").stdout)["y"] == "val_bits_per_byte"  # TensorBoard's files


def test_regression(here):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    np.savez("r.npz", images=x, targets=100 + 50 * (x @ [1, -2, 0.5, 0]), class_names=["height"])
    report = json.loads(run("train zoo:mlp:hidden=(16,) --data r.npz --epochs 20 --lr 0.05 --json "
                            "--grow 'epoch=3: widen factor=2'").stdout)
    assert report["task"] == "regression" and report["growths"][0]["preserving"]
    assert report["test"]["r2"] > 0.95 and 0 < report["test"]["rmse"] < 30
    assert "label_smoothing is for classes" in run("train zoo:mlp --data r.npz --label-smoothing 0.1", 1).stderr


def test_segmentation(here):
    rng = np.random.default_rng(0)
    masks = np.zeros((60, 8, 8), int)
    for mask, (at, wide) in zip(masks, rng.integers(1, 5, (60, 2))):
        mask[at:at + 3, wide:wide + 3] = 1
    np.savez("s.npz", images=masks * 2.0 + rng.normal(size=masks.shape) * 0.3, masks=masks)
    (here / "segments.py").write_text("from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 6, 3, "
                                  "padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))\n")
    report = json.loads(run("train segments:net --data s.npz --epochs 10 --batch-size 8 --lr 0.1 --channels-last --json "
                            "--grow 'epoch=1: widen factor=2'").stdout)
    assert report["task"] == "segmentation" and report["test"]["mean_iou"] > 0.8 and report["growths"][0]["preserving"]
    assert "logits at each pixel" in run("train zoo:mlp --data s.npz", 1).stderr
    assert "these data are for segmentation" in run("evolve --model zoo:mlp --data s.npz -o e", 1).stderr


def test_the_task_may_be_another_than_the_data_are_made_for():
    x = torch.randn(80, 3)
    data = as_data((x, (x @ torch.tensor([1.0, 2, 3]))))
    assert data.task == "regression" and data.train.target_scale > 1
    with pytest.raises(TrainError, match="no task 'regresion'; the nearest are regression"):
        Trainer(nn.Linear(3, 1), data, TrainConfig(steps=1, task="regresion"))
    with pytest.raises(TrainError, match="no loss for classification of outputs .* and targets .* of torch.float32"):
        Trainer(nn.Linear(3, 1), data, TrainConfig(steps=1, task="classification"))
    with pytest.raises(TrainError, match="no loss for regression"):
        Trainer(nn.Linear(3, 2), as_data((x, torch.arange(80) % 2)), TrainConfig(steps=1, task="regression"))


def test_targets_of_probabilities_are_no_classes_and_labels_beyond_them_are_told():
    x = torch.randn(40, 3)
    with pytest.raises(TrainError, match=r"no loss for classification of outputs \(3, 2\) and targets \(3, 2\)"):
        Trainer(nn.Linear(3, 2), as_data((x, x[:, :2].clone())), TrainConfig(steps=1, task="classification"))
    with pytest.raises(DataError, match="the examples hold numbers that are not finite"):
        as_data((torch.where(x > 1, torch.nan, x), torch.arange(40) % 2))

    class Own:
        train = [(row, int(i == 39) * 5) for i, row in enumerate(x)]
        validation, test, classes, input_shape = train[:20], [], 2, (3,)

    with pytest.raises(TrainError, match="the targets of step 0 do not fit the 2 classes of the data"):
        Trainer(nn.Linear(3, 2), Own(), TrainConfig(steps=1)).fit()


def test_a_task_whose_loss_or_scores_are_none():
    class Wrong(get_task("regression").__class__):
        name = "wrong"

        def loss(self, out, y, label_smoothing=0.0):
            return (out[:, 0] - y).square()

        def scores(self, sums, part):
            return super().scores(sums, part)[:2]

    x = torch.randn(40, 3)
    try:
        register(Wrong)
        with pytest.raises(TrainError, match=r"the loss of the task wrong is \(3,\): it gives the mean"):
            Trainer(nn.Linear(3, 1), as_data((x, x[:, 0].clone())), TrainConfig(steps=1, task="wrong"))
        Wrong.loss = get_task("regression").__class__.loss
        with pytest.raises(TrainError, match="gives 2 scores: the mean loss and each of its metrics are 3"):
            Trainer(nn.Linear(3, 1), as_data((x, x[:, 0].clone())), TrainConfig(steps=1, task="wrong")).fit()
    finally:
        TASKS.pop("wrong", None)


def test_tokens_that_a_model_does_not_know(here):
    (here / "t.txt").write_text("abc" * 400)
    assert "does not run on the input" in run("train zoo:gpt:vocabulary=50 --data text:t.txt?length=8", 1).stderr
