"""tools/coverage: what it says of a network that is exact, of one that stops, and how the page is made of the lines."""
import measuring
import page
import pytest
import torch
from measuring import Network, image
from torch import nn


def row_of(network: Network) -> dict:
    found: dict = {}
    dtype = torch.get_default_dtype()
    try:
        measuring.measure(network, found.update)
    finally:
        torch.set_default_dtype(dtype)
    return {"package": "own", "network": "one"} | found


@pytest.fixture(autouse=True)
def float32_stays(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                         nn.Conv2d(8, 4, 1))


def test_an_exact_network():
    row = row_of(Network(convolutions, image(8)))
    assert page.verdict(row) == "exact" and row["captured"] == "whole" and row["growth"] > 1.8
    assert {"eval", "train", "after", "saved", "deeper"} <= row.keys() and page.worst(row) <= 1e-9
    assert "| own | one | exact | whole | x" in page.written([row])


def test_one_that_does_not_run_is_no_result():
    row = row_of(Network(lambda: nn.Linear(4, 2), image(8)))
    assert page.verdict(row) == "missing" and "## Not run here" in page.written([row])


@pytest.mark.parametrize("change, word", [({"train": 0.1}, "wrong"), ({"stops": "KeyError"}, "crash"),
                                          ({"growth": 1.2}, "low"), ({"captured": "no"}, "parts"), ({"ended": ""}, "slow")])
def test_verdicts(change, word):
    row = {"package": "own", "network": "one", "captured": "whole", "capture": "", "left": [], "growth": 2.0, "eval": 0.0}
    assert page.verdict(row | change) == word and page.verdict(row) == "exact"


def test_another_network_is_wrong():
    model, other, inputs = convolutions().eval(), convolutions().eval(), [image(8)(2, 0)]
    assert measuring.errors(model, other, inputs)["eval"] > 1e-9
    assert measuring.errors(model, model, inputs)["train"] == 0
