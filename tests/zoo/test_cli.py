"""zoo:NAME and zoo:NAME:key=value on the command line, in every command that takes a MODEL."""
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fxgrow
from fxgrow.cli.main import main
from fxgrow.common import load_installed
from fxgrow.zoo import create_model, list_models, model_options
from fxgrow.zoo.cli import built_models, own_models
from fxgrow.zoo.registry import BUILDERS

SMALL = "zoo:cifar_resnet10:r=2**-4,num_classes=3,in_channels=1,size=16"


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def test_info_says_the_options_inputs():
    result = run("info", SMALL, "--json")
    assert result.exit_code == 0, result.output
    assert "1,1,16,16" in result.output


def test_growing_comparing_counting_and_drawing(tmp_path):
    grown = tmp_path / "big.pt"
    result = run("transform", SMALL, "--pass", "widen", "--factor", 2, "--seed", 0, "-o", grown)
    assert result.exit_code == 0, result.output
    assert run("verify", SMALL, grown).exit_code == 0
    small, big = (json.loads(run("flops", m, "--json").stdout) for m in (SMALL, grown))
    assert big["forward"] > 3 * small["forward"] > 0
    for args in (["draw", SMALL, "-o", tmp_path / "arch.dot"], ["diff", SMALL, grown, "-o", tmp_path / "diff.dot"],
                 ["axes", SMALL], ["shrink", grown, "-o", tmp_path / "small.pt"]):
        result = run(*args)
        assert result.exit_code == 0, (args, result.output)
    assert (tmp_path / "arch.dot").stat().st_size and run("verify", SMALL, tmp_path / "small.pt").exit_code == 0


@pytest.mark.parametrize("spec, why", [("zoo:cifar_resnet", "cifar_resnet10"), (f"{SMALL},depth=3", "no option 'depth'"),
                                       ("zoo:mlp:r=1;2", "key=value")])
def test_one_line_for_what_cannot_be_had(spec, why):
    result = run("info", spec)
    assert result.exit_code == 1 and why in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_list():
    found = {m["name"]: m for m in json.loads(run("zoo", "--json").stdout)}
    assert sorted(found) == list_models()
    assert found["mlp"]["input"] == [1, 28, 28] and found["mlp"]["parameters"] == 269_322
    assert all(m["what"].endswith(".") and list(m["options"]) == list(model_options(n)) for n, m in found.items())
    text = run("zoo").output
    assert all(f"zoo:{name}"[:12] in text for name in list_models())


def test_what_is_declared_for_the_list_is_what_the_models_are():
    assert sorted(own_models(), key=lambda m: m["name"]) == built_models()


def test_models_of_other_packages_are_in_the_list(tmp_path, monkeypatch):
    (tmp_path / "othermodels.py").write_text("""
from torch import nn
from fxgrow.zoo import register

@register
def lone(num_classes: int = 2) -> nn.Module:
    \"\"\"One layer.\"\"\"
    model = nn.Linear(4, num_classes)
    model.input_shape = (4,)
    return model
""")
    info = tmp_path / "othermodels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: othermodels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fxgrow.models]\nothermodels = othermodels\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_installed.cache_clear()
    try:
        found = {m["name"]: m for m in json.loads(run("zoo", "--json").stdout)}
    finally:
        BUILDERS.pop("lone", None)
    assert "mlp" in found and found["lone"] == {
        "name": "lone", "what": "One layer.", "input": [4], "parameters": 10, "options": {"num_classes": 2}}


def test_the_table_of_the_documentation():
    """docs/zoo.md says for each model what it really is."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "zoo.md").read_text()
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name)
            x = torch.zeros(1, *model.input_shape, dtype=getattr(model, "input_dtype", None))
        counted = fxgrow.count_flops(model, x)
        shape = " x ".join(map(str, model.input_shape))
        assert f"| `{name}` | {shape} | {counted.parameters:,} | {counted.forward / 1e6:,.1f} |" in page, name
