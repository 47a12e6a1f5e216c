"""`fxgrow shrink`, and the lineage that `fxgrow info` shows."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import run
from small_nets import made, train

import fxgrow
from fxgrow.passes import Widen
from fxgrow.record import describe_step


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grown_file(method="r2r", steps=0, frozen=False):
    """small.pt's network, grown twice (and trained) in big.pt."""
    model, x = made("residual")
    grown = fxgrow.transform(model, x, [Widen("block*", factor=1.5, method=method, seed=1),
                                        Widen("conv", by=2, method=method, seed=2)])
    handle = grown.record.freeze_old(grown.model) if frozen else None
    train(grown.model, torch.optim.SGD(grown.model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1), x, steps)
    if handle is not None:
        handle.remove()
    fxgrow.save(grown, "big.pt")
    return model, x


@pytest.mark.parametrize("method", ["r2r", "netmorph", "net2net"])
def test_shrink_gives_the_small_network_back(method):
    model, x = grown_file(method)
    shown = run("shrink big.pt -o small.pt").stdout
    assert "equal: max relative error" in shown and "NOT" not in shown and "undone 2" in shown
    small = fxgrow.load("small.pt")
    assert fxgrow.verify(model, small, x).ok and small.meta["growth"]["record"].lineage == []
    if method != "net2net":
        assert all(torch.equal(t, model.state_dict()[n]) for n, t in small.state_dict().items())
    report = json.loads(run("shrink big.pt -o again.pt --json").stdout)
    assert report["verification"]["ok"] and len(report["lineage"]) == 2
    assert report["parameters"]["before"] > report["parameters"]["after"] == sum(p.numel() for p in model.parameters())
    assert open("small.pt", "rb").read() == open("again.pt", "rb").read()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["r2r", "netmorph", "net2net"])
@pytest.mark.parametrize("frozen", [True, False])
def test_after_training_it_says_that_they_differ(method, frozen):
    model, _ = grown_file(method, steps=2, frozen=frozen)
    shown = run("shrink big.pt -o small.pt").stdout
    assert "NOT the same function: big.pt was trained since it grew" in shown and "written" in shown
    numbers = fxgrow.load("small.pt").state_dict()
    back = all(torch.equal(t, model.state_dict()[n]) for n, t in numbers.items())
    assert back == (frozen and method != "net2net")


def test_more_outputs_are_cut_off():
    model, x = made("concat")
    fxgrow.save(fxgrow.transform(model, x, Widen("fc", by=2, seed=0)), "big.pt")
    assert "NOT" not in run("shrink big.pt -o small.pt").stdout


def test_what_cannot_be_shrunk(here):
    model, x = made("residual")
    fxgrow.save(model, "plain.pt", example_inputs=x)
    assert "plain.pt has not grown" in run("shrink plain.pt -o small.pt", 1).stderr
    grown = fxgrow.transform(model, x, Widen("block*", factor=1.5, seed=1))
    grown.record.parameters["fc.bias"] = fxgrow.ParameterRecord.new(1)
    fxgrow.save(grown, "big.pt")
    assert "fc.bias cannot be had back" in run("shrink big.pt -o small.pt", 1).stderr
    assert "choose another place" in run("shrink big.pt -o nowhere/small.pt", 1).stderr
    run("shrink big.pt", 2)
    assert not (here / "small.pt").exists()


def test_info_lists_what_each_pass_did():
    grown_file()
    shown = run("info big.pt").stdout
    assert "growth 1    widen block* by r2r (factor 1.5, init match_std, seed 1)" in shown
    assert "growth 2    widen conv by r2r (by 2, init match_std, seed 2)" in shown
    assert [s["seed"] for s in json.loads(run("info big.pt --json").stdout)["lineage"]] == [1, 2]


def test_a_step_in_words():
    assert describe_step({"pass": "kernel", "where": ["conv1", "conv2"], "size": [5, 5], "exact": True, "note": None}) == (
        "kernel conv1, conv2 (size 5x5, exact yes)")
    assert describe_step({"pass": "deepen", "where": "layer3", "method": "netmorph"}) == "deepen layer3 by netmorph"
    assert describe_step({}) == "a pass without a name everywhere"


def test_a_network_with_code_of_its_own():
    Path("gates.py").write_text(
        "import torch\nfrom torch import nn\nclass Gated(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))\n    def forward(self, x):\n"
        "        x = self.body(x)\n        return 2 * x if float(x.detach().sum()) > -1e6 else x\n"
        "def net():\n    return Gated(), torch.randn(3, 4)\n")
    run("transform gates:net --pass widen --factor 2 --seed 0 -o big.pt")
    assert "--into package.module:factory" in run("info big.pt", 1).stderr
    assert json.loads(run("info big.pt --into gates:net --json").stdout)["class"] == "Gated"
    assert json.loads(run("verify gates:net big.pt --into gates:net --json").stdout)["ok"]
    run("shrink big.pt --into gates:net -o small.pt")
    assert json.loads(run("info small.pt --into gates:net --json").stdout)["parameters"] == 76
