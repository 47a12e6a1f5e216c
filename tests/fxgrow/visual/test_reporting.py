"""The report page's data, its command, and what is refused. How it looks and moves: test_reporting_browser.py."""
from __future__ import annotations

import json
import re

import pytest
import torch
import torchvision
from commands import run
from small_nets import made
from torch import nn

import fxgrow
from fxgrow.compare import Change
from fxgrow.errors import CaptureError, DrawError
from fxgrow.page import page
from fxgrow.passes import Deepen, Widen


def told(path) -> dict:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def small_conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 3))


def walk(item):
    yield item
    for child in item.get("children", ()):
        yield from walk(child)


@pytest.fixture
def grown():
    model, x = made("residual")
    return fxgrow.transform(model, x, [Widen("conv", by=2, method="r2r", seed=0), Widen("block*", factor=2, seed=1)])


def test_a_model_without_growth(tmp_path):
    model, x = torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    data = told(fxgrow.report(model, x, tmp_path / "r.html", title="mine"))
    assert data["title"] == "mine" and data["growth"] is None and data["model"]["class"] == "ResNet"
    count = fxgrow.count_flops(model, x)
    assert data["costs"]["modules"][0]["flops"] == count.total
    every, once = data["diagram"]["views"]
    names = {r["name"] for item in walk(every["root"]) for r in item.get("rows", ())}
    assert names >= {n for n, m in model.named_modules() if not list(m.children())}
    for view in (every, once):
        boxes = [i for i in walk(view["root"]) if "key" in i]
        assert sum(b["flops"] for b in boxes) == count.total and sum(b["params"] for b in boxes) == count.parameters
        assert {key for edge in view["edges"] for key in edge[:2]} <= {b["key"] for b in boxes}
    assert any(i["times"] > 1 for i in walk(once["root"])) and all(i["times"] == 1 for i in walk(every["root"]))
    assert len(data["filters"]["grids"]) == 1


def test_a_grown_model_tells_what_grew(tmp_path, grown):
    data = told(fxgrow.report(grown, None, tmp_path / "r.html"))
    growth = data["growth"]
    assert growth["verification"]["ok"] and growth["verification"]["max_rel_error"] < 1e-4
    assert [c["name"] for c in growth["certificate"]] == [o.name for o in grown.outcomes]
    assert len(growth["lineage"]) == 2 and growth["lineage"][0].startswith("widen conv by r2r")
    total = Change(**growth["changes"][0])
    assert total.parameters[1] == sum(p.numel() for p in grown.model.parameters()) > total.parameters[0]
    parameters = dict(grown.model.named_parameters())
    assert sum(e["new"] for e in growth["record"] if e["name"] in parameters) == total.new
    assert all(e["old"] + e["new"] == torch.Size(e["shape"]).numel() for e in growth["record"])
    boxes = [i for i in walk(data["diagram"]["views"][0]["root"]) if "key" in i]
    assert sum(b["change"]["new"] for b in boxes) == total.new
    assert {g["caption"].partition(",")[0] for g in data["filters"]["grids"]} == {"before", "after"}
    assert all(g["image"].startswith("data:image/png;base64,") for g in data["filters"]["grids"])


def test_an_archive_tells_the_same(tmp_path, grown):
    fxgrow.save(grown, tmp_path / "big.pt")
    again = fxgrow.load(tmp_path / "big.pt")
    assert again.meta["growth"]["record"].certificate == [vars(o) for o in grown.outcomes]
    one, two = (told(fxgrow.report(m, None, tmp_path / "r.html"))["growth"] for m in (grown, again))
    assert two.pop("verification")["ok"] and one.pop("verification")["ok"]
    assert one == two


def test_certificates_of_later_growth_follow_earlier_ones(grown):
    twice = fxgrow.transform(grown.model, grown.example_inputs, Widen("conv", by=2, seed=3))
    assert twice.record.certificate == grown.record.certificate + [vars(o) for o in twice.outcomes]


def test_a_model_that_was_trained_since_is_not_equal(tmp_path, grown):
    with torch.no_grad():
        for p in grown.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    data = told(fxgrow.report(grown, None, tmp_path / "r.html"))
    assert not data["growth"]["verification"]["ok"]


def test_given_models_are_compared(tmp_path):
    model, x = small_conv().eval(), torch.randn(2, 3, 8, 8)
    grown = fxgrow.transform(model, x, Widen("0", factor=2, method="random", seed=0)).model
    data = told(fxgrow.report(grown, x, tmp_path / "r.html", before=model))["growth"]
    assert not data["verification"]["ok"] and data["changes"][0]["parameters"][1] > data["changes"][0]["parameters"][0]


def test_inserted_blocks_are_told(tmp_path):
    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 32, 32)
    data = told(fxgrow.report(fxgrow.transform(model, x, Deepen("layer2", seed=0)), None, tmp_path / "r.html"))
    fresh = {i["path"] for i in walk(data["diagram"]["views"][0]["root"]) if i.get("change", {}).get("status") == "inserted"}
    assert fresh == {"layer2.2", "layer2.2.conv1", "layer2.2.conv2"} or fresh == {"layer2.2"}


def test_a_detector_has_costs_and_no_diagram(tmp_path):
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    data = told(fxgrow.report(model, ([torch.rand(3, 320, 320)],), tmp_path / "r.html"))
    assert data["diagram"] is None and data["missing"] and data["costs"]["modules"][0]["flops"] > 1e8


def test_names_are_data_and_never_markup():
    odd = '</script><script>alert(1)</script>& \u2028'
    made_page = page({"title": odd, "heat": [1.0, float("inf")]}).decode()
    assert made_page.count("<script") == 2 and "alert" in made_page and "\\u003c/script\\u003e" in made_page
    assert "\u2028" not in made_page and '"inf"' in made_page


def test_nothing_on_the_page_needs_a_network(tmp_path, grown):
    text = fxgrow.report(grown, None, tmp_path / "r.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\((?!#)|fetch\(|XMLHttp|import\(""", text)


def test_the_same_model_is_the_same_page(tmp_path, grown):
    one, two = (fxgrow.report(grown, None, tmp_path / f"{i}.html").read_bytes() for i in "ab")
    assert one == two


@pytest.mark.parametrize("name", ["r.svg", "r", "html"])
def test_other_files_are_refused(tmp_path, grown, name):
    with pytest.raises(DrawError, match=r"one \.html file"):
        fxgrow.report(grown, None, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_names_that_a_graph_cannot_call_are_refused_and_still_drawn(tmp_path, name):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3)
    model.add_module(name, nn.Linear(4, 2))
    for grow in (lambda: fxgrow.transform(model, x, Widen(factor=2)), lambda: fxgrow.capture(model, x)):
        with pytest.raises(CaptureError, match="another name"):
            grow()
    names = [r["name"] for i in walk(told(fxgrow.report(model, x, tmp_path / "r.html"))["diagram"]["views"][0]["root"])
             for r in i.get("rows", ())]
    assert name in names


# --- draw and diff as pages, and the command --------------------------------------------------------------------------


def test_draw_and_diff_write_pages(tmp_path, grown):
    model, x = torchvision.models.resnet18(), torch.zeros(1, 3, 32, 32)
    data = told(fxgrow.draw(model, x, tmp_path / "d.html", depth=1, heat="params"))
    assert data["diagram"]["colours"] == "params" and "growth" not in data
    root = data["diagram"]["views"][data["diagram"]["start"]]["root"]
    assert all(c["closed"] for c in root["children"] if "children" in c)
    data = told(fxgrow.draw(model, x, tmp_path / "d.html", depth=0, collapse="layer3"))
    assert [i["path"] for i in walk(data["diagram"]["views"][0]["root"]) if i.get("closed")] == ["layer3"]
    assert told(fxgrow.diff(grown).draw(tmp_path / "e.html"))["diagram"]["colours"] == "changes"
    with pytest.raises(DrawError, match="heat 'x'"):
        fxgrow.draw(model, x, tmp_path / "f.html", heat="x")
    assert not (tmp_path / "f.html").exists()


def test_the_command(tmp_path, monkeypatch, grown):
    monkeypatch.chdir(tmp_path)
    fxgrow.save(grown, "big.pt")
    assert "written     r.html" in run("report big.pt -o r.html").output
    data = told(tmp_path / "r.html")
    assert data["title"] == "big.pt" and data["growth"]["certificate"] and data["growth"]["verification"]["ok"]
    fxgrow.save(grown.record.shrink(grown.model), "small.pt", example_inputs=grown.example_inputs)
    run("report big.pt --before small.pt -o both.html")
    assert told(tmp_path / "both.html")["growth"]["verification"]["ok"]
    assert "one .html file" in run("report big.pt -o r.txt", 1).stderr and not (tmp_path / "r.txt").exists()
    assert "--before" in run("report big.pt --before-weights x -o r2.html", 2).stderr
