"""Deepen: blocks and layers that start as the identity, on networks of every family."""
from __future__ import annotations

import functools

import pytest
import timm
import torch
import torchvision
from steps import gradients
from support import shake, size, still
from thin import thin
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vgg import make_layers
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Deepen, Widen
from fxgrow.zoo import create_model

IMAGE, VIDEO = (2, 3, 64, 64), (2, 3, 4, 16, 16)
METHODS = ("r2r", "net2net", "netmorph")


def vision(name: str, **options):
    return lambda: thin(lambda: torchvision.models.get_model(name, num_classes=5, **options))


def deepened(model: nn.Module, shape, *passes, exact=("eval", "train"),
             dtype=torch.float64) -> tuple[nn.Module, fxgrow.Grown]:
    model = still(shake(model.to(dtype)))
    x = torch.randn(shape, dtype=dtype)
    grown = fxgrow.transform(model, x, list(passes))
    found = fxgrow.verify(model, grown.model, x)
    assert set(exact) <= set(found.exact_in), f"{found.errors} {found.notes}\n{grown.explain()}"
    assert size(grown.model) > size(model)
    return model, grown


FAMILIES = {
    "resnet": (vision("resnet18"), IMAGE, "layer1.2"), "resnext": (vision("resnext50_32x4d"), IMAGE, "layer3.6"),
    "regnet": (lambda: torchvision.models.regnet_y_400mf(num_classes=5), IMAGE, "trunk_output.block3.block3-6"),
    "mobilenet_v2": (vision("mobilenet_v2"), IMAGE, "features.4"),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), IMAGE, "features.4"),
    "efficientnet": (vision("efficientnet_b0"), IMAGE, "features.4.3"),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 3)], num_classes=5), IMAGE,
                 "features.3.3"),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3), (2, 3, 32, 32), "blocks.3"),
    "torchvision vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64), (2, 3, 32, 32),
                        "encoder.layers.encoder_layer_2"),
    "swin": (lambda: torchvision.models.SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4]), (2, 3, 32, 32), "features.1.2"),
    "maxvit": (lambda: torchvision.models.MaxVit((64, 64), 16, 4, [16, 32], [2, 2], 8, 0.0), IMAGE, "blocks.0.layers.2"),
    "video": (lambda: thin(lambda: VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 2, 1, 1], BasicStem, num_classes=5)),
              VIDEO, "layer2.2"),
    "pre-activation": (lambda: timm.create_model("resnetv2_18", num_classes=5, stem_chs=16, channels=(16, 32, 64, 128)),
                       IMAGE, "stages.1.blocks.2"),
}


@functools.cache
def cloned(family: str, method: str) -> tuple[nn.Module, fxgrow.Grown]:
    """A network of a family, and what it is with a block more in each stage; nobody changes them."""
    torch.manual_seed(0)
    make, shape, _ = FAMILIES[family]
    return deepened(make(), shape, Deepen(method=method, seed=0))


@pytest.mark.thinned(13)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_clone_at_the_end_of_every_stage(family, method):
    """Exact in both modes, with a name that continues the stage's, by layers like its neighbours'."""
    *_, name = FAMILIES[family]
    model, grown = cloned(family, method)
    assert name in [o.name for o in grown.outcomes]
    tensors = dict([*grown.model.named_parameters(), *grown.model.named_buffers()])
    sources = {grown.record.entry(n, t.ndim).source for n, t in tensors.items()}
    assert sources - {None} == set(dict([*model.named_parameters(), *model.named_buffers()]))
    owner = model.get_submodule(name.rpartition(".")[0])
    parts = [n for n, _ in grown.model.get_submodule(name).named_parameters()]
    assert parts and any(parts == [n for n, _ in m.named_parameters()] for m in owner.children())
    for o in grown.outcomes:
        assert o.method and all(grown.record.new_mask(f"{o.name}.{n}", p).all()
                                for n, p in grown.model.get_submodule(o.name).named_parameters())


@pytest.mark.sweep
@pytest.mark.thinned(3)
@pytest.mark.parametrize("method", METHODS)
def test_a_deepened_resnet50_is_torchvisions_deeper_resnet(method):
    torch.manual_seed(0)
    model, grown = deepened(vision("resnet50")(), IMAGE, Deepen("layer3", method=method, seed=1))
    stock = thin(lambda: ResNet(Bottleneck, [3, 4, 7, 3], num_classes=5)).double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    assert list(stock.state_dict()) == list(grown.model.state_dict())
    for mode in ("eval", "train"):
        assert mode in fxgrow.verify(model, stock, torch.randn(IMAGE).double()).exact_in


@pytest.mark.parametrize("where,names", [("layer3.2", ["layer3.3", "layer3.4"]), ("layer3", ["layer3.6", "layer3.7"])])
def test_blocks_in_the_middle_move_those_behind_them(where, names):
    model, grown = deepened(vision("resnet50")(), IMAGE, Deepen(where, times=2, seed=0))
    assert sorted(o.name for o in grown.outcomes) == names
    stock = thin(lambda: ResNet(Bottleneck, [3, 4, 8, 3], num_classes=5)).double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    assert fxgrow.verify(model, stock, torch.randn(IMAGE).double()).ok
    if where == "layer3.2":
        moved = grown.record.parameters["layer3.5.conv1.weight"]
        assert moved.source == "layer3.3.conv1.weight" and grown.record.parameters["layer3.3.conv1.weight"].source is None
        assert torch.equal(grown.model.layer3.get_submodule("5").conv1.weight, model.layer3[3].conv1.weight)


def test_a_pattern_of_blocks_goes_on():
    """Swin's blocks shift their windows in turn."""
    model, grown = deepened(torchvision.models.SwinTransformer([4, 4], 32, [4, 4], [2, 4], [4, 4]), (2, 3, 64, 64),
                            Deepen("features.1", times=2, seed=0))
    rolled = {n.meta["owner"] for n in grown.model.graph.nodes if "roll" in str(n.target)}
    assert {"features.1.1.attn", "features.1.3.attn"} <= rolled and "features.1.2.attn" not in rolled


def test_blocks_without_a_skip_path_are_cloned_beside_one():
    inception = vision("googlenet", aux_logits=False, init_weights=False)()
    for method in ("r2r", "netmorph"):
        _, grown = deepened(inception, IMAGE, Deepen(["inception4b", "inception4a"], method=method, seed=0))
        for name in ("inception4a", "inception4b"):  # 4a takes fewer channels than it gives
            parts = [n for n, _ in grown.model.get_submodule(f"{name}_2").named_children()]
            assert parts[:4] == ["branch1", "branch2", "branch3", "branch4"] and "project" in parts
        assert "adapt" in dict(grown.model.inception4a_2.named_children())


@pytest.mark.thinned(10)
@pytest.mark.parametrize("block", ("basic", "bottleneck", "mbconv", "inception"))
@pytest.mark.parametrize("method", ("r2r", "netmorph"))
def test_blocks_that_are_built(block, method):
    for model, shape, where in ((vision("resnet18"), IMAGE, "layer2"),
                                (vision("densenet121"), IMAGE, "features.transition1"), (Sequence1d, (4, 3, 16), "layers.0"),
                                (FAMILIES["video"][0], VIDEO, "layer1.0")):
        _, grown = deepened(model(), shape, Deepen(where, block=block, method=method, seed=0))
        assert any(o.method == method for o in grown.outcomes), grown.explain()


@pytest.mark.parametrize("method", ("r2r", "netmorph"))
def test_a_transformer_block_that_is_built(method):
    make, shape, _ = FAMILIES["vit"]
    _, grown = deepened(make(), shape, Deepen("blocks.0", block="transformer", method=method, seed=0))
    assert [o.method for o in grown.outcomes] == [method] and grown.outcomes[0].name == "blocks.1"
    with pytest.raises(SelectionError, match=r"takes \[N, T, C\]"):
        fxgrow.transform(vision("resnet18")(), torch.randn(IMAGE), Deepen("layer1", block="transformer"))


class Sequence1d(nn.Module):
    """A plain network over [N, C, L], with odd widths and functions for layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(3, 7, 3, padding=1), nn.Conv1d(7, 7, 3, padding=1)])
        self.fc = nn.Linear(7, 2)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.fc(x.mean(-1))


class Perceptron(nn.Sequential):
    def __init__(self, act):
        super().__init__(nn.Linear(6, 5), act, nn.Linear(5, 4), act, nn.Linear(4, 3))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ("input", "output"))
def test_new_first_and_last_layers(method, end):
    for make, shape in ((vision("resnet18"), IMAGE), (lambda: Perceptron(nn.ReLU()), (4, 6)), (Sequence1d, (4, 3, 16))):
        _, grown = deepened(make(), shape, Deepen(end, method=method, times=2, seed=0))
        names = [n.target for n in grown.model.graph.nodes if n.op == "call_module"]
        assert str(names[0 if end == "input" else -1]).startswith(end)


@pytest.mark.parametrize("method", METHODS)
def test_plain_layers(method):
    """Layers of a network without skip paths: an identity layer, or a residual one."""
    exact = ("eval",) if method == "net2net" else ("eval", "train")
    vgg = nn.Sequential(make_layers([8, "M", 16, "M"], batch_norm=True), nn.Flatten(), nn.Linear(16 * 16 * 16, 3))
    model, grown = deepened(vgg, IMAGE, Deepen("0.0", method=method, times=2, seed=0), exact=exact)
    if method == "net2net":  # as in torchvision's vgg13_bn, and once more
        deeper = nn.Sequential(make_layers([8, 8, 8, "M", 16, "M"], batch_norm=True), nn.Flatten(), vgg[2]).double()
        deeper.load_state_dict(grown.model.state_dict(), strict=True)
        assert fxgrow.verify(model, deeper, torch.randn(IMAGE).double()).ok
        assert all("exact in eval mode only" in o.certificate for o in grown.outcomes)
    deepened(Perceptron(nn.ReLU()), (4, 6), Deepen(["0", "2"], method=method, seed=0))
    deepened(Sequence1d(), (4, 3, 16), Deepen("layers.1", method=method, seed=0))


def test_net2net_refuses_what_is_not_idempotent():
    x = torch.randn(4, 6)
    for act in (nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.SELU(), nn.ELU(2.0)):
        with pytest.raises(SelectionError, match="not idempotent"):
            fxgrow.transform(Perceptron(act), x, Deepen("0", method="net2net"))
    for act in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 2.0)):
        deepened(Perceptron(act), (4, 6), Deepen("0", method="net2net", seed=0))
    norm = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(SelectionError, match="no running statistics"):
        fxgrow.transform(norm, x, Deepen("0", method="net2net"))


class Scaled(nn.Module):
    """A block whose skip path is not the identity."""

    def __init__(self, skip):
        super().__init__()
        self.first, self.fc, self.skip = nn.Linear(6, 6), nn.Linear(6, 6), skip

    def forward(self, x):
        x = self.first(x)
        return self.skip(x) + self.fc(torch.relu(x))


@pytest.mark.parametrize("skip", [lambda x: 2 * x, torch.relu, lambda x: x.flip(1), lambda x: x + 1, lambda x: x.T,
                                  torch.neg],
                         ids=["twice", "relu", "flip", "plus one", "transposed", "negative"])
def test_a_skip_path_that_changes_its_input_is_seen(skip):
    """Such a block is not taken for one that can be the identity: it is cloned beside a skip path of its own."""
    class Net(nn.Sequential):
        pass

    net = Net(Scaled(skip), Scaled(skip))
    model, grown = deepened(net, (6, 6), Deepen("0", seed=0))
    assert "project" in dict(grown.model.get_submodule("1").named_children())


def test_random_is_not_exact_and_says_so():
    model = still(shake(vision("resnet18")().double()))
    x = torch.randn(IMAGE).double()
    grown = fxgrow.transform(model, x, Deepen(method="random", seed=0))
    assert not fxgrow.verify(model, grown.model, x).ok and "not exact" in grown.explain()


def test_copies_are_stacked_as_they_are():
    """The copy of each block stands behind it, its last factor included; what has no block to copy is refused."""
    options = {"vocabulary": 5, "length": 6, "width": 8, "heads": 2}
    model, tokens = still(create_model("gpt", **options, depth=2).double()), torch.arange(12).reshape(2, 6) % 5
    grown = fxgrow.transform(model, tokens, Deepen("blocks.*", method="copy"))
    stacked, old = create_model("gpt", **options, depth=4).double().eval(), model.state_dict()
    stacked.load_state_dict({name: old[name.replace(f"blocks.{i}.", f"blocks.{i // 2}.")] for name in stacked.state_dict()
                             for i in [int(name.split(".")[1]) if name.startswith("blocks.") else 0]}, strict=True)
    assert torch.allclose(grown.model(tokens), stacked(tokens), rtol=1e-12) and "not exact" in grown.explain()
    assert not fxgrow.verify(model, grown.model, tokens).ok
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(SelectionError, match="1 is no block with numbers to copy"):
        fxgrow.transform(plain, torch.randn(3, 4), Deepen("0", method="copy"))


@pytest.mark.sweep
def test_single_precision():
    for method in METHODS:
        deepened(vision("resnet50")(), IMAGE, Deepen(method=method, times=2, seed=0), dtype=torch.float32)


@pytest.mark.thinned(8)
@pytest.mark.parametrize("family", ["resnet", "mobilenet_v3", "efficientnet", "convnext", "torchvision vit", "swin",
                                    "video"])
@pytest.mark.parametrize("method", METHODS)
def test_new_depth_learns(family, method):
    """After two steps every new tensor has gradients, all of whose numbers are finite."""
    _, shape, _ = FAMILIES[family]
    _, grown = cloned(family, method)
    *_, third = gradients(grown.model, torch.randn((4, *shape[1:])).double(), 3)
    for name, p in grown.model.named_parameters():
        if grown.record.new_mask(name, p).any():
            assert third[name].isfinite().all() and third[name].abs().max() > 0, name


def test_it_is_reproducible_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = vision("resnet18")()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    x = torch.randn(IMAGE)
    for block in ("clone", "basic"):
        one, two, other = (fxgrow.transform(model, x, Deepen("layer2", block=block, seed=s)).model.state_dict()
                           for s in (0, 0, 1))
        assert all(torch.equal(one[n], two[n]) for n in one) and any(not torch.equal(one[n], other[n]) for n in one)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_it_composes_with_widening_and_archives(tmp_path):
    model, grown = deepened(vision("resnet18")(), IMAGE, Deepen("layer2", seed=0),
                            Widen("layer2.*.conv1", factor=1.5, seed=1), Deepen("layer2", method="net2net", seed=2),
                            Widen(factor=2, method="netmorph", seed=3))
    fxgrow.save(grown, tmp_path / "deep.pt")
    loaded, x = fxgrow.load(tmp_path / "deep.pt"), torch.randn(IMAGE).double()
    assert torch.equal(loaded.eval()(x), grown.model.eval()(x))
    assert [s["pass"] for s in grown.record.lineage] == ["deepen", "widen", "deepen", "widen"]
    assert grown.record.new_mask("layer2.2.conv1.weight", grown.model.layer2.get_submodule("2").conv1.weight).all()


@pytest.mark.sweep
def test_a_detector():
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = make(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64).double().eval()
    images = ([torch.rand(3, 64, 64).double()],)
    grown = fxgrow.transform(model, images, Deepen("backbone.body.*", seed=0))
    assert fxgrow.verify(model, grown.model, images).ok and "backbone.body.2" in [o.name for o in grown.outcomes]


def test_what_makes_no_sense_is_refused():
    model, x = vision("resnet18")(), torch.randn(IMAGE)
    for options, message in (({"times": 0}, "inserts nothing"), ({"method": "r2"}, "not known"),
                             ({"block": "x"}, "not known")):
        with pytest.raises(GrowthError, match=message):
            Deepen(**options)
    with pytest.raises(SelectionError, match="layer4"):
        fxgrow.transform(model, x, Deepen("layer9"))
    dense = vision("densenet121")()
    with pytest.raises(SelectionError, match="is given .* values, not one tensor"):
        fxgrow.transform(dense, x, Deepen("features.denseblock1.denselayer3"))


class Gated(nn.Module):
    """One layer makes values and a gate beside them, as in FocalNet."""

    def __init__(self, c: int):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(c), nn.Linear(c, 2 * c + 1), nn.Linear(c, c)

    def forward(self, x):
        c = x.shape[-1]
        a, b, gate = self.inner(self.norm(x)).split([c, c, 1], -1)
        return x + self.outer(a * torch.tanh(b) * gate)


def test_pairs_beside_what_is_none():
    """Of a layer that makes several things, only those that the last layer sums over come in pairs."""
    net = nn.Sequential(nn.Linear(3, 6), nn.Sequential(Gated(6), Gated(6)), nn.Linear(6, 2))
    _, grown = deepened(net, (5, 3), Deepen("1", seed=0))
    assert [(o.name, o.method) for o in grown.outcomes] == [("1.2", "r2r")]
    inner = grown.model.get_submodule("1.2").inner.weight
    assert torch.equal(inner[0], inner[1]) and not torch.equal(inner[11], inner[12])


@pytest.mark.sweep
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_classifier_of_torchvision(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    side = 299 if name == "inception_v3" else 256 if name.startswith("swin_v2") else 224
    model = still(shake(torchvision.models.get_model(name, **options)).double())
    x = torch.randn(2, 3, side, side).double()
    for method in METHODS if "vgg" not in name else ("r2r", "netmorph"):
        try:
            grown = fxgrow.transform(model, x, Deepen(method=method, seed=0))
        except SelectionError as why:
            assert method == "net2net" and ("idempotent" in str(why) or "statistics" in str(why))
            continue
        assert fxgrow.verify(model, grown.model, x).ok, grown.explain()


def test_a_block_that_reads_the_models_input_too():
    """Beside the value that it passes on, whatever that is called."""
    class Fed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.blocks, self.last = nn.Linear(4, 6), nn.ModuleList([Mixed(), Mixed()]), nn.Linear(6, 2)

        def forward(self, x):
            h = self.first(x)
            for block in self.blocks:
                h = block(h, x)
            return self.last(h)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 6)

        def forward(self, h, x):
            return h + self.c(torch.relu(self.a(h) + self.b(x)))

    for method in METHODS:
        _, grown = deepened(Fed(), (5, 4), Deepen(method=method, times=2, seed=0))
        assert [o.method for o in grown.outcomes] == [method, method]
        assert sorted(o.name for o in grown.outcomes) == ["blocks.2", "blocks.3"]


LOOPS = {
    "a sum": lambda m, x, block: x + block(x),
    "a part of it": lambda m, x, block: x + 0.5 * block(x),
    "behind a dropout of all": lambda m, x, block: x + m.drop(block(x)),
    "between values": lambda m, x, block: torch.add(x, block(2 * x).neg()),
}


class Looped(nn.Module):
    """Blocks without a skip path of their own, in a loop that has one."""

    def __init__(self, step, depth=2):
        super().__init__()
        self.step, self.drop, self.head = step, nn.Dropout(0.2), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = self.step(self, x, block)
        return self.head(x)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_adds_what_its_blocks_give_goes_round_once_more(name):
    """Nothing is added besides, so that the class with one block more has its numbers."""
    model, x = Looped(LOOPS[name]).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    for where in (None, "blocks", "blocks.0", "blocks.1"):
        grown = fxgrow.transform(model.eval(), x, [Deepen(where, seed=0)]).model
        deeper = Looped(LOOPS[name], 3).double().eval()
        deeper.load_state_dict(grown.state_dict())
        for net in (grown, deeper):
            torch.testing.assert_close(net(-2 * x[:2]), model(-2 * x[:2]), rtol=0, atol=1e-12)


class Masked(nn.Module):
    """A mask of the whole model, or a table that learns, is read by each block; in the graph the first one reads it."""

    def __init__(self, learns: bool):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)) for _ in range(2))
        numbers = torch.rand(5, 6)
        self.mask = nn.Parameter(numbers) if learns else nn.Buffer(numbers, persistent=False)

    def forward(self, x):
        for block in self.blocks:
            x = self.step(block, x, self.mask)
        return x

    def step(self, block, x, mask):
        return x + block(x * mask)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x, mask):
        return x + self.net(x * mask)


class MaskedBlocks(Masked):
    def __init__(self, learns: bool):
        super().__init__(learns)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def step(self, block, x, mask):
        return block(x, mask)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("kind", [Masked, MaskedBlocks])
def test_what_the_whole_model_holds_is_given_to_new_blocks(kind, learns):
    model, x = kind(learns).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    for where in (None, "blocks.0", "blocks.1", *(["blocks"] if kind is MaskedBlocks else [])):
        grown = fxgrow.transform(model, x, [Deepen(where, seed=0)]).model
        torch.testing.assert_close(grown(-2 * x), model(-2 * x), rtol=0, atol=1e-12)
        more = len([*grown.named_parameters()]) - len(names)
        assert more == 4 and len({id(p) for p in grown.parameters()}) == len(names) + 4
