"""The zoo's names and options: what is built, what is read from text, and one clear error for what makes no sense."""
import pytest
import torch
from torch import nn

from fxgrow import zoo
from fxgrow.zoo import ZooError, create_model, list_models, options_for, parse_options
from fxgrow.zoo.registry import BUILDERS


def test_names_are_sorted_and_build():
    assert list_models() == sorted(list_models()) and "cifar_resnet18" in list_models()
    for name in list_models():
        assert zoo.model_options(name), name


def test_every_option_of_every_model_is_documented_by_a_default_of_its_kind():
    for name in list_models():
        assert all(type(v) in (int, float, bool, tuple) for v in zoo.model_options(name).values()), name


@pytest.mark.parametrize("name, options, why", [
    ("cifar_resnet19", {}, "no model 'cifar_resnet19'; the nearest are cifar_resnet1"),
    ("", {}, "no model ''; it has"),
    ("mlp", {"hiden": (3,)}, "no option 'hiden'; the nearest are hidden"),
    ("mlp", {"hidden": 3}, "several whole numbers"), ("mlp", {"hidden": (3, 0)}, "several whole numbers"),
    ("mlp", {"num_classes": 0}, "at least one"), ("mlp", {"num_classes": True}, "whole number"),
    ("mlp", {"num_classes": 10.0}, "whole number"), ("mlp", {"num_classes": 2 ** 31}, "whole number"),
    ("mlp", {"r": float("nan")}, "positive number"), ("mlp", {"r": -1}, "positive number"),
    ("mlp", {"r": 2 ** -10}, "leaves nothing of a layer of 256 channels: take at least 0.0039"),
    ("cifar_resnet10", {"stem": 5}, "stem is 5")])
def test_what_makes_no_sense(name, options, why):
    with pytest.raises(ZooError, match=why):
        create_model(name, **options)


def test_r_scales_every_width():
    whole, eighth = create_model("cifar_resnet18"), create_model("cifar_resnet18", r=2 ** -3)
    for a, b in zip(whole.modules(), eighth.modules()):
        if isinstance(a, nn.Conv2d):
            assert b.out_channels * 8 == a.out_channels
            assert b.in_channels * 8 == a.in_channels or a is whole.conv1


def test_options_that_fit_data():
    assert options_for("cifar_resnet18", (1, 8, 8), 7) == {"num_classes": 7, "in_channels": 1, "size": 8}
    assert options_for("mlp", (1, 40), 10) == {"num_classes": 10, "input_shape": (1, 40)}
    for name, shape in (("resnet1d", (1, 40)), ("cifar_resnet10", (1, 8, 8)), ("mlp", (2, 3, 5))):
        model = create_model(name, **options_for(name, shape, 7))
        assert model.input_shape == shape and model(torch.randn(2, *shape)).shape == (2, 7)
    with pytest.raises(ZooError, match=r"takes inputs such as \(3, 32, 32\); the data are of shape \(1, 40\)"):
        options_for("cifar_resnet10", (1, 40), 10)
    with pytest.raises(ZooError, match="takes square images"):
        options_for("cifar_resnet10", (1, 6, 5), 10)


def test_options_as_text():
    assert parse_options("") == {}
    assert parse_options("r=2**-3, num_classes=10,hidden=(64, 32),stem=True") == {
        "r": 0.125, "num_classes": 10, "hidden": (64, 32), "stem": True}
    assert parse_options("a=3*64,b=1/6,c=-2,d=2**3") == {"a": 192, "b": 1 / 6, "c": -2, "d": 8}


@pytest.mark.parametrize("text", [
    "r", "r=", "10", "**{}", "r=1)+(2", "r=__import__('os').getpid()", "r=x", "r=2**9999999", "r=1/0", "r=9**9**9",
    "r=[i for i in (1,)]", "r=lambda: 1", "r=1 if 1 else 2", "r=" + "(" * 500, "r=1\x00", "r='a'*2", "r=(-8)**0.5",
    "r=1,r=2", "r={[]: 1}", "r=True*2", "r=" + "*".join("1" * 20_000), "r=2**1e9", "r=1+1"])
def test_text_that_is_no_options(text):
    with pytest.raises(ZooError):
        parse_options(text)


@pytest.fixture
def names():
    before = dict(BUILDERS)
    yield
    BUILDERS.clear()
    BUILDERS.update(before)


def test_a_new_model_is_one_function(names):
    @zoo.register
    def two_layers(num_classes: int = 10, width: int = 4, bias: bool = True) -> nn.Module:
        model = nn.Sequential(nn.Linear(3, width, bias=bias), nn.Linear(width, num_classes))
        model.input_shape = (3,)
        return model

    assert "two_layers" in list_models()
    assert create_model("two_layers", width=5)[0].out_features == 5
    assert create_model("two_layers", bias=False)[0].bias is None
    with pytest.raises(ZooError, match="True or False"):
        create_model("two_layers", bias=1)
    with pytest.raises(ZooError, match="already"):
        zoo.register(two_layers)

    def no_default(width):
        return nn.Linear(width, width)

    with pytest.raises(ZooError, match="needs a default"):
        zoo.register(no_default)
