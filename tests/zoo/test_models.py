"""Each model's number of parameters and output; the big ones against timm's, number for number."""
import math

import pytest
import timm
import torch
from torch import nn

import fxgrow
from fxgrow.zoo import ZooError, create_model, list_models

# name: parameters, size at which the forward pass is tried
MODELS = {
    "cifar_resnet10": (684_362, 32), "cifar_resnet18": (1_423_178, 32), "inception_bn": (11_285_224, 64),
    "inception_resnet_v2": (55_843_464, 96), "inception_resnet_v2_small": (837_530, 32), "inception_v4": (42_679_816, 96),
    "inception_v4_small": (805_922, 32), "inception_v4_1d": (516_706, 40), "inception_resnet_v2_1d": (571_930, 40),
    "mlp": (269_322, None), "mnist_resnet": (119_938, 28),
    "net2net_conv": (591_274, 32), "residual3": (437_434, 32), "resnet1d": (176_874, 40),
    "vit_small32": (2_693_194, 32), "convnext32": (908_890, 32)}
TEXT = {"gpt": 875_264}  # what reads tokens is tried in test_gpt


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_model_is_here():
    assert sorted(MODELS | TEXT) == list_models()


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_output(name):
    count, size = MODELS[name]
    classes = 1000 if count > 10_000_000 else 10
    with torch.device("meta"):
        model = create_model(name)
        assert parameters(model) == count
        assert model(torch.zeros(2, *model.input_shape)).shape == (2, classes)
        other = create_model(name, num_classes=7, **({} if size is None else {"size": size, "in_channels": 4}))
        assert other.input_shape[0] == (1 if size is None else 4)
        assert other(torch.zeros(2, *other.input_shape)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"inception_bn", "inception_v4", "inception_resnet_v2"}))
def test_outputs_are_numbers_that_depend_on_the_image(name):
    torch.manual_seed(0)
    model = create_model(name, r=0.25)
    first, second = model(torch.randn(2, *model.input_shape))
    assert first.isfinite().all() and not torch.allclose(first, second)


def test_parameters_of_what_reads_text():
    for name, count in TEXT.items():
        assert parameters(create_model(name)) == count


def test_counts_by_hand():
    assert parameters(create_model("mlp", input_shape=(3, 4), hidden=(5,), num_classes=2)) == 12 * 5 + 5 + 5 * 2 + 2
    assert parameters(create_model("net2net_conv", size=8, num_classes=2)) == sum(
        9 * a * b + b for a, b in ((3, 32), (32, 32), (32, 64), (64, 64))) + (64 * 4 + 1) * 128 + 129 * 2
    block = lambda a, b: 9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b if a != b else 0)  # noqa: E731
    assert parameters(create_model("cifar_resnet10", r=0.5)) == (
        49 * 3 * 32 + 64 + 2 * block(32, 32) + block(32, 64) + block(64, 64) + 65 * 10)
    assert parameters(create_model("cifar_resnet18", stem=3)) == 1_423_178 - (49 - 9) * 3 * 64
    assert parameters(create_model("cifar_resnet10", blocks=4)) == 1_423_178


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_the_same_network_as_timm(name):
    """timm's parameters in their order fit ours, and give the same logits."""
    with torch.device("meta"):
        ours, theirs = create_model(name).eval(), timm.create_model(name).eval()
    theirs.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, value in theirs.state_dict().items():
        if value.is_floating_point():
            spread = math.sqrt(2 / value[0].numel()) if value.ndim > 1 else 0.1
            value.normal_(0, spread, generator=generator)
            value.add_(1.0 if key.endswith(("bn.weight", "running_var")) else 0.0).abs_()
            value.mul_(torch.randn(value.shape, generator=generator).sign()) if value.ndim > 1 else None
        else:
            value.zero_()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)), assign=True)
    x = torch.randn(1, 3, 75, 75, generator=generator)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.01
        assert torch.equal(ours(x), expected)


def test_the_teacher_of_net2net_has_a_third_of_the_numbers():
    with torch.device("meta"):
        whole, teacher = create_model("inception_bn"), create_model("inception_bn", r=0.3 ** 0.5)
    inside = [sum(p.numel() for p in m.features.parameters()) for m in (whole, teacher)]
    assert inside[1] / inside[0] == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("name", ["mnist_resnet", "residual3", "net2net_conv"])
def test_an_image_too_small_for_the_poolings(name):
    with pytest.raises(ZooError, match="is gone after"):
        create_model(name, size=3)


@pytest.mark.parametrize("name", ["cifar_resnet10", "mnist_resnet", "resnet1d", "mlp", "inception_resnet_v2_small",
                                  "net2net_conv"])
def test_saved_and_loaded_without_trust(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, r=2 ** -4 if "inception" in name else 0.25).eval()
    x = torch.randn(2, *model.input_shape)
    fxgrow.save(model, tmp_path / "m.pt", example_inputs=x)
    torch.save(model, tmp_path / "pickle.pt")
    for file in ("m.pt", "pickle.pt"):
        again = fxgrow.load(tmp_path / file)
        assert again.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(again(x), model(x))
    assert type(again) is type(model) and again.input_shape == model.input_shape
