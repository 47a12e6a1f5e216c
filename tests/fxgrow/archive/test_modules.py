"""Archives of models that can only be captured in parts: the outer modules are rebuilt, the parts are graphs."""
from __future__ import annotations

import pytest
import torch
import torchvision
from archives import refused, resealed, run, same
from support import shake
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.errors import ArchiveError, CaptureError
from fxgrow.passes import Widen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


def grown_in_parts() -> fxgrow.Grown:
    """A stock outer module around a graph that grew, as `transform` leaves a detector."""
    inner = shake(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    grown = fxgrow.transform(inner, torch.randn(2, 3), [Widen("0", factor=2, seed=0)])
    grown.model.width = 8  # what the outer module may read
    record = fxgrow.GrowthRecord({f"0.{n}": p for n, p in grown.record.parameters.items()}, grown.record.lineage)
    return fxgrow.Grown(nn.Sequential(grown.model, nn.Tanh()), record, [], (torch.randn(2, 3),))


def test_a_shell_and_its_parts_come_back(path):
    grown, x = grown_in_parts(), torch.randn(5, 3)
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path)
    assert type(loaded) is nn.Sequential and isinstance(loaded[0], GraphModule) and isinstance(loaded[1], nn.Tanh)
    assert list(loaded.state_dict()) == list(grown.model.state_dict()) and loaded[0].width == 8
    for mode in (False, True):
        same(run(grown.model, (x,), mode), run(loaded, (x,), mode))
    assert loaded.meta["fxgrow"]["input_shapes"] == [(2, 3)]
    assert loaded.meta["fxgrow"]["record"].to_json() == grown.record.to_json()
    again = path.with_name("again")
    fxgrow.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


def test_lies_about_parts(path):
    fxgrow.save(grown_in_parts(), path)
    good = path.read_bytes()
    for lie in (lambda g: g["parts"].update({"1": g["parts"]["0"]}), lambda g: g["parts"].update({"2": g["parts"]["0"]}),
                lambda g: g["parts"].clear(), lambda g: g["parts"]["0"].update({"class": "A: import os"}),
                lambda g: g["parts"]["0"]["nodes"].pop(), lambda g: g["parts"].update({"": g["parts"]["0"]}),
                lambda g: g["parts"]["0"].update(attributes={"dict": [["forward", 1]]}),
                lambda g: g["parts"]["0"].update(attributes={"size": [1]}),
                lambda g: g["modules"][-1].update({"class": "os.Popen"}), lambda g: g["parts"]["0"].pop("class")):
        path.write_bytes(resealed(good, lie))
        refused(path)


@pytest.mark.sweep
def test_a_detector(path):
    model = shake(torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=3)).eval()
    x = ([torch.rand(3, 320, 320)],)
    fxgrow.save(model, path, example_inputs=x)
    loaded = fxgrow.load(path)
    assert type(loaded) is type(model) and isinstance(loaded.backbone, GraphModule)
    assert loaded.meta["fxgrow"]["input_shapes"] == [(3, 320, 320)]
    same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert fxgrow.verify(model, loaded, x).ok


def test_a_model_grown_in_parts_grows_on():
    model = Shell()
    model.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.ones(2, 3)
    once = fxgrow.transform(model, x, [Widen("body.0", factor=2, seed=0)])
    once.model.meta = {"growth": {"record": once.record}}
    twice = fxgrow.transform(once.model, x, [Widen("body.0", factor=2, seed=1)])
    assert len(twice.record.lineage) == 2 and fxgrow.verify(model, twice.model, x).ok
    assert int(twice.record.new_mask("body.0.weight", twice.model.body.get_submodule("0").weight).sum()) == 12 * 3
    assert not hasattr(twice.model, "meta")


class Shell(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.body(x) if x.sum() > 0 else x


def test_shells_of_others_are_refused(path):
    fxgrow.save(Shell(), path, example_inputs=torch.ones(2, 3))
    with pytest.raises(ArchiveError, match="Shell itself cannot be captured.*its own code cannot go into an archive.*into="):
        fxgrow.load(path)
    with pytest.raises(CaptureError, match="Shell"):
        fxgrow.save(Shell(), path, example_inputs=-torch.ones(2, 3))
