"""Pictures: what is a box, which module it stands in, what is folded, what the colours say, and what is refused."""
from __future__ import annotations

import pytest
import torch
import torchvision
from small_nets import Concat, Residual
from torch import nn

import fxgrow
from fxgrow.diagram import VIRIDIS, kinds_of
from fxgrow.diagram.build import Box, Diagram, build
from fxgrow.diagram.dot import COLOURS, columns_of
from fxgrow.diagram.drawing import picture
from fxgrow.diagram.heat import NOTHING, Heat
from fxgrow.diagram.repeats import MOST, chosen, fold_repeats
from fxgrow.errors import CaptureError, DrawError
from fxgrow.record import captured

IMAGE = torch.zeros(1, 3, 32, 32)


def diagram(model: nn.Module, x=IMAGE) -> Diagram:
    model, gm = captured(model, x)
    return build(gm, kinds_of(model))


def boxes(d: Diagram) -> list[Box]:
    return list(d.root.boxes())


def titles(d: Diagram) -> list[str]:
    return [", ".join(r.title for r in b.rows) for b in boxes(d)]


def links(d: Diagram) -> set[tuple[str, str]]:
    return {(e.tail.key, e.head.key) for e in d.edges()}


class Block(nn.Module):
    def __init__(self, activation: nn.Module):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 4), activation, nn.Linear(4, 4)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


class Blocks(nn.Module):
    """Equal blocks one after another; `tap`: the output also takes what one in the middle gives; `turns`: every other one
    is of another kind."""

    def __init__(self, count: int = 5, tap: int | None = None, turns: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(nn.Tanh() if turns and i % 2 else nn.ReLU()) for i in range(count))
        self.tap = tap

    def forward(self, x):
        middle = []
        for block in self.blocks:
            x = block(x)
            middle.append(x)
        return x if self.tap is None else x * middle[self.tap]


class Named(nn.Module):
    """Layers under the given names, one after another."""

    def __init__(self, *names: str):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return x


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_norms_and_activations_stand_in_the_box_of_what_they_follow():
    found = titles(diagram(torchvision.models.resnet18()))
    assert found[:3] == ["input", "Conv2d, BatchNorm2d, ReLU", "MaxPool2d"]
    assert found[-4:] == ["AdaptiveAvgPool2d", "flatten", "Linear", "output"]
    assert len(found) == 34 and found.count("add, ReLU") == 8


def test_a_box_says_settings_and_shape():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), nn.ConvTranspose2d(8, 6, (2, 3), groups=2))
    first, second = boxes(diagram(net, torch.zeros(2, 4, 8, 8)))[1:3]
    assert (first.rows[0].settings, first.shape) == ("4→8 k=3 s=2 g=4", "2×8×4×4")
    assert (second.rows[0].settings, second.shape) == ("8→6 k=2×3 g=2", "2×6×5×6")


def test_a_value_with_two_readers_is_not_hidden_in_a_chain():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            x = self.fc(x)
            return torch.relu(x) + x

    d = diagram(Two(), torch.zeros(2, 4))
    assert titles(d) == ["input", "Linear", "relu", "add", "output"]
    assert ("fc", "add") in links(d) and ("fc", "relu") in links(d)


def test_sizes_are_no_boxes_and_no_edges():
    class Sized(nn.Module):
        def forward(self, x, y):
            n, c = x.shape[:2]
            return y.reshape(n, c * 2, -1).contiguous() * x.size(0)

    d = diagram(Sized(), (torch.zeros(2, 3), torch.zeros(2, 6, 4)))
    assert titles(d) == ["input", "input", "reshape", "mul", "output"]
    assert links(d) == {("y", "reshape"), ("reshape", "mul_1"), ("mul_1", "output")}


def test_what_comes_from_parameters_alone_is_named_where_it_is_read():
    d = diagram(torchvision.models.vision_transformer.VisionTransformer(32, 16, 1, 2, 8, 16), IMAGE)
    named = {b.rows[0].title: b.rows[0].parameters for b in boxes(d) if b.rows[0].parameters}
    assert named == {"cat": ("class_token",), "add": ("encoder.pos_embedding",)}
    assert "getattr" not in " ".join(titles(d)) and "expand" not in " ".join(titles(d))


def test_members_of_a_tuple_come_with_their_shape():
    class Parts(nn.Module):
        def forward(self, x):
            a, b = x.split([3, 5], 1)
            return a.sum(1, keepdim=True) * b

    edges = {(e.tail.key, e.head.key): e.shape for e in diagram(Parts(), torch.zeros(2, 8)).edges()}
    assert edges == {("x", "split"): "", ("split", "sum_1"): "2×3", ("split", "mul"): "2×5", ("sum_1", "mul"): "",
                     ("mul", "output"): ""}


def test_what_was_written_in_place_reaches_later_readers():
    class Writes(nn.Module):
        def forward(self, x, y):
            x = torch.exp(x)
            x[:, 0] = y
            return x * 2

    d = diagram(Writes(), (torch.zeros(2, 3), torch.zeros(2)))
    assert {("exp", "setitem"), ("y", "setitem"), ("setitem", "mul")} <= links(d)


def test_a_branch_on_the_mode_is_a_join():
    class Mode(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x) if self.training else self.b(x)

    d = diagram(Mode(), torch.zeros(2, 3))
    assert titles(d) == ["input", "Linear", "Linear", "train | eval", "output"]
    assert {("a", "by_mode"), ("b", "by_mode")} <= links(d)


def test_a_module_that_calls_one_function_is_as_good_as_a_layer():
    class Gelu(nn.Module):
        def forward(self, x):
            return nn.functional.gelu(x)

    d = diagram(nn.Sequential(nn.Linear(3, 3), Gelu(), nn.Linear(3, 3)), torch.zeros(1, 3))
    assert titles(d) == ["input", "Linear, gelu", "Linear", "output"]


def test_modules_are_nested_and_one_that_holds_one_box_is_that_box():
    d = diagram(torchvision.models.inception_v3(init_weights=False), torch.zeros(1, 3, 299, 299))
    paths = [c.path for c in d.root.clusters()]
    assert "Mixed_5b" in paths and "Conv2d_1a_3x3" not in paths
    assert boxes(d)[1].path == "Conv2d_1a_3x3" and boxes(d)[1].kind == "BasicConv2d"


# --- what is folded -----------------------------------------------------------------------------------------------


def test_repeated_blocks_are_drawn_once():
    whole = diagram(torchvision.models.resnet50())
    once = fold_repeats(whole)
    assert {c.path: (c.times, c.last) for c in once.root.clusters() if c.times > 1} == {
        "layer1.1": (2, "layer1.2"), "layer2.1": (3, "layer2.3"), "layer3.1": (5, "layer3.5"), "layer4.1": (2, "layer4.2")}
    drawn = {n for b in boxes(once) for n in once.all_nodes(b)}
    assert drawn == {n for b in boxes(whole) for n in b.nodes}  # nothing is lost
    last, = (b for b in boxes(once) if b.key == "avgpool")
    assert [e.tail.path for e in once.edges() if e.head is last] == ["layer4.1"]


def test_blocks_that_take_turns_are_repeated_together():
    once = fold_repeats(diagram(Blocks(6, turns=True), torch.zeros(2, 4)))
    groups = [c for c in once.root.clusters() if c.group]
    assert [g.times for g in groups] == [3]


@pytest.mark.parametrize("tap,left", [(None, [5]), (1, [2, 3]), (3, [4]), (4, [5])])
def test_a_block_that_is_read_from_elsewhere_stays(tap, left):
    once = fold_repeats(diagram(Blocks(5, tap), torch.zeros(2, 4)))
    assert [c.times for c in once.root.clusters() if c.times > 1] == left


def test_blocks_of_other_sizes_or_beside_each_other_are_not_repeated():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2))

        def forward(self, x):
            return self.a(x) + self.b(x)

    sizes = nn.Sequential(*(nn.Sequential(nn.Linear(i, i + 1), nn.ReLU(), nn.Linear(i + 1, i + 1)) for i in range(3, 6)))
    for net, x in ((Beside(), torch.zeros(2, 4)), (sizes, torch.zeros(2, 3))):
        assert not fold_repeats(diagram(net, x)).stands


def test_depth_and_globs_fold_modules():
    d = diagram(torchvision.models.resnet18())
    top = boxes(d.fold(1))
    assert [b.path for b in top if b.folded] == ["layer1", "layer2", "layer3", "layer4"]
    assert top[3].families == {"convolution": 4, "normalisation": 4, "activation": 4, "arithmetic": 2}
    assert [b.path for b in boxes(d.fold(None, ["layer?.1"])) if b.folded] == [f"layer{i}.1" for i in range(1, 5)]
    assert len(d.fold(1).edges()) == 10


def test_a_folded_module_counts_its_repetitions():
    d = diagram(Blocks(5), torch.zeros(2, 4))
    box, = (b for b in boxes(fold_repeats(d).fold(1)) if b.folded)
    whole, = (b for b in boxes(d.fold(1)) if b.folded)
    assert box.families == whole.families and box.families["matrix product"] == 10


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["resnet152", "vit_b_16", "densenet201", "swin_t", "shufflenet_v2_x1_0",
                                  "mobilenet_v3_small"])
def test_large_networks_fit(name):
    d = chosen(diagram(torchvision.models.get_model(name), torch.zeros(1, 3, 224, 224)), None, (), None)
    assert 8 <= len(boxes(d)) <= MOST
    assert {e.head.key for e in d.edges()} == {b.key for b in boxes(d) if b.rows[0].title != "input"}


# --- what it looks like -------------------------------------------------------------------------------------------


def test_families_have_their_colours_and_the_legend_tells_them():
    text = picture(Concat().float(), torch.zeros(1, 3, 8, 8)).graph.source
    for family in ("convolution", "normalisation", "activation", "shape", "matrix product"):
        assert text.count(COLOURS[family]) >= 2 and f">{family}<" in text
    assert "attention" not in text and COLOURS["attention"] not in text


def test_the_same_model_is_the_same_picture(tmp_path):
    pictures = [fxgrow.draw(Concat().float(), torch.zeros(1, 3, 8, 8), tmp_path / f"{i}.svg").read_bytes() for i in "ab"]
    assert pictures[0] == pictures[1] and b"<svg" in pictures[0]


@pytest.mark.parametrize("suffix,start", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"digraph")])
def test_the_suffix_decides(tmp_path, suffix, start):
    path = fxgrow.draw(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / f"a.{suffix}")
    assert path.read_bytes().startswith(start)


def test_names_are_text(tmp_path):
    net = Named('a"];b', "<script>", "x:y", "back\\N")
    picture = fxgrow.draw(net, torch.zeros(1, 3), tmp_path / "a.svg").read_text()
    assert "<script" not in picture and "&lt;script&gt;" in picture and "a&quot;];b" in picture and "back\\N" in picture
    assert picture.count('class="node"') == 10


def test_a_model_that_does_nothing(tmp_path):
    for heat in (None, "params", "flops"):
        assert b"output" in fxgrow.draw(nn.Identity(), torch.zeros(1, 3), tmp_path / "a.svg", heat=heat).read_bytes()


def test_several_outputs_and_integer_inputs(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm = nn.Embedding(5, 3), nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            y, (h, _) = self.lstm(self.embed(x))
            return {"y": y, "h": h}

    d = diagram(Recurrent(), torch.zeros(2, 6, dtype=torch.long))
    assert [b.rows[0].settings for b in boxes(d)] == ["", "5→3", "3→4", ""]
    assert {e.shape for e in d.edges() if e.tail.key == "lstm"} == {"2×6×4", "1×2×4"}
    assert b"<svg" in fxgrow.draw(Recurrent(), torch.zeros(2, 6, dtype=torch.long), tmp_path / "a.svg").read_bytes()


def test_heat_colours_the_largest_share_brightest():
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2), nn.Sigmoid())
    _, gm = captured(model, torch.zeros(1, 4))
    d = build(gm)
    heat = Heat(gm, d, "params")
    assert heat.shares == pytest.approx({"input_1": 0, "_0": 500 / 702, "_2": 202 / 702, "output": 0})
    colours = [heat.colour(b) for b in boxes(d)]
    assert colours[1] == VIRIDIS[-1] and colours[0] == NOTHING
    text = picture(model, torch.zeros(1, 4), heat="params").graph.source
    assert "share of parameters" in text and "1×2, 28.8%" in text


def test_heat_of_repetitions_and_shared_parameters_is_the_whole():
    model = Blocks(5)
    model.blocks[1].up.weight = model.blocks[0].up.weight
    _, gm = captured(model, torch.zeros(2, 4))
    once = fold_repeats(build(gm))
    assert sum(Heat(gm, once, "params").shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("what", ["flops", "memory"])
def test_heat_by_cost(what):
    _, gm = captured(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.zeros(1, 4))
    heat = Heat(gm, build(gm), what)
    assert sum(heat.shares.values()) == pytest.approx(1) and heat.shares["_1"] > 0


# --- what is given, and what is refused ---------------------------------------------------------------------------


def test_captured_and_grown_models_know_their_inputs(tmp_path):
    grown = fxgrow.transform(Residual().float(), torch.zeros(1, 3, 8, 8), [])
    for model in (grown, grown.model):
        assert b"Conv2d" in fxgrow.draw(model, None, tmp_path / "a.dot").read_bytes()
    with pytest.raises(CaptureError, match="example_inputs"):
        fxgrow.draw(nn.Linear(3, 2), None, tmp_path / "b.dot")


@pytest.mark.parametrize("options,words", [({"depth": -1}, "how many levels"), ({"heat": "money"}, "flops, params, memory"),
                                           ({"collapse": "blok*"}, "blok.*block1")])
def test_refusals(tmp_path, options, words):
    with pytest.raises(DrawError, match=words):
        fxgrow.draw(Residual().float(), torch.zeros(1, 3, 8, 8), tmp_path / "a.dot", **options)
    with pytest.raises(DrawError, match="svg, png, pdf, dot"):
        fxgrow.draw(Residual().float(), torch.zeros(1, 3, 8, 8), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_without_the_program_only_dot_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DrawError, match="install graphviz"):
        fxgrow.draw(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
    fxgrow.draw(nn.Linear(3, 2), torch.zeros(1, 3), tmp_path / "a.dot")
    assert [p.name for p in tmp_path.iterdir()] == ["a.dot"]


# --- columns ------------------------------------------------------------------------------------------------------


def test_long_pictures_are_broken_between_modules():
    d = fold_repeats(diagram(torchvision.models.resnet152(), torch.zeros(1, 3, 64, 64)))
    column = columns_of(d, 3)
    assert list(column.values()) == sorted(column.values()) and set(column.values()) == {0, 1, 2}
    for module in d.root.children:
        assert isinstance(module, Box) or len({column[b.key] for b in module.boxes()}) == 1
    assert set(columns_of(d, None).values()) == {0, 1, 2} and set(columns_of(d, 1).values()) == {0}
    graph = picture(torchvision.models.resnet152(), torch.zeros(1, 3, 64, 64), columns=3).graph.source
    across = [e for e in d.edges() if column[e.tail.key] != column[e.head.key]]
    assert graph.count("constraint=false") == len(across) == 4 and graph.count("style=invis") == 2


def test_a_module_longer_than_a_column_is_parted():
    d = diagram(Blocks(20), torch.zeros(2, 4))
    found = columns_of(d, 4)
    counts = [list(found.values()).count(i) for i in range(4)]
    assert min(counts) > 0 and max(counts) - min(counts) <= 4


def test_short_pictures_have_one_column():
    assert set(columns_of(diagram(Blocks(3), torch.zeros(2, 4)), None).values()) == {0}
    with pytest.raises(DrawError, match="columns 0"):
        picture(Blocks(3), torch.zeros(2, 4), columns=0)


def test_a_captured_model_is_drawn_at_the_inputs_given():
    gm = fxgrow.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(2, 3, 8, 8),))
    shapes = {size: [box.shape for box in boxes(diagram(gm, torch.randn(2, 3, size, size)))] for size in (8, 20)}
    assert "6" in shapes[8][1] and "18" not in shapes[8][1] and "18" in shapes[20][1], shapes
    assert [box.shape for box in boxes(diagram(gm, None))] == shapes[8]  # the module's own example is as it was
