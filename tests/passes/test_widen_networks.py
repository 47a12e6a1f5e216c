"""Whole networks of torchvision and timm, every class that can grow, by every method: exact, and really bigger.

A representative few run always, narrower and on smaller images than they are; the marker `sweep` runs them all.
"""
from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from support import shake, size, still
from thin import thin
from torch import nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

import fxgrow
from fxgrow.passes import Widen

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
VIDEO = {"r3d_18": (8, 48), "mc3_18": (8, 48), "r2plus1d_18": (8, 48), "s3d": (16, 224), "mvit_v1_b": (16, 224),
         "mvit_v2_s": (16, 224), "swin3d_t": (8, 64), "swin3d_s": (8, 64), "swin3d_b": (8, 64)}
SEGMENTATION = torchvision.models.list_models(module=torchvision.models.segmentation)
DETECTION = torchvision.models.list_models(module=torchvision.models.detection)
BIG = 100_000_000  # parameters from which only shapes are checked, on the meta device
FEW = ["resnet18", "densenet121", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet",
       "convnext_tiny", "swin_t", "swin_v2_t", "mobilenet_v3_small"]
TIMM_FEW = ["levit_128s", "mobilevit_xxs", "xcit_nano_12_p8_224", "efficientnet_lite0", "ghostnet_050", "convit_tiny",
            "test_nfnet"]
SWIN_V2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name in timm.list_models():
        model = timm.create_model(name, pretrained=False)
        small = None if model.default_cfg.get("fixed_input_size") else model.default_cfg.get("min_input_size")
        return model, torch.randn(2, *(small or model.default_cfg["input_size"]))
    known = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}.get(name, {})
    model = torchvision.models.get_model(name, weights=None, **known,
                                         **({"weights_backbone": None} if name in SEGMENTATION else {}))
    frames, width = VIDEO.get(name, (0, {"inception_v3": 299}.get(name, 64)))
    if name.startswith(("vit", "maxvit", "alexnet", "vgg")):
        width = 224
    return model, torch.randn(2 if width < 200 else 1, 3, *[frames] * bool(frames), width, width)


def narrow(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with a quarter of its channels, unless it is small, or its channels are not four times others."""
    x = torch.randn(2, 3, 64, 64)
    if name == "convnext_tiny":
        return timm.create_model(name, pretrained=False, dims=(24, 48, 96, 192)), x
    if name.startswith("swin"):
        version = {"swin_t": {}, "swin_v2_t": SWIN_V2}[name]
        return torchvision.models.SwinTransformer([4, 4], 24, [2, 2, 6, 2], [1, 2, 4, 8], [8, 8], **version), x
    if name in ("convit_tiny", "levit_128s"):
        return timm.create_model(name, pretrained=False, img_size=64), x
    if name in ("resnet18", "densenet121", "efficientnet_b0", "googlenet"):
        return thin(lambda: build(name)[0]), x
    return build(name)[0], x


def check(name: str, factor: float, method: str, least: float, build: Callable = build) -> None:
    torch.manual_seed(0)
    model, x = build(name)
    if size(model) > BIG:
        model, x = model.to("meta"), x.to("meta")
        grown = fxgrow.transform(model, x, [Widen(factor=factor, method=method, seed=0)])
        with torch.no_grad():
            assert grown.model.eval()(x).shape == model.eval()(x).shape
    else:
        model, x = still(shake(model)).double(), x.double()
        grown = fxgrow.transform(model, x, [Widen(factor=factor, method=method, seed=0)])
        found = fxgrow.verify(model, grown.model, x)
        assert found.ok, f"{found}\n{grown.explain()}"
        assert found.errors.get("train", 0) <= 1e-9, found
    assert size(grown.model) >= least * size(model), grown.explain()
    assert all(o.method or o.reason for o in grown.outcomes)


@pytest.mark.thinned(17)
@pytest.mark.parametrize("method, factor", [("r2r", 1.5), ("net2net", 2), ("netmorph", 2)])
@pytest.mark.parametrize("name", FEW)
def test_a_few(name, method, factor):
    check(name, factor, method, 1.8 if factor == 2 else 1.3, narrow)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("name", TIMM_FEW)
def test_a_few_of_timm(name):
    check(name, 2, "r2r", 1.3, narrow)


def tiny_vit() -> tuple[nn.Module, torch.Tensor]:
    model = torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)
    return still(shake(model)).double(), torch.randn(2, 3, 32, 32).double()


def tiny_swin(version: int = 1) -> tuple[nn.Module, torch.Tensor]:
    model = torchvision.models.SwinTransformer(
        [4, 4], 12, [2, 2], [3, 6], [4, 4], num_classes=5, stochastic_depth_prob=0.0,
        **({} if version == 1 else SWIN_V2))
    return still(shake(model)).double(), torch.randn(2, 3, 32, 32).double()


@pytest.mark.thinned(16)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("factor", [2, 1.5])
@pytest.mark.parametrize("make, where, whole", [
    (tiny_vit, "*:heads", False), (tiny_vit, "*:head_dim", False), (tiny_vit, "conv_proj", False),
    (tiny_vit, "*.mlp.0", False), (tiny_swin, "*:heads", False), (tiny_swin, "*:head_dim", False),
    (tiny_swin, "features.0.0", True), (tiny_swin, "*.mlp.0", False), (lambda: tiny_swin(2), "*:heads", False),
    (lambda: tiny_swin(2), "*:head_dim", True),
    (lambda: tiny_swin(2), "features.0.0", False), (lambda: tiny_swin(2), "*.mlp.0", False)])
def test_each_part_of_a_transformer(make, where, whole, factor, method):
    """Stream, MLP width, head count and head dimension; `whole`: only by integer factors."""
    model, x = make()
    if whole and factor == 1.5:
        with pytest.raises(fxgrow.SelectionError, match="integer factor"):
            fxgrow.transform(model, x, [Widen(where, factor=factor, method=method, seed=0)])
        return
    grown = fxgrow.transform(model, x, [Widen(where, factor=factor, method=method, seed=0)])
    found = fxgrow.verify(model, grown.model, x)
    assert found.exact_in == ("eval", "train"), f"{found}\n{grown.explain()}"
    assert size(grown.model) > 1.02 * size(model)


@pytest.mark.sweep
def test_blind_duplication_through_a_channel_shuffle_is_wrong(monkeypatch):
    """With 58 channels the next cut falls between the copies of one channel, unless copies pass the shuffle together."""
    torch.manual_seed(0)
    model, x = build("shufflenet_v2_x1_0")
    model, x = shake(model).double(), x.double()
    widen = Widen("*:copies", factor=2, method="net2net", seed=0)
    assert fxgrow.verify(model, fxgrow.transform(model, x, [widen]).model, x).ok
    monkeypatch.setattr("fxgrow.rewrite.rewriting.keep_copies_together", lambda *_: None)
    assert not fxgrow.verify(model, fxgrow.transform(model, x, [widen]).model, x).ok


# --- everything -----------------------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("factor", [2, 1.5])
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_classifier(name, factor, method):
    check(name, factor, method, 1.8 if factor == 2 else 1.3)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [*VIDEO, *SEGMENTATION])
def test_video_and_segmentation(name):
    captured_as_it_is(name)
    check(name, 2, "r2r", 1.8)


@pytest.mark.sweep
@pytest.mark.parametrize("name", DETECTION)
def test_detectors(name):
    """What can be captured grows inside the untouched outer module."""
    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=2, **sizes).eval()
    model, images = still(shake(model)).double(), ([torch.rand(3, 96, 112).double()],)
    grown = fxgrow.transform(model, images, [Widen(factor=2, seed=0)])
    assert type(grown.model) is type(model) and list(grown.model.state_dict()) == list(model.state_dict())
    assert fxgrow.verify(model, grown.model, images).ok
    assert size(grown.model) > 2 * size(model)


def captured_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    model, x = build(name)
    graph = fxgrow.capture(shake(model), x)
    found = fxgrow.verify(model, graph, x)
    assert found.errors == {"eval": 0, "train": 0}, found
    assert list(graph.state_dict()) == list(model.state_dict())


def smallest(family: str) -> str:
    def parameters(name: str) -> int:
        with torch.device("meta"):
            return size(timm.create_model(name, pretrained=False))

    names = timm.list_models(module=family)
    few = [n for n in names if not any(word in n for word in ("large", "huge", "giant", "xl", "so150m"))]
    return min(few or names, key=parameters)


@pytest.mark.sweep
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_timm_family(family):
    """The smallest model of each family: captured as it is, and grown."""
    name = smallest(family)
    captured_as_it_is(name)
    check(name, 2, "r2r", 1.3)
