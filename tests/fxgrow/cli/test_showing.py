"""`fxgrow flops`: the table, JSON, CSV, and what is refused."""
from __future__ import annotations

import csv
import io
import json
import re

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.common import quantity

NETS = '''
import torch
from torch import nn

def net():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 16, 3))
    return nn.Sequential(body, nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 3, 6, 6)

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, input_ids, *, attention_mask):
        return self.head((self.table(input_ids) * attention_mask.unsqueeze(-1)).sum(1))
'''
BY_NAME = ["--input", "input_ids=2,5:int64", "--input", "attention_mask=2,5"]
CONV1, CONV2, FC = 2 * 16 * 27 * 4, 2 * 4 * 36 * 16, 2 * 128


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "nets_for_flops.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*words: str, code: int = 0):
    result = CliRunner().invoke(main, ["flops", *words])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_the_table_shows_the_tree_and_what_is_not_counted():
    out = run("nets_for_flops:net").stdout
    assert re.search(r"Sequential .*│ +8\.32 k │ .*100\.0%", out)
    assert out.index("0 (Conv2d)") < out.index("2 (Conv2d)") < out.index("3 (Linear)")
    assert f"{CONV1 + CONV2 + FC:,} FLOPs" in out
    assert "not counted relu 1x" in out
    assert "Conv2d" not in run("nets_for_flops:net", "--depth", "1").stdout


def test_json_csv_batches_and_modes(here):
    report = json.loads(run("nets_for_flops:net", "--json", "--input", "5,3,6,6").stdout)
    assert report["forward"] == 5 * (CONV1 + CONV2 + FC) and report["modules"]["3"]["parameters"] == 130
    assert report["backward"] == 5 * (CONV1 + 2 * CONV2 + 2 * FC)
    train = json.loads(run("nets_for_flops:net", "--json", "--train").stdout)
    assert train["modules"]["1"]["activation_bytes"] == 4 * 64
    table = list(csv.DictReader(io.StringIO(run("nets_for_flops:net", "--csv", "-", "--sort", "total").stdout)))
    assert [r["module"] for r in table] == ["", "0", "0.2", "0.0", "0.1", "3"]
    assert int(table[0]["forward"]) == CONV1 + CONV2 + FC and table[2]["class"] == "Conv2d"
    assert "written" in run("nets_for_flops:net", "--csv", "cost.csv").stdout
    assert (here / "cost.csv").read_text().startswith("module,class,forward,")
    full = json.loads(run("nets_for_flops:net", "--json", "--ops", "all").stdout)
    assert full["forward"] == CONV1 + CONV2 + FC + 64 and full["uncounted"] == {}


def test_what_is_refused(here):
    assert "choose one" in run("nets_for_flops:net", "--json", "--csv", "-", code=2).stderr
    run("nets_for_flops:net", "--sort", "name", code=2)
    assert "cannot be written" in run("nets_for_flops:net", "--csv", "no/such/cost.csv", code=1).stderr


def test_rows_are_sorted_level_by_level():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 400), nn.Sequential(nn.Linear(400, 2), nn.Linear(2, 9)))
    count = fxgrow.count_flops(model, torch.randn(1, 4))
    assert [name for _, name, _, _ in count.rows(sort="params")] == ["", "1", "2", "2.0", "2.1", "0"]
    assert [name for _, name, _, _ in count.rows(depth=1)] == ["", "0", "1", "2"]
    with pytest.raises(ValueError, match="choose one of forward"):
        count.rows(sort="size")


@pytest.mark.parametrize("value, text", [(0, "0"), (999, "999"), (1000, "1 k"), (1815000000, "1.81 G"),
                                         (999600, "1 M"), (2e18, "2e+03 P")])
def test_quantities_have_three_digits(value, text):
    assert quantity(value) == text


def test_inputs_by_name(here):
    run = CliRunner().invoke
    assert json.loads(run(main, ["flops", "nets_for_flops:Words", *BY_NAME, "--json"]).stdout)["forward"] == 2 * 2 * 8 * 3
    assert json.loads(run(main, ["info", "nets_for_flops:Words", *BY_NAME, "--json"]).stdout)["inputs"] == [
        "input_ids=2,5:int64", "attention_mask=2,5:float32"]
    classes = json.loads(run(main, ["axes", "nets_for_flops:Words", *BY_NAME, "--json"]).stdout)["classes"]
    assert any("table" in c["producers"] for c in classes)
    for command, file in (("draw", "a.dot"), ("report", "a.html")):
        assert run(main, [command, "nets_for_flops:Words", *BY_NAME, "-o", file]).exit_code == 0 and (here / file).exists()


@pytest.mark.parametrize("words, code, said", [
    (["--input", "input_ids=2,5:int64", "--input", "2,5"], 2, "--input attention_mask=1,16:int64"),
    (["--input", "input_idz=2,5:int64"], 1, "no 'input_idz'; the nearest are input_ids; it takes input_ids, attention_mask"),
    (["--input", "input_ids=2,5:int64"], 1, "missing a required"),
    (["--input", "input_ids=two"], 2, "'input_ids=two' is no shape")])
def test_inputs_that_are_named_wrongly(words, code, said):
    result = CliRunner().invoke(main, ["axes", "nets_for_flops:Words", *words])
    assert result.exit_code == code and said in result.stderr
