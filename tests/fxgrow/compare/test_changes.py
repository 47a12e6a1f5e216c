"""Differences: what grew, what was inserted or removed, what moved, which numbers are new, and how it is drawn."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import CliRunner
from small_nets import Block, Residual
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.diagram.changes import CELLS, GREY, NEW, bar
from fxgrow.errors import DrawError, GrowthError
from fxgrow.passes import Deepen, SqueezeExcite, Widen

IMAGE = torch.zeros(1, 3, 8, 8)


class Stages(nn.Module):
    """Blocks in a row, so that one that is put between them moves the others."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(3) for _ in range(3)))

    def forward(self, x):
        return self.blocks(x).mean((2, 3))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def changed(found: fxgrow.Difference) -> dict[str, str]:
    return {c.name or c.was: c.status for c in found.layers if c.status != "same"}


def widened(**options) -> fxgrow.Grown:
    return fxgrow.transform(Residual().float(), IMAGE, [Widen("block1.conv1", by=2, seed=0, **options)])


# --- what is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["r2r", "netmorph", "net2net"])
def test_a_wider_layer_grew_and_so_did_its_reader(method):
    found = fxgrow.diff(widened(method=method))
    assert changed(found) == {"block1.conv1": "grown", "block1.bn1": "grown", "block1.conv2": "grown"}
    first, norm, reader = (c for c in found.layers if c.status == "grown")
    assert (first.before, first.after) == ("6→6 k=3", "6→8 k=3")
    assert (first.parameters, first.new) == ((6 * 6 * 9, 8 * 6 * 9), 2 * 6 * 9)
    assert (norm.parameters, norm.new) == ((12, 16), 4)
    assert (reader.parameters, reader.new, reader.after) == ((324, 432), 108, "8→6 k=3")
    assert first.flops[1] * 6 == first.flops[0] * 8


def test_the_sums_are_those_of_the_models():
    grown = widened()
    total = fxgrow.diff(grown).total
    assert total.parameters == (size(Residual()), size(grown.model))
    assert total.new == size(grown.model) - size(Residual())
    assert total.flops == (fxgrow.count_flops(Residual().float(), IMAGE).total, fxgrow.count_flops(grown.model, IMAGE).total)


def test_what_was_inserted_is_told_from_what_moved():
    grown = fxgrow.transform(Stages(), IMAGE, [Deepen("blocks.0", seed=0)])
    found = fxgrow.diff(grown)
    layers = ("conv1", "bn1", "conv2", "bn2")
    assert {(name.rpartition(".")[0], status) for name, status in changed(found).items()} == {("blocks.1", "inserted")}
    assert {f"blocks.1.{layer}" for layer in layers} <= changed(found).keys()
    assert {c.name: c.was for c in found.layers if c.status == "same" and c.name != c.was} == {
        f"blocks.{i}.{layer}": f"blocks.{i - 1}.{layer}" for i in (2, 3) for layer in layers}
    assert all(c.new == c.parameters[1] and c.parameters[0] == 0 for c in found.layers if c.status == "inserted")


def test_a_block_that_moved_and_grew():
    grown = fxgrow.transform(Stages(), IMAGE, [Deepen("blocks.0", seed=0), Widen("blocks.2.conv1", by=2, seed=0)])
    found = {c.name: c for c in fxgrow.diff(grown).layers}
    assert (found["blocks.2.conv1"].was, found["blocks.2.conv1"].status) == ("blocks.1.conv1", "grown")
    assert found["blocks.2.conv1"].new == 2 * 3 * 9


def test_a_file_and_both_models_say_the_same_as_what_transform_gave(tmp_path):
    model = Residual().float()
    grown = fxgrow.transform(model, IMAGE, [Widen(factor=1.5, seed=0), SqueezeExcite("block2", seed=0)])
    fxgrow.save(grown, tmp_path / "a.pt")
    first = fxgrow.diff(grown)
    assert any(c.status == "inserted" for c in first.layers)
    for other in (fxgrow.diff(fxgrow.load(tmp_path / "a.pt")), fxgrow.diff(model, grown), fxgrow.diff(model, grown.model)):
        assert other.recorded and [vars(c) for c in other.layers] == [vars(c) for c in first.layers]


def test_two_models_without_a_record():
    small, big = torchvision.models.resnet18(), torchvision.models.resnet34()
    found = fxgrow.diff(small, big, torch.zeros(1, 3, 32, 32))
    assert not found.recorded and found.total.parameters == (size(small), size(big))
    assert found.total.new == size(big) - size(small)
    assert changed(found)["layer1.2.conv1"] == "inserted" and "layer1.1.conv1" not in changed(found)
    back = fxgrow.diff(big, small, torch.zeros(1, 3, 32, 32))
    assert changed(back)["layer1.2.conv1"] == "removed" and back.total.new == 0


def test_a_record_of_another_model_is_not_asked():
    other = Residual(groups=3).float()
    found = fxgrow.diff(other, widened())
    assert not found.recorded and changed(found)["block1.conv1"] == "grown"


def test_what_was_put_in_after_the_growth_is_not_taken_for_old():
    grown = widened()
    grown.model.fc = nn.Linear(6, 7)
    found = {c.name: c for c in fxgrow.diff(grown).layers}
    assert (found["fc"].status, found["fc"].parameters, found["fc"].new) == ("grown", (35, 49), 14)


def test_both_are_counted_in_the_mode_of_the_new_one():
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.aux = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = self.fc(x)
            return x + self.aux(x) if self.training else x

    before, after = Aux().eval(), Aux().train()
    total = fxgrow.diff(before, after, torch.zeros(1, 3)).total
    assert total.flops[0] == total.flops[1] > 0 and not before.training and after.training


def test_other_settings_are_a_change():
    a, b = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))
    change, = fxgrow.diff(a, b, IMAGE).layers
    assert (change.status, change.new, change.before, change.after) == ("grown", 0, "3→4 k=3", "3→4 k=3 s=2")


def test_weights_of_functions_and_shared_ones_count_once():
    class Twice(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width, 3))

        def forward(self, x):
            return F.linear(F.linear(x, self.weight), self.weight.t())

    found = fxgrow.diff(Twice(4), Twice(5), torch.zeros(1, 3))
    assert found.total.parameters == (12, 15) and found.total.new == 3


def test_a_model_alone_that_has_not_grown():
    with pytest.raises(GrowthError, match="give both models"):
        fxgrow.diff(Residual().float())


# --- how it is shown ----------------------------------------------------------------------------------------------


def test_the_table_names_what_changed_and_counts_the_rest():
    found = fxgrow.diff(widened())
    text = str(found)
    assert "block1.conv1" in text and "6→6 k=3 ⇒ 6→8 k=3" in text and "324 ⇒ 432" in text
    assert "block2.conv1" not in text and "8 layers as they were" in text
    assert found.table(every=True).row_count == 12
    assert json.loads(json.dumps(found.to_json()))["total"]["new"] == found.total.new


def test_the_picture_greys_what_is_untouched_and_frames_what_is_new(tmp_path):
    grown = fxgrow.transform(Stages(), IMAGE, [Deepen("blocks.0", seed=0), Widen("blocks.0.conv1", by=4, seed=0)])
    dot = fxgrow.diff(grown).draw(tmp_path / "a.dot").read_text()
    untouched, inserted = _label(dot, "blocks_1_conv1"), _label(dot, "blocks_0_conv1_1")
    assert GREY in untouched and "bar" not in untouched and NEW not in untouched
    assert f'border="2" color="{NEW}"' in inserted and GREY not in inserted
    grew = _label(dot, "blocks_0_conv1")
    assert "was 3→3 k=3" in grew and "3→7 k=3" in grew and grew.count("57% new") == 2  # the norm too
    assert grew.count(f'bgcolor="{NEW}"') == 2 * round(CELLS * 4 / 7)
    assert dot.count(f'color="{NEW}" label=<blocks.1>') == 1  # the inserted block's frame


def _label(dot: str, key: str) -> str:
    return next(line for line in dot.splitlines() if line.strip().startswith(f"{key} [") or
                line.strip().startswith(f'"{key}" ['))


def test_the_bar_is_as_long_as_the_share_of_new_numbers():
    assert bar(0, 10) == ""
    for new, size_, cells in ((1, 1000, 1), (25, 100, CELLS // 4), (100, 100, CELLS)):
        assert bar(new, size_).count(f'bgcolor="{NEW}"') == cells
        assert bar(new, size_).count("<td bgcolor") == CELLS
    assert "less than 1% new" in bar(1, 1000)


def test_blocks_that_changed_otherwise_are_not_drawn_as_repetitions(tmp_path):
    model = torchvision.models.resnet50()
    grown = fxgrow.transform(model, torch.zeros(1, 3, 32, 32), [Widen("layer3.3.conv1", factor=1.5, seed=0)])
    dot = fxgrow.diff(grown).draw(tmp_path / "a.dot", repeats=True).read_text()
    assert "to layer3.2" in dot and "to layer3.5" in dot and "layer3.3" in dot


def test_folded_modules_say_what_is_in_them(tmp_path):
    dot = fxgrow.diff(widened()).draw(tmp_path / "a.dot", depth=1).read_text()
    assert "3 grown; 672 ⇒ 892 parameters" in _label(dot, "block1_conv1") and "untouched" in _label(dot, "block2_conv1")


def test_a_refused_picture_leaves_no_file(tmp_path):
    with pytest.raises(DrawError, match="svg, png, pdf, dot"):
        fxgrow.diff(widened()).draw(tmp_path / "a.bmp")
    assert list(tmp_path.iterdir()) == []


# --- on the command line ------------------------------------------------------------------------------------------


def run(*words: str):
    return CliRunner().invoke(main, list(words))


def test_diff_of_a_file(tmp_path):
    file = tmp_path / "grown.pt"
    fxgrow.save(widened(), file)
    done = run("diff", str(file), "-o", str(tmp_path / "a.svg"))
    assert done.exit_code == 0, done.output
    assert "block1.conv1" in done.output and (tmp_path / "a.svg").read_text().startswith("<?xml")
    report = json.loads(run("diff", str(file), "--json").output)
    assert report["recorded"] and report["total"]["new"] == 220 and report["file"] is None


def test_diff_of_two_models():
    report = json.loads(run("diff", "torchvision:resnet18", "torchvision:resnet34", "--json").output)
    assert report["total"]["parameters"] == [11689512, 21797672]


def test_diff_of_a_model_that_has_not_grown(tmp_path):
    done = run("diff", "torchvision:resnet18", "-o", str(tmp_path / "a.svg"))
    assert done.exit_code == 1 and "give both models" in done.output and list(tmp_path.iterdir()) == []


def test_draw_and_its_refusals(tmp_path):
    done = run("draw", "torchvision:resnet18", "-o", str(tmp_path / "a.dot"), "--collapse", "layer1.*", "--depth", "2")
    assert done.exit_code == 0 and "written" in done.output and "layer1" in (tmp_path / "a.dot").read_text()
    for words in (("--collapse", "nothing.*"), ("--heat", "params", "-o", str(tmp_path / "b.gif"))):
        done = run("draw", "torchvision:resnet18", "-o", str(tmp_path / "b.svg"), *words)
        assert done.exit_code == 1 and done.output.startswith("error: ") and done.output.count("\n") == 1
    assert run("draw", "torchvision:resnet18", "-o", "x.svg", "--heat", "money").exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.dot"]


def test_draw_writes_to_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    file, folder = str(tmp_path / "a.svg"), str(tmp_path / "tb")
    done = run("draw", "torchvision:resnet18", "-o", file, "--depth", "1", "--logdir", folder)
    assert done.exit_code == 0, done.output
    events = accumulator.EventAccumulator(folder)
    events.Reload()
    image, = events.Images("model/diagram")
    assert image.encoded_image_string.startswith(b"\x89PNG") and image.height > 300
    text, = events.Tensors("model/boxes/text_summary")
    assert "| layer1 | 4 convolution" in text.tensor_proto.string_val[0].decode()


def test_what_holds_fewer_old_numbers_is_shrunk(tmp_path):
    grown = widened()
    back = fxgrow.diff(grown.model, grown.record.shrink(grown.model))
    found = {c.status for c in back.layers}
    assert found == {"same", "shrunk"} and back.total.status == "shrunk" and back.total.new == 0
    assert "shrunk" in back.draw(tmp_path / "a.dot").read_text()


def test_weights_before_and_after_and_what_is_new():
    grown = widened()
    found = list(fxgrow.diff(grown).weights())
    assert sum(int(w.new.sum()) for w in found) == fxgrow.diff(grown).total.new
    for w in found:
        assert w.before is not None and w.after is not None  # old numbers were taken out of the grown model
        if not w.new.any():
            continue
        kept = w.after[~w.new] if w.before.numel() == int((~w.new).sum()) else None
        assert kept is None or torch.equal(kept.sort().values, w.before.flatten().sort().values)


def test_the_page_of_a_difference_shows_weights(tmp_path):
    page = fxgrow.diff(widened()).draw(tmp_path / "a.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])["weights"]
    assert data["drawn"] and data["left"] == 0
    first = data["drawn"][0]
    assert first["before"]["shape"] != first["after"]["shape"] and first["after"]["height"] <= 128


def test_draw_and_report_as_json(tmp_path):
    file = str(tmp_path / "a.dot")
    told = json.loads(run("draw", "zoo:cifar_resnet10", "-o", file, "--json", "--direction", "right", "--font-size", "12",
                          "--no-legend", "--style", "paper").stdout)
    assert told["file"] == file and told["note"] == "" and "rankdir=LR" in (tmp_path / "a.dot").read_text()
    first = told["boxes"][1]
    assert first["operations"][0].startswith("Conv2d 3→") and first["to"] == [told["boxes"][2]["key"]]
    file = str(tmp_path / "a.html")
    told = json.loads(run("report", "zoo:cifar_resnet10", "-o", file, "--json").stdout)
    assert told["file"] == file and told["facts"]["class"] and told["costs"]["modules"] and "diagram" not in told
