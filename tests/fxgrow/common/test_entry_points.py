"""Entry points: a package of a stranger adds op rules, models, data sets; what is broken in it is told, the rest works."""
import importlib
import sys

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.common import load_installed
from fxgrow.errors import FxgrowError, ModelError
from fxgrow.experiments.data import DataError, list_data, load_data
from fxgrow.experiments.tasks import get_task, list_tasks, metric_of
from fxgrow.models import load_model
from fxgrow.passes import Widen

STRANGER = """
import torch
from torch import nn
import fxgrow
from fxgrow.axis import pointwise
from fxgrow.experiments.data import Arrays
from fxgrow.experiments.tasks import Metric, get_task
from fxgrow.zoo import register

@fxgrow.axis_rule("sinc")
def sinc(tape, name, args, kwargs, out):
    pointwise(tape, name, [args[0]], out, "any")

@fxgrow.flop_rule("sinc")
def sinc_flops(args, kwargs, out):
    return fxgrow.Flops(3 * out.numel())

@register
def strange(num_classes: int = 3, in_channels: int = 1):
    model = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
    model.input_shape = (in_channels, 8, 8)
    model(torch.zeros(1, in_channels, 8, 8))
    return model

def dots(request):
    return Arrays(torch.rand(40, 1, 8, 8), torch.arange(40) % 2, ("a", "b"))

class Far(get_task("regression").__class__):
    name = "far"
    metrics = (Metric("far", "targets that are far", kind="percent"),)

def tuples(request):
    return torch.rand(4, 1), torch.arange(4)

def source(name, pretrained):
    return {"small": nn.Linear(3, 2)}[name], torch.zeros(1, 3)
"""
POINTS = """[fxgrow.rules]
absent = nosuchpackage.rules
stranger = stranger_parts
[fxgrow.models]
lot = stranger_parts
gone = nosuchpackage.models
odd = stranger_parts:source
[fxgrow.data]
dots = stranger_parts:dots
tuples = stranger_parts:tuples
lost = nosuchpackage:data
[fxgrow.tasks]
a_lost = nosuchpackage:Task
far = stranger_parts:Far
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    (tmp_path / "stranger_parts.py").write_text(STRANGER)
    info = tmp_path / "stranger_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("stranger_parts", None)
    tables = [getattr(importlib.import_module(f"fxgrow.{place}"), name) for place, name in (
        ("axis.tape", "RULES"), ("cost.rules", "RULES"), ("zoo.registry", "BUILDERS"),
        ("experiments.data.registry", "_READERS"), ("experiments.tasks.registry", "TASKS"))]
    before = [dict(table) for table in tables]
    load_installed.cache_clear()
    yield
    load_installed.cache_clear()
    for table, old in zip(tables, before):
        table.clear()
        table.update(old)


def test_a_task_of_an_installed_package_is_found_by_its_name_and_by_its_metric(stranger):
    assert metric_of("val_far").label == "targets that are far" and metric_of("val_near") is None
    assert "far" in list_tasks() and get_task("far").name == "far"
    with pytest.raises(FxgrowError, match="the task a_lost"):
        get_task("a_lost")


def test_an_op_rule_of_an_installed_package_is_found_when_an_op_has_none(stranger, caplog):
    class Sinc(nn.Module):
        def forward(self, x):
            return torch.sinc(x)

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), Sinc(), nn.Linear(8, 2)).double(), torch.randn(3, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("0", by=4, seed=0))
    assert grown.model.get_parameter("2.weight").shape == (2, 12) and fxgrow.verify(model, grown.model, x).ok
    assert fxgrow.count_flops(model, x).by_module()["1"].forward == 3 * 3 * 8
    assert "left out: absent of the group fxgrow.rules (nosuchpackage.rules) cannot be imported" in caplog.text


def test_a_module_adds_models_to_the_zoo_and_a_function_a_prefix(stranger, caplog):
    model, (x,) = load_model("zoo:strange:num_classes=5")
    assert model(x).shape == (1, 5) and "left out: gone" in caplog.text
    assert load_model("odd:small")[0].in_features == 3
    with pytest.raises(ModelError, match="odd:big raised KeyError"):
        load_model("odd:big")
    with pytest.raises(ModelError, match="zoo:NAME, odd:NAME or|odd:NAME, zoo:NAME or"):
        load_model("nothing:here:at:all")


def test_a_data_set_of_an_installed_package_is_read_by_its_name(stranger):
    assert {"dots", "lost", "digits"} <= {*list_data()} and load_data("dots").class_names == ("a", "b")
    with pytest.raises(DataError, match="its reader gave a tuple; it gives a Source"):
        load_data("tuples")
    with pytest.raises(FxgrowError, match="the data set lost .nosuchpackage:data. cannot be imported"):
        load_data("lost")
    with pytest.raises(DataError, match="there is no data set 'dot'; the nearest are dots"):
        load_data("dot")
