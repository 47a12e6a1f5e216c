"""Filters, attributions and activation maximisation: what is shown, how it is compared, and what is refused."""
from __future__ import annotations

import builtins
import json

import numpy
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from support import shake
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import ArchiveError, DrawError, SelectionError
from fxgrow.passes import Deepen, Widen
from fxgrow.visual.attributions import METHODS, read_image, spread
from fxgrow.visual.filters import BLUE, MARGIN


class Small(nn.Module):
    """A classifier of images by one functional and two other convolutions, with a sum in the middle."""

    def __init__(self, channels: int = 3, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.randn(6, 6, 3, 3) / 5)
        self.last = nn.Conv2d(6, 8, 3)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(F.conv2d(x, self.weight, padding=1))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.last(x)), 1).flatten(1))


def small(channels: int = 3, size: int = 16) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = shake(Small(channels).double()).eval()
    return model, torch.randn(2, channels, size, size).double()


@pytest.fixture(scope="module")
def grown():
    model, x = small()
    return model, fxgrow.transform(model, x, Widen("stem", to=10, method="r2r", seed=0))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    noise = numpy.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def saved(grown, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "big.pt"
    fxgrow.save(grown[1], path)
    return path


def frames(panel, columns: int, h: int, w: int) -> list[bool]:
    """For each tile of a grid, whether its frame is blue throughout; the scale is the largest, 12."""
    high, wide = 12 * h + 2 * MARGIN, 12 * w + 2 * MARGIN
    rows = panel.image.shape[0] // high
    cells = panel.image.reshape(rows, high, columns, wide, 3).transpose(0, 2, 1, 3, 4).reshape(-1, high, wide, 3)
    return [bool((c[1, 1:-1] == BLUE).all() and (c[1:-1, 1] == BLUE).all()) for c in cells]


# --- filters ------------------------------------------------------------------------------------------------------


def test_filters_are_framed_where_and_only_where_they_are_new(grown):
    before, after = fxgrow.plot_filters(grown[1]).panels[0]
    new = grown[1].record.new_mask("stem.weight", grown[1].model.stem.weight).flatten(1).all(1).tolist()
    assert sum(new) == 4
    assert (after.facts["new_filters"], before.facts["new_filters"]) == ([6, 7, 8, 9], [])
    columns = after.image.shape[1] // (3 * 12 + 2 * MARGIN)
    assert frames(after, columns, 3, 3)[:10] == new
    assert not any(frames(before, before.image.shape[1] // 44, 3, 3))
    assert "4 of 10 filters are new" in after.words and "6x3x3x3" in before.words


def test_filters_of_one_row_have_one_scale(grown):
    model, _ = grown
    loud, x = small()
    with torch.no_grad():
        loud.stem.weight *= 4
    alone = fxgrow.plot_filters({"a": model}, x).panels[0][0].image
    first, second = fxgrow.plot_filters({"a": model, "b": loud}, x).panels[0]
    far = [numpy.abs(p.astype(int) - 128)[MARGIN:40, MARGIN:40].mean() for p in (alone, first.image, second.image)]
    assert far[1] < far[0] / 2 and far[2] > 3 * far[1]


def test_layers_by_glob_are_rows_and_the_small_network_has_its_own_names():
    model, x = small()
    grown = fxgrow.transform(model, x, Deepen("input", method="r2r", block="basic", seed=0))
    picture = fxgrow.plot_filters(grown, layer="*")
    names = [[p.facts["layer"] for p in row] for row in picture.panels]
    assert ["stem", "stem"] in names and names[0][0] is None and names[0][1] not in ("stem", None)
    assert "has no such layer" in picture.panels[0][0].words
    first = picture.panels[0][1]
    assert first.facts["new_filters"] == list(range(first.facts["shape"][0]))


def test_partly_new_filters_are_told(grown):
    before, after = fxgrow.plot_filters(grown[1], layer="last").panels[0]
    assert before.facts["partly_new"] == []
    assert after.facts["partly_new"] == list(range(8)) and after.facts["new_filters"] == []


def test_no_convolution_and_unknown_layers():
    with pytest.raises(DrawError, match="no convolution"):
        fxgrow.plot_filters(nn.Linear(3, 3), torch.randn(1, 3))
    model, x = small()
    with pytest.raises(SelectionError, match="'stam'; the nearest are stem"):
        fxgrow.plot_filters(model, x, layer="stam")
    with pytest.raises(SelectionError, match="the nearest are stem"):
        fxgrow.plot_features(model, x, layer="stam")


# --- saliency -----------------------------------------------------------------------------------------------------


def test_guided_backpropagation_takes_functions_and_needs_relus(photo):
    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 3)
            self.function = function

        def forward(self, x):
            return self.fc(self.function(self.act(self.conv(x)) - 0.1).mean((2, 3)))

    torch.manual_seed(0)
    image = torch.rand(3, 8, 8)
    model = Net(torch.relu).double().eval()
    _, fact = fxgrow.plot_saliency(model, image, torch.zeros(1, 3, 8, 8).double(), target=1,
                                   attribution="guided-backprop").facts
    assert fact["largest"] > 0
    inputs = ((image.double() - spread(3, None, None)[0]) / spread(3, None, None)[1])[None].requires_grad_()
    a = model.conv(inputs)
    b = a.clamp_min(0) - 0.1
    flow = (model.fc.weight[1] / b[0, 0].numel())[None, :, None, None].expand_as(b)
    for value in (b, a):
        flow = flow.clamp_min(0) * (value > 0)
    wanted, = torch.autograd.grad(a, inputs, flow)
    assert fact["largest"] == pytest.approx(float(wanted[0].sum(0).abs().max()))
    with pytest.raises(DrawError, match="ReLUs"):
        fxgrow.plot_saliency(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), image, torch.zeros(1, 3, 8, 8),
                             attribution="guided-backprop")


@pytest.mark.parametrize("method", METHODS)
def test_teacher_and_student_look_at_the_same(grown, photo, method):
    model, student = grown
    picture = fxgrow.plot_saliency({"teacher": model, "student": student}, photo, student.example_inputs, attribution=method,
                                   steps=8)
    _, teacher, after = picture.facts
    assert teacher["largest"] > 0 and after["difference"] < 1e-9
    assert abs(teacher["logit"] - after["logit"]) < 1e-9
    shown = [p.image for p in picture.panels[0][1:]]
    assert numpy.abs(shown[0].astype(int) - shown[1]).max() <= 1


def test_another_network_differs(grown, photo):
    model, student = grown
    other, _ = small()
    with torch.no_grad():
        other.last.weight.neg_()
    *_, fact = fxgrow.plot_saliency({"a": model, "b": other}, photo, student.example_inputs).facts
    assert fact["difference"] > 0.05


def test_saliency_is_the_gradient(photo):
    model, x = small()
    mean, std = spread(3, None, None)
    inputs = ((read_image(photo, 3, (16, 16)) - mean) / std)[None].requires_grad_()
    target = int(model(inputs).argmax())
    gradient, = torch.autograd.grad(model(inputs)[0, target], inputs)
    fact = fxgrow.plot_saliency({"a": model}, photo, x).facts[1]
    assert fact["class"] == target
    assert fact["largest"] == pytest.approx(float(gradient.abs().max()), rel=1e-12)
    assert fxgrow.plot_saliency({"a": model}, photo, x, target=2).facts[1]["class"] == 2


def test_photographs_are_scaled_and_cut_to_their_middle(tmp_path):
    left = numpy.zeros((60, 90, 3), numpy.uint8)
    left[:, 45:] = 255
    Image.fromarray(left).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 3, (16, 16))
    assert image.shape == (3, 16, 16) and image[:, :, :7].max() < 0.05 and image[:, :, 9:].min() > 0.95
    assert read_image(tmp_path / "a.png", 1, (8, 20)).shape == (1, 8, 20)


def test_grey_networks_take_grey_photographs(photo):
    model, x = small(channels=1)
    picture = fxgrow.plot_saliency(model, photo, x)
    assert numpy.ptp(picture.panels[0][0].image, axis=2).max() == 0 and picture.facts[1]["largest"] > 0


def test_useless_images_and_models_are_refused(photo, tmp_path):
    model, x = small()
    with pytest.raises(DrawError, match="nowhere.png cannot be read as an image"):
        fxgrow.plot_saliency(model, tmp_path / "nowhere.png", x)
    (tmp_path / "bad.png").write_bytes(photo.read_bytes()[:200])
    with pytest.raises(DrawError, match="bad.png cannot be read as an image"):
        fxgrow.plot_saliency(model, tmp_path / "bad.png", x)
    with pytest.raises(DrawError, match="no class 9: its classes are 0 to 4"):
        fxgrow.plot_saliency(model, photo, x, target=9)
    with pytest.raises(DrawError, match=r"takes \[1, 7\], not one image"):
        fxgrow.plot_saliency(nn.Linear(7, 2), photo, torch.randn(1, 7))
    with pytest.raises(DrawError, match=r"gives \[1, 4, 6, 6\], not one logit a class"):
        fxgrow.plot_saliency(nn.Conv2d(3, 4, 3), photo, torch.randn(1, 3, 8, 8))
    with pytest.raises(DrawError, match="give 3 numbers, one a channel, above 0"):
        fxgrow.plot_saliency(model, photo, x, std=(1, 0, 1))
    with pytest.raises(DrawError, match=r"does not run on an image \[1, 3, 2, 2\]"):
        fxgrow.plot_saliency(model, photo, x, size=(2, 2))


# --- activation maximisation --------------------------------------------------------------------------------------


def test_class_images_raise_the_logit_and_are_the_same_for_teacher_and_student(grown):
    model, student = grown
    picture = fxgrow.plot_features({"teacher": model, "student": student}, student.example_inputs, target=1, steps=24)
    teacher, after = picture.facts
    weight = float(model.fc.weight[1].detach().norm())
    assert teacher["after"] > teacher["before"] + 0.2 * weight
    assert teacher["after"] == pytest.approx(after["after"], rel=1e-6)
    assert numpy.abs(picture.panels[0][0].image.astype(int) - picture.panels[0][1].image).max() <= 1


def test_seeds_reproduce_and_matter():
    model, x = small()
    state = torch.get_rng_state()
    one, two, other = (fxgrow.plot_features(model, x, target=0, steps=4, seed=s).panels[0][0].image for s in (1, 1, 2))
    assert numpy.array_equal(one, two) and not numpy.array_equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_channels_of_a_grown_layer_are_old_and_new_ones(grown):
    picture = fxgrow.plot_features(grown[1], steps=6)
    assert [(f["what"], f["new"]) for f in picture.facts] == [
        ("stem, channel 0", False), ("stem, channel 5", False), ("stem, channel 6", True), ("stem, channel 9", True)]
    assert all(f["after"] > f["before"] for f in picture.facts)


def test_channels_of_functions_and_operators():
    model, x = small()
    graph = fxgrow.capture(model, x)
    added = next(n.name for n in graph.graph.nodes if n.name.startswith("add"))
    for layer in (added, "norm", "fc", "relu"):
        fact, = fxgrow.plot_features(graph, layer=layer, channels=[2], steps=6).facts
        assert fact["what"] == f"{layer}, channel 2" and fact["after"] > fact["before"], layer


def test_a_channel_that_one_model_lacks_is_told(grown):
    picture = fxgrow.plot_features({"small": grown[0], "big": grown[1]}, grown[1].example_inputs, channels=[7], steps=2)
    assert picture.panels[0][0].image is None and "has no channel 7" in picture.panels[0][0].words
    assert picture.panels[0][1].image is not None
    with pytest.raises(DrawError, match="no channel 40: they are 0 to 9"):
        fxgrow.plot_features(grown[1], channels=[40])
    with pytest.raises(DrawError, match="no class 5"):
        fxgrow.plot_features(grown[1], target=5)
    with pytest.raises(DrawError, match="a class or the channels"):
        fxgrow.plot_features(grown[1], target=1, layer="stem")


def test_models_are_left_as_they_were(photo):
    model, x = small()
    model.train()
    model.stem.weight.requires_grad_(False)
    model(x).sum().backward()
    was = {n: (p.clone(), p.requires_grad, None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    fxgrow.plot_filters(model, x)
    fxgrow.plot_saliency(model, photo, x)
    fxgrow.plot_features(model, x, target=0, steps=2)
    assert all(m.training for m in model.modules())
    for name, p in model.named_parameters():
        value, wanted, grad = was[name]
        assert torch.equal(p, value) and p.requires_grad == wanted
        assert p.grad is None if grad is None else torch.equal(p.grad, grad)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


# --- files --------------------------------------------------------------------------------------------------------


def test_names_are_text_and_settings_are_left_alone(tmp_path):
    import matplotlib
    name = "$x^2$ \\frac <b>a_b</b>\n\x1b[31m"
    model, x = small()
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    picture = fxgrow.plot_filters({name: model}, x)
    texts = list(picture.figure.texts)
    assert not any(t.get_parse_math() for t in texts)
    assert "$x^2$\\frac<b>a_b</b>\\n\\x1b[31m" in "".join(t.get_text() for t in texts).replace(" ", "")
    picture.save(tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend


def test_files_are_whole_repeatable_and_every_pixel_is_kept(grown, tmp_path):
    picture = fxgrow.plot_filters(grown[1])
    picture.save(tmp_path / "a.png")
    fxgrow.plot_filters(grown[1]).save(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = numpy.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    grid = picture.panels[0][0].image
    corner = numpy.lib.stride_tricks.sliding_window_view(pixels, grid.shape)[:, :, 0]
    assert any(numpy.array_equal(corner[y, 12], grid) for y in range(corner.shape[0]))
    with pytest.raises(DrawError, match=r"ends in \.png"):
        picture.save(tmp_path / "a.jpg")
    with pytest.raises(ArchiveError, match="does not exist"):
        picture.save(tmp_path / "no" / "a.png")


@pytest.mark.parametrize("package", ["captum", "matplotlib", "PIL"])
def test_a_missing_package_names_the_extra(package, monkeypatch, photo, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)
    model, x = small()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DrawError, match=r"fxgrow\[plots\]"):
        fxgrow.plot_saliency(model, photo, x).save(tmp_path / "a.png")


# --- the command --------------------------------------------------------------------------------------------------


def run(*words) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["visualize", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_shows_filters_and_logs_them(saved, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    code, text = run(saved, "-o", tmp_path / "a.png", "--logdir", tmp_path / "tb")
    assert code == 0 and "big.pt (grown)" in text and "written" in text, text
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    image, = events.Images("visualize/filters")
    assert (image.width, image.height) == Image.open(tmp_path / "a.png").size


def test_the_command_attributes_and_raises(saved, photo, tmp_path):
    code, text = run(saved, saved, "--what", "saliency", "--image", photo, "--attribution", "integrated-gradients",
                     "--steps", 4, "--size", "20,16", "-o", tmp_path / "s.png", "--json")
    panels = json.loads(text)["panels"]
    assert code == 0 and [p["model"] for p in panels] == [None, f"{saved} (1)", f"{saved} (2)"]
    assert panels[2]["difference"] == 0 and (tmp_path / "s.png").exists()
    code, text = run(saved, "--what", "class", "--target", 1, "--steps", 3, "-o", tmp_path / "c.png")
    assert code == 0 and "before: the small network in it" in text, text
    code, text = run(saved, "--what", "channel", "--layer", "last", "--channels", "0,5", "--steps", 3, "--json", "-o",
                     tmp_path / "k.png")
    assert [p["what"] for p in json.loads(text)["panels"]] == ["last, channel 0", "last, channel 5"]


@pytest.mark.parametrize("words, code, says", [
    (["--what", "saliency"], 2, "needs --image"),
    (["--what", "class"], 2, "needs --target"),
    (["--target", "1"], 2, "--target is for --what saliency or class, not for filters"),
    (["--what", "channel", "--channels", "a"], 2, "numbers with commas"),
    (["--what", "class", "--target", "77"], 1, "no class 77: its classes are 0 to 4"),
    (["--layer", "stam"], 1, "the nearest are stem"),
    (["--what", "saliency", "--image", "nowhere.jpg"], 1, "nowhere.jpg cannot be read as an image"),
    (["--what", "saliency", "--image", "x.png", "--steps", "3"], 2, "--steps is for")])
def test_mistakes_are_told_in_a_line_and_leave_no_file(saved, tmp_path, words, code, says):
    got, text = run(saved, *words, "-o", tmp_path / "a.png")
    assert got == code and says in " ".join(text.split()), text
    assert not list(tmp_path.iterdir())
