"""Each task's loss and metrics by hand, added up over batches, and what it says of outputs that do not fit."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import Metric, Task, get_task, list_tasks, metric_of, prediction, register, task_of
from fxgrow.experiments.tasks.registry import TASKS


def scores(name: str, batches, **part):
    task, sums = get_task(name), {}
    for out, y in batches:
        for key, value in task.sums(out, y).items():
            sums[key] = value.double() + sums.get(key, 0)
    held = type("Part", (list,), part)([None] * sum(len(y) for _, y in batches))
    return dict(zip(["loss", *(m.name for m in task.metrics)], task.scores(sums, held)))


def test_language_counts_bits_by_bytes():
    """Logits of four equally likely tokens: two bits a token."""
    batches = [(torch.zeros(n, 5, 4), torch.randint(4, (n, 5))) for n in (3, 1)]
    found = scores("language", batches, bytes_per_token=2.0)
    assert found["loss"] == pytest.approx(math.log(4)) and found["perplexity"] == pytest.approx(4)
    assert found["bits_per_byte"] == pytest.approx(1.0)
    out, y = torch.randn(2, 3, 4), torch.randint(4, (2, 3))
    assert get_task("language").loss(out, y) == pytest.approx(float(F.cross_entropy(out.view(6, 4), y.view(6))))


def test_regression_in_the_units_of_the_data():
    y = torch.tensor([[0.0, 1], [2, 3], [4, 8]])
    out = y + torch.tensor([[1.0, 0], [1, 0], [1, 3]])
    found = scores("regression", [(out[:2], y[:2]), (out[2:], y[2:])], target_scale=torch.tensor([10.0, 1]))
    assert found["loss"] == pytest.approx((3 + 9) / 6) and found["rmse"] == pytest.approx(math.sqrt((100 + 3) / 2))
    assert found["r2"] == pytest.approx(((1 - 3 / 8) + (1 - 9 / 26)) / 2)
    one = scores("regression", [(y[:, :1], y[:, 0])])  # an axis of one number, and none
    assert one["loss"] == 0 and one["r2"] == 1
    assert scores("regression", [(y[:1], y[:1] + 1)])["r2"] == 0  # of one example there is no variance


def test_segmentation_by_the_pixels_of_each_class():
    y = torch.tensor([[[0, 0], [1, -100]]])
    out = F.one_hot(torch.tensor([[[0, 1], [1, 1]]]), 3).permute(0, 3, 1, 2) * 100.0
    found = scores("segmentation", [(out, y)])
    assert found["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 2) and found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(100 / 3, rel=1e-4)
    with pytest.raises(TrainError, match="no pixel of the part"):
        scores("segmentation", [(out, torch.full_like(y, -100))])


@pytest.mark.parametrize("name, out, x, classes, said", [
    ("classification", torch.zeros(2, 3), torch.zeros(2, 5), 4, "gives 3 outputs and the data have 4 classes"),
    ("language", torch.zeros(2, 3), torch.zeros(2, 5), 4, "logits at each position"),
    ("language", torch.zeros(2, 5, 3), torch.zeros(2, 5), 4, "logits of 3 tokens and the data have 4"),
    ("regression", torch.zeros(2, 3), torch.zeros(2, 5), 1, r"gives \(3,\) .* 1 numbers to predict"),
    ("segmentation", torch.zeros(2, 3), torch.zeros(2, 1, 4, 4), 3, "logits at each pixel"),
    ("segmentation", torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), 2, "3 outputs a pixel")])
def test_what_does_not_fit(name, out, x, classes, said):
    with pytest.raises(TrainError, match=said):
        get_task(name).check(out, x, SimpleNamespace(classes=classes))


def test_names():
    assert list_tasks() == ["classification", "language", "regression", "segmentation"]
    assert task_of(SimpleNamespace()).name == "classification"
    assert task_of(SimpleNamespace(task="language")).name == "language"
    assert task_of(SimpleNamespace(task="language"), "regression").name == "regression"
    with pytest.raises(TrainError, match="no task 'languag'; the nearest are language"):
        get_task("languag")
    assert metric_of("val_bits_per_byte").unit == "bits per byte" and metric_of("val_loss") is None


def test_where_the_prediction_is():
    logits = torch.zeros(1)
    for out in (logits, {"logits": logits, "loss": None}, {"out": logits}, SimpleNamespace(logits=logits)):
        assert prediction(out) is logits


def test_a_task_of_ones_own_is_one_class():
    @register
    class Sign(Task):
        name, metrics = "sign", (Metric("right", "right signs", kind="percent", higher=True),)

    try:
        assert get_task("sign").metrics[0].label == "right signs" and metric_of("val_right").higher
    finally:
        del TASKS["sign"]
