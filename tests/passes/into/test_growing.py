"""grow_into: the numbers of a small model in a bigger one of a stock class, which computes the same."""
from __future__ import annotations

import io
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import shake
from thin import thin
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError
from fxgrow.passes.into import grow_into

X = (2, 3, 32, 32)


def resnet(layers, block="BasicBlock", classes=7, **more):
    return thin(lambda: tv.ResNet(getattr(tv.resnet, block), layers, num_classes=classes, **more))


def vgg(plan, norm=False):
    from torchvision.models.vgg import make_layers
    return nn.Sequential(make_layers(plan, norm), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(plan[-2], 7))


def vit(layers, heads, width, hidden):
    return tv.VisionTransformer(32, 8, layers, heads, width, hidden, num_classes=7)


def convnext(*sizes):
    from torchvision.models.convnext import CNBlockConfig
    return tv.ConvNeXt([CNBlockConfig(*s) for s in sizes], num_classes=7)


def swin(depths):
    return tv.SwinTransformer([4, 4], 16, depths, [2, 4], [4, 4], num_classes=7)


def efficientnet(width, depth):
    from torchvision.models.efficientnet import MBConvConfig
    settings = [partial(MBConvConfig, width_mult=width, depth_mult=depth)(*s) for s in (
        (1, 3, 1, 16, 8, 1), (4, 3, 2, 8, 16, 1), (4, 5, 2, 16, 24, 2))]
    return tv.EfficientNet(settings, 0.2 * width, num_classes=7)


def densenet(blocks, growth=8):
    return tv.DenseNet(growth, blocks, 16, num_classes=7)


PAIRS = {
    "more residual blocks": (lambda: resnet([1, 1, 1, 1]), lambda: resnet([1, 2, 3, 1])),
    "bottlenecks, wider inside": (lambda: resnet([1, 1, 1, 1], "Bottleneck"),
                                  lambda: resnet([1, 2, 1, 1], "Bottleneck", width_per_group=96)),
    "groups of more channels": (lambda: resnet([1, 1, 1, 1], "Bottleneck", groups=8, width_per_group=4),
                                lambda: resnet([1, 1, 2, 1], "Bottleneck", groups=8, width_per_group=8)),
    "layers without a skip path": (lambda: vgg([8, "M", 16, "M"]), lambda: vgg([8, 8, "M", 16, 16, 16, "M"])),
    "layers with norms": (lambda: vgg([8, "M", 16, "M"], True), lambda: vgg([12, 12, "M", 24, 24, "M"], True)),
    "inverted residuals": (lambda: tv.mobilenet_v2(width_mult=0.5, num_classes=7),
                           lambda: tv.mobilenet_v2(width_mult=0.75, num_classes=7)),
    "squeeze and excite": (lambda: efficientnet(1.0, 1.0), lambda: efficientnet(1.4, 2.0)),
    "a transformer": (lambda: vit(2, 2, 16, 32), lambda: vit(3, 3, 24, 40)),
    "layer scale": (lambda: convnext((16, 32, 1), (32, None, 1)), lambda: convnext((16, 32, 2), (32, None, 3))),
    "a layer norm doubled": (lambda: convnext((16, 32, 1), (32, None, 1)), lambda: convnext((32, 64, 1), (64, None, 2))),
    "layers that are concatenated": (lambda: densenet([2, 2]), lambda: densenet([3, 4])),
    "concatenated layers that are wider, too": (lambda: densenet([2, 1]), lambda: densenet([3, 2], 12)),
    "shifted windows": (lambda: swin([2, 2]), lambda: swin([2, 6])),
}


def pair(name, dtype=torch.float64):
    torch.manual_seed(0)
    small, big = (make().to(dtype) for make in PAIRS[name])
    return shake(small).eval(), big, torch.randn(X, dtype=dtype)


def gap(small, big, x):
    with torch.no_grad():
        a, b = small.eval()(x), big.eval()(x)
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_the_stock_class_computes_the_same(name, method):
    small, big, x = pair(name)
    grown = grow_into(small, big, x, method=method, seed=1, check=False)
    big.load_state_dict(grown, strict=True)
    assert gap(small, big, x) <= 1e-9
    other = torch.randn(X, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert gap(small, big, other) <= 1e-9


class Unit(nn.Module):
    def __init__(self, width, inner, norm, act, groups, bias):
        super().__init__()
        self.one = nn.Conv2d(width, inner * groups, 3, padding=1, groups=groups, bias=bias)
        self.norm = {"batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(groups, n), "none": nn.Identity}[norm](
            inner * groups)
        self.act, self.two = getattr(F, act), nn.Conv2d(inner * groups, width, 1)

    def forward(self, x):
        return x + self.two(self.act(self.norm(self.one(x))))


def network(widths, depths, inner, *form):
    """Stages of residual units, as wide and deep as given."""
    layers = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for i, (width, depth) in enumerate(zip(widths, depths)):
        layers += [nn.Sequential(*(Unit(width, inner, *form) for _ in range(depth)))]
        if i + 1 < len(widths):
            layers += [nn.Conv2d(width, widths[i + 1], 2, stride=2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], 5)).double()


@proves(25)
@given(st.data())
def test_random_networks_grow_into_bigger_ones(data):
    stages, size = data.draw(st.integers(1, 2)), st.integers(0, 2)
    form = [data.draw(st.sampled_from(v)) for v in (["batch", "group", "none"], ["relu", "gelu", "tanh", "leaky_relu"],
                                                    [1, 2], [True, False])]
    small = [4 * data.draw(st.integers(1, 2)) for _ in range(stages)], [data.draw(st.integers(1, 2)) for _ in range(stages)]
    inner, more = data.draw(st.integers(2, 4)), data.draw(size)
    widths = [w + 2 * data.draw(size) for w in small[0]]
    depths = [d + data.draw(size) for d in small[1]]
    if form[0] == "group":  # a group's statistics run over its channels: whole multiples alone are exact
        more = inner * (more % 2)
    torch.manual_seed(0)
    one, two = shake(network(*small, inner, *form)).eval(), network(widths, depths, inner + more, *form)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    method = data.draw(st.sampled_from(["r2r", "net2net", "netmorph"]))
    place = data.draw(st.sampled_from(["end", "spread", "interleave"]))
    assert gap(one, grow_into(one, two, x, method=method, place=place, seed=0, check=False).model, x) <= 1e-9


@pytest.mark.parametrize("name", ["a transformer", "more residual blocks"])
def test_in_float32(name):
    small, big, x = pair(name, torch.float32)
    grown = grow_into(small, big, x, seed=1)
    big.load_state_dict(grown)
    assert gap(small, big, x) <= 1e-4 and grown.verification.ok


class Table(nn.Module):
    """Reads a table in float32, which it may hold in another type."""

    def __init__(self, dtype, depth):
        super().__init__()
        self.register_buffer("table", torch.ones(4, dtype=dtype))
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x * self.table.to(torch.float32).cos())


def test_a_table_of_another_type_is_named():
    with pytest.raises(GrowthError, match="float32.* small model .*bfloat16.* big one: make both with the same"):
        grow_into(Table(torch.float32, 1), Table(torch.bfloat16, 1), torch.randn(2, 4))


class Positions(nn.Module):
    """Adds the embedding of each position to that of its word."""

    def __init__(self, width, count):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(9, width), nn.Embedding(9, width), nn.Linear(width, 4)
        self.count = count

    def forward(self, x):
        return self.head(self.words(x) + self.places(self.count(x.shape[1])))


COUNTS = [torch.arange, lambda n: torch.arange(0, n), lambda n: torch.arange(0, n, 1), lambda n: torch.arange(1, n + 1)]


@pytest.mark.parametrize("ours, theirs, same", [(0, 1, True), (2, 0, True), (0, 3, False), (3, 1, False)])
def test_positions_are_the_same_however_they_are_counted(ours, theirs, same):
    small, big, x = shake(Positions(6, COUNTS[ours])), Positions(8, COUNTS[theirs]), torch.randint(0, 9, (2, 5))
    if not same:
        with pytest.raises(GrowthError, match=r"arange has \[[01], .*, 1\] in one and \[[01], .*, 1\] in the other"):
            grow_into(small, big, x)
        return
    big.load_state_dict(grow_into(small, big, x))
    assert gap(small, big, torch.randint(0, 9, (3, 7))) <= 1e-5


def test_what_it_gives_is_a_plain_state_dict(tmp_path):
    small, big, x = pair("more residual blocks")
    before = {n: t.clone() for n, t in {**small.state_dict(), **big.state_dict(prefix="big.")}.items()}
    grown = fxgrow.grow_into(small, big, x, seed=1)
    after = {**small.state_dict(), **big.state_dict(prefix="big.")}
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    held = io.BytesIO()
    torch.save(grown, held)
    held.seek(0)
    read = torch.load(held, weights_only=True)
    assert read._metadata == grown.state_dict()._metadata == big.state_dict()._metadata
    assert read.keys() == big.state_dict().keys() and all(torch.equal(t, grown[n]) for n, t in read.items())
    for name in ("big.pth", "big.safetensors"):
        grown.save(tmp_path / name)
    from safetensors.torch import load_file
    again = load_file(tmp_path / "big.safetensors")
    assert all(torch.equal(t, again[n]) for n, t in torch.load(tmp_path / "big.pth", weights_only=True).items())


def test_one_seed_gives_the_same_numbers():
    small, big, x = pair("bottlenecks, wider inside")
    one, two, other = (grow_into(small, big, x, seed=s, check=False) for s in (3, 3, 4))
    assert all(torch.equal(t, two[n]) for n, t in one.items())
    assert any(not torch.equal(t, other[n]) for n, t in one.items())


class _Residual(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 6), nn.Linear(6, 4), kind

    def forward(self, x):
        return x + self.b(torch.tanh(self.a(x)) if self.kind else F.relu(self.a(x)))


class _Mixed(nn.Module):
    """Blocks of two kinds: their layers are alike, and what is between these is not."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.Sequential(*(_Residual(k % 2) for k in range(count)))

    def forward(self, x):
        return self.blocks(x)


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_new_blocks_that_are_alike_are_looked_into_once(method, monkeypatch):
    from fxgrow.passes.into import new_parts, widening
    seen = []
    monkeypatch.setattr(new_parts, "Beginning", lambda *a, old=new_parts.Beginning, **k: seen.append(a) or old(*a, **k))
    monkeypatch.setattr(widening, "analyse", None)  # no axis grows
    small, big = shake(_Mixed(2).double()), shake(_Mixed(8).double())
    grown = grow_into(small, big, torch.randn(3, 4).double(), method=method, seed=0)
    assert grown.verification.max_rel_error < 1e-12 and len(seen) == 2
    steps = [step for step in grown.plan.steps if step.kind == "deepen"]
    assert [step.name for step in steps] == [f"blocks.{k}" for k in range(2, 8)]
    assert all(f"{step.name}.b " in step.note for step in steps)
    weights = [grown[f"blocks.{k}.b.weight"] for k in range(2, 8)]
    assert method != "r2r" or len({w.sum().item() for w in map(torch.abs, weights)}) == 6  # each drawn by itself


@pytest.mark.thinned(2)
@pytest.mark.parametrize("place, new", [("end", [2, 3, 4, 5]), ("interleave", [1, 3, 4, 5]), ("spread", [1, 2, 4, 5])])
def test_new_blocks_stand_where_they_are_asked_to(place, new):
    torch.manual_seed(0)
    small, big = shake(resnet([2, 1, 1, 1]).double()).eval(), resnet([6, 1, 1, 1]).double()
    x = torch.randn(X, dtype=torch.float64)
    grown = grow_into(small, big, x, place=place, seed=0)
    found = [int(s.name.rpartition(".")[2]) for s in grown.plan.steps if s.kind == "deepen"]
    assert len(found) == 4 and gap(small, grown.model, x) <= 1e-9
    assert found == new, found


@pytest.mark.sweep
def test_shifts_of_windows_are_kept_wherever_new_blocks_stand():
    torch.manual_seed(0)
    small, big = shake(swin([2, 2]).double()).eval(), swin([2, 6]).double()
    x = torch.randn(X, dtype=torch.float64)
    for place in ("spread", "interleave"):
        assert gap(small, grow_into(small, big, x, place=place, seed=0).model, x) <= 1e-9


def test_kernels_get_zero_taps():
    torch.manual_seed(0)
    small = shake(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 7, 3, padding=1, stride=2))).double()
    big = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2), nn.ReLU(), nn.Conv2d(12, 7, 7, padding=3, stride=2)).double()
    x = torch.randn(X, dtype=torch.float64)
    grown = grow_into(small, big, x, seed=0)
    assert gap(small, grown.model, x) <= 1e-9
    assert [s.after for s in grown.plan.steps if s.kind == "kernel"] == ["5x5", "7x7"]


def test_constants_of_the_class_are_folded_into_weights():
    """A LayerNorm over more positions would need another eps, a longer head another scale."""
    torch.manual_seed(0)
    small, big = shake(vit(2, 2, 16, 32).double()).eval(), vit(2, 2, 32, 32).double()
    for module in [*small.modules(), *big.modules()]:
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.3  # so large that an error would be seen
    x = torch.randn(X, dtype=torch.float64)
    grown = grow_into(small, big, x, seed=0)
    assert gap(small, grown.model, x) <= 1e-9
    assert [s.method for s in grown.plan.steps if s.kind == "rescale"] == ["fold"]


def test_another_eps_of_a_batch_norm_is_folded():
    torch.manual_seed(0)
    small, big = shake(resnet([1, 1, 1, 1]).double()).eval(), resnet([1, 1, 1, 1], width_per_group=64).double()
    for module in big.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.1
    x = torch.randn(X, dtype=torch.float64)
    assert gap(small, grow_into(small, big, x, seed=0).model, x) <= 1e-9


def test_a_bias_or_a_norm_s_weight_that_only_the_big_model_has_changes_nothing():
    torch.manual_seed(0)

    def make(width, more):
        return nn.Sequential(nn.Conv2d(3, width, 3, bias=more), nn.BatchNorm2d(width, affine=more), nn.ReLU(),
                             nn.Conv2d(width, 4, 1)).double()

    small, big, x = shake(make(8, False)).eval(), make(12, True), torch.randn(X, dtype=torch.float64)
    assert gap(small, grow_into(small, shake(big), x, seed=0).model, x) <= 1e-9


def test_a_model_without_numbers_is_refused():
    small, big, x = pair("more residual blocks")
    with pytest.raises(GrowthError, match="meta"):
        grow_into(small, big.to("meta"), x)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(small, big, x=X):
    with pytest.raises(GrowthError) as why:
        grow_into(small, big, torch.randn(x), seed=0)
    return str(why.value)


def test_a_network_that_is_no_part_of_the_other_is_refused_with_the_layer():
    assert "layer1.1" in refused(resnet([2, 1, 1, 1]).eval(), resnet([1, 1, 1, 1]).eval())
    text = refused(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU()))
    assert "ReLU" in text and "GELU" in text
    assert "shrink" in refused(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)),
                               nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)))


def test_more_outputs_are_refused_unless_they_are_asked_for():
    torch.manual_seed(0)
    small, big = shake(resnet([1, 1, 1, 1])).eval(), resnet([1, 1, 1, 1], classes=9).eval()
    assert "output" in refused(small, big)
    x = torch.randn(X)
    grown = grow_into(small, big, x, seed=0, extend=True)
    with torch.no_grad():
        assert grown.verification.ok and torch.allclose(grown.model.eval()(x)[:, :7], small(x), atol=1e-4)


def test_a_norm_over_a_width_that_is_no_multiple_is_refused_and_approximated():
    torch.manual_seed(0)
    small, big = shake(convnext((16, 32, 1), (32, None, 1))).eval(), convnext((24, 48, 1), (48, None, 1))
    text = refused(small, big)
    assert "integer factor" in text and "features" in text and "approximate" in text
    x = torch.randn(X)
    grown = grow_into(small, big, x, seed=0, approximate=True)
    assert grown.plan.approximate and not grown.verification.ok
    fresh = convnext((24, 48, 1), (48, None, 1)).eval()
    assert grown.verification.max_rel_error < gap(small, fresh, x)


def test_an_activation_that_is_not_idempotent_forbids_an_identity_layer():
    text = refused(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 4, 1)),
                   nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.GELU(),
                                 nn.Conv2d(8, 4, 1)))
    assert "no counterpart" in text


# --- what follows -----------------------------------------------------------------------------------------------------


def test_a_gradient_reaches_every_new_number():
    small, big, x = pair("a transformer")
    grown = grow_into(small, big, x, seed=1)  # at a key's bias rounding alone is what arrives, and may be zero
    assert grown.unreached(x) == {}
    for p in grown.model.blocks.parameters() if hasattr(grown.model, "blocks") else ():
        assert p.requires_grad


def test_numbers_that_never_learn_are_found():
    small, big, x = pair("a transformer")
    grown = grow_into(small, big, x, seed=0)
    name = "encoder.layers.encoder_layer_2.mlp.3.weight"
    with torch.no_grad():  # both factors zero: neither gets a gradient
        grown.model.get_parameter(name).zero_()
        grown.model.get_parameter("encoder.layers.encoder_layer_2.mlp.0.weight").zero_()
        grown.model.get_parameter("encoder.layers.encoder_layer_2.mlp.0.bias").zero_()
    assert name in grown.unreached(x)


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.AdamW])
def test_the_optimizer_comes_along(make):
    small, big, x = pair("more residual blocks")
    optimizer = make(small.parameters())
    small.train()(x).sum().backward()
    optimizer.step()
    small.eval()
    grown = grow_into(small, big, x, seed=0)
    moved = grown.record.migrate_optimizer(optimizer, grown.model, small)
    key = "momentum_buffer" if "momentum" in optimizer.defaults else "exp_avg"
    old = optimizer.state[small.layer4[0].conv1.weight][key]
    assert torch.equal(moved.state[grown.model.layer4[0].conv1.weight][key], old) and old.abs().max() > 0


def test_the_record_knows_every_number():
    small, big, x = pair("bottlenecks, wider inside")
    grown = grow_into(small, big, x, seed=0)
    for name, p in grown.model.named_parameters():
        mask = grown.record.new_mask(name, p)
        if name in dict(small.named_parameters()):
            assert int((~mask).sum()) == small.get_parameter(name).numel()
            assert torch.equal(p[~mask], small.get_parameter(name).flatten())
        else:
            assert mask.all()


def test_the_record_of_a_model_that_has_grown_before_is_about_this_growth():
    from fxgrow.passes import Widen
    small, big, x = pair("more residual blocks")
    before = fxgrow.transform(small, x, Widen("layer1.0.conv1", by=6, seed=0)).model
    grown = grow_into(before, before, x, seed=0)
    assert all(p.unchanged for p in grown.record.parameters.values())


# --- the command ------------------------------------------------------------------------------------------------------


def run(*words):
    return CliRunner().invoke(main, ["grow", *words])


def test_the_command_writes_what_the_class_loads(tmp_path):
    out = tmp_path / "big.pth"
    done = run("zoo:cifar_resnet10:r=0.125", "--into", "zoo:cifar_resnet18:r=0.25", "-o", str(out), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["verification"]["ok"] and {s["kind"] for s in told["steps"]} >= {"widen"}
    from fxgrow.zoo import create_model
    create_model("cifar_resnet18", r=0.25).load_state_dict(torch.load(out, weights_only=True), strict=True)


def test_a_plan_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("zoo:cifar_resnet10:r=0.125", "--into", "zoo:cifar_resnet18:r=0.25", "--plan")
    assert done.exit_code == 0 and "deepen" in done.output and not list(tmp_path.iterdir())


def test_a_refusal_leaves_no_file(tmp_path):
    done = run("zoo:cifar_resnet18:r=0.25", "--into", "zoo:cifar_resnet10:r=0.25", "-o", str(tmp_path / "x.pth"))
    assert done.exit_code == 1 and "no counterpart" in done.output and not list(tmp_path.iterdir())
    assert run("zoo:mlp", "--into", "zoo:mlp").exit_code == 2


class Fused(nn.Module):
    """Three layers in one weight, whose outputs are sliced by numbers that the class works out (Phi-3)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.front, self.inner = nn.Linear(3, width), inner
        self.fused, self.back = nn.Linear(width, 2 * inner + width), nn.Linear(inner, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.front(x)
        fused, n = self.fused(x), self.inner
        gate, value, skip = fused[..., :n], fused[..., n:2 * n], fused[..., 2 * n:]
        return self.head(self.back(torch.relu(gate) * value) + skip.tanh() + x)


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_slices_of_a_fused_layer_are_cut_where_the_class_cuts(method):
    torch.manual_seed(0)
    small, big = shake(Fused(6, 5)).double(), Fused(12, 9 if method != "net2net" else 10)
    found = grow_into(small, big, torch.randn(4, 3, dtype=torch.float64), method=method, seed=0)
    assert found.verification.max_rel_error <= 1e-9


class Hidden(nn.Module):
    """A part that can't be looked into, and gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return {"twice": torch.vmap(lambda row: row * 2)(self.layer(x)), "as it is": x}


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.hidden, self.first, self.second = Hidden(), nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.second(self.first(self.hidden(x)["twice"]).relu())


def test_a_part_that_is_not_looked_into_and_gives_a_dictionary_keeps_its_numbers():
    small = shake(Wide(4)).double()
    grown = grow_into(small, Wide(8).double(), torch.randn(2, 6, dtype=torch.float64), seed=0)
    assert grown.verification.max_rel_error < 1e-9
    assert torch.equal(grown["hidden.layer.weight"], small.hidden.layer.weight)
