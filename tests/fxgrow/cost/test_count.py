"""FLOPs against counted loops, closed forms of networks, real backward passes and torch's counter; memory as measured."""
from __future__ import annotations

import itertools
import json
from math import prod

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

import fxgrow
from fxgrow.aten import TorchDispatchMode, tree_leaves
from fxgrow.cost.costs import COST_FIELDS
from fxgrow.cost.count import count_eager
from fxgrow.cost.meter import Meter
from fxgrow.cost.rules import RULES
from fxgrow.graph import meta_twin
from fxgrow.passes import Widen


def torch_count(model: nn.Module, *inputs) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


def image(name: str, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *((299, 299) if name == "inception_v3" else (224, 224)))


def stock(name: str) -> nn.Module:
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **more).eval()


# --- one layer: every multiply-add by itself ------------------------------------------------------------------------


def by_loops(layer: nn.Module, x: torch.Tensor) -> int:
    """Computes a convolution without bias, and both gradients, one multiply-add at a time: insists on torch's numbers, and
    returns how many each of the three took."""
    space, transposed, groups = x.ndim - 2, layer.transposed, layer.groups
    pad = layer.padding if not transposed else (0,) * space
    wide = F.pad(x.detach(), [p for d in reversed(pad) for p in (d, d)])
    weight, out = layer.weight.detach(), layer(x)
    crop = layer.padding if transposed else (0,) * space
    full = [o + 2 * c for o, c in zip(out.shape[2:], crop)]
    y, gy = torch.zeros(*out.shape[:2], *full), F.pad(torch.randn_like(out), [c for d in reversed(crop) for c in (d, d)])
    gx, gw, count = torch.zeros_like(wide), torch.zeros_like(weight), 0
    steps = wide.shape[2:] if transposed else out.shape[2:]
    a, b = weight.shape[0] // groups, weight.shape[1]  # channels of a group, as the weight has them
    ranges = [range(x.shape[0]), range(groups), range(a), range(b), *map(range, steps), *map(range, weight.shape[2:])]
    for n, g, i, j, *places in itertools.product(*ranges):
        at, k = places[:space], places[space:]
        far = tuple(p * s + q * d for p, s, q, d in zip(at, layer.stride, k, layer.dilation))
        w = (g * a + i, j, *k)
        # of a convolution the weight is [out, in, k]; of a transposed one [in, out, k]
        source, target = (n, g * a + i, *at), (n, g * b + j, *far)
        source, target = (source, target) if transposed else (target, source)
        y[target] += wide[source] * weight[w]
        gx[source] += gy[target] * weight[w]
        gw[w] += gy[target] * wide[source]
        count += 1

    def inner(t, by, shape):
        return t[(..., *(slice(p, p + s) for p, s in zip(by, shape[2:])))]
    torch.testing.assert_close(inner(y, crop, out.shape), out.detach())
    theirs = torch.autograd.grad(out, (x, layer.weight), inner(gy, crop, out.shape))
    torch.testing.assert_close(inner(gx, pad, x.shape), theirs[0])
    torch.testing.assert_close(gw, theirs[1])
    return count


@pytest.mark.parametrize("layer, size", [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (7,)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (4, 5)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=2, bias=False), (6, 5)),
    (nn.Conv2d(3, 5, 1, bias=False), (3, 3)),
    (nn.Conv3d(2, 4, 2, stride=2, groups=2, bias=False), (4, 4, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, bias=False), (4,)),
    (nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, dilation=2, groups=2, bias=False), (4, 3)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2, bias=False), (2, 2, 3)),
], ids=lambda v: str(v) if isinstance(v, nn.Module) else "")
def test_convolutions_multiply_and_add_as_often_as_loops_do(layer, size):
    x = torch.randn(2, layer.in_channels, *size, requires_grad=True)
    macs = by_loops(layer, x)
    count = fxgrow.count_flops(layer, x)
    assert (count.macs, count.forward, count.backward) == (macs, 2 * macs, 4 * macs)
    assert fxgrow.count_flops(layer, x.detach()).backward == 2 * macs  # the weights' gradient alone


class Attention(nn.Module):
    def __init__(self, **more):
        super().__init__()
        self.more = more

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.more)


@pytest.mark.parametrize("more", [{}, {"is_causal": True}, {"attn_mask": torch.ones(5, 7) > 0},
                                  {"attn_mask": torch.zeros(5, 7)}], ids=["plain", "causal", "mask", "bias"])
@pytest.mark.parametrize("eager", [False, True])
def test_attention_is_two_products_and_four_backward(more, eager):
    n, h, length, keys, e, v = 2, 3, 5, 7, 4, 4
    inputs = [torch.randn(n, h, s, d, requires_grad=True) for s, d in ((length, e), (keys, e), (keys, v))]
    macs = 0
    for _ in itertools.product(range(n), range(h), range(length), range(keys)):
        macs += e + v  # a score, and its share of the result
    count = counted(Attention(**more), tuple(inputs), eager)
    assert (count.macs, count.forward, count.backward) == (macs, 2 * macs, 4 * macs)
    inputs[2] = inputs[2].detach()  # without the gradient of v: three products
    assert counted(Attention(**more), tuple(inputs), eager).backward == 4 * macs - 2 * n * h * length * keys * v


def counted(model: nn.Module, inputs: tuple, eager: bool, ops: str = "matmul"):
    return count_eager(Meter(ops), model, inputs, {}) if eager else fxgrow.count_flops(model, inputs, ops)


@pytest.mark.parametrize("eager", [False, True])
def test_products_of_each_kind(eager):
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.vector = nn.Linear(4, 6), nn.Parameter(torch.randn(6))

        def forward(self, x, y):  # [3, 5, 4], [3, 7, 6]
            z = self.layer(x)  # 15 * 4 * 6
            scores = torch.baddbmm(torch.zeros(3, 5, 7), z, y.mT)  # 3 * 5 * 6 * 7
            return (scores @ y) @ self.vector + self.vector.dot(self.vector)  # 3 * 5 * 7 * 6, 15 * 6, 6

    x, y = torch.randn(3, 5, 4), torch.randn(3, 7, 6)
    count = counted(Products(), (x, y), eager)
    assert count.by_module()["layer"].forward == count.by_module()["layer"].backward == 2 * 15 * 24
    assert count.macs == 15 * 24 + 2 * 15 * 42 + 15 * 6 + 6 and count.forward == 2 * count.macs
    # one gradient of each product with y, which needs none, and both of the vector's
    assert count.backward == 2 * (15 * 24 + 2 * 15 * 42 + 2 * 15 * 6 + 2 * 6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("eager", [False, True])
def test_recurrent_layers_use_each_weight_at_each_step(kind, eager):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(4, 6, 2, batch_first=True, bidirectional=True)

        def forward(self, x):
            return self.rnn(x)[0]

    model, x = Net(), torch.randn(3, 5, 4)
    weights = sum(w.numel() for name, w in model.named_parameters() if "weight" in name)
    count = counted(model, (x,), eager)
    assert count.macs == 15 * weights and count.gradient_bytes == count.parameter_bytes
    first = sum(w.numel() for name, w in model.named_parameters() if "weight_ih_l0" in name)
    state = sum(w.numel() for name, w in model.named_parameters() if "weight_hh" in name)
    assert count.backward == 2 * (2 * 15 * weights - 15 * first - 3 * state)  # neither the input's nor the first states'


# --- whole networks: closed forms from the papers' tables ------------------------------------------------------------


def conv(side: int, c_in: int, c_out: int, k: int, groups: int = 1) -> int:
    return side * side * c_out * c_in // groups * k * k


def resnet18_sheet() -> tuple[int, int]:
    """He 2016, table 1: (multiply-adds, those of the first layer)."""
    stem = conv(112, 3, 64, 7)
    total, c_in = stem + 512 * 1000, 64
    for side, c in ((56, 64), (28, 128), (14, 256), (7, 512)):
        total += conv(side, c_in, c, 3) + 3 * conv(side, c, c, 3) + (conv(side, c_in, c, 1) if c != c_in else 0)
        c_in = c
    return total, stem


def efficientnet_b0_sheet() -> tuple[int, int]:
    """Tan 2019, table 1: expansion, kernel, stride, channels, layers; squeeze-excite of a quarter of the block's input."""
    stem = conv(112, 3, 32, 3)
    total, c_in, side = stem, 32, 112
    for t, k, s, c, n in ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
                          (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)):
        for i in range(n):
            wide = t * c_in
            total += conv(side, c_in, wide, 1) if t > 1 else 0
            side //= s if i == 0 else 1
            total += conv(side, wide, wide, k, wide) + 2 * wide * (c_in // 4) + conv(side, wide, c, 1)
            c_in = c
    return total + conv(7, 320, 1280, 1) + 1280 * 1000, stem


def vit_b_16_sheet() -> tuple[int, int]:
    """Dosovitskiy 2021: 12 layers of width 768, 196 patches of 16 x 16 and a class token."""
    patches, d, n = conv(14, 3, 768, 16), 768, 197
    return patches + 12 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * 4 * d) + d * 1000, patches


def convnext_tiny_sheet() -> tuple[int, int]:
    """Liu 2022: depthwise 7 x 7, then two layers of four times the width; 3, 3, 9, 3 blocks."""
    stem = conv(56, 3, 96, 4)
    total = stem + 768 * 1000
    for i, (n, c) in enumerate(((3, 96), (3, 192), (9, 384), (3, 768))):
        side = 56 >> i
        total += n * (conv(side, c, c, 7, c) + 2 * conv(side, c, 4 * c, 1)) + (conv(side, c // 2, c, 2) if i else 0)
    return total, stem


SHEETS = {"resnet18": resnet18_sheet, "efficientnet_b0": efficientnet_b0_sheet, "vit_b_16": vit_b_16_sheet,
          "convnext_tiny": convnext_tiny_sheet}


@pytest.mark.parametrize("name", SHEETS)
def test_whole_networks_cost_what_their_papers_tables_say(name):
    model, x = stock(name), image(name, 2)
    macs, first = SHEETS[name]()
    count = fxgrow.count_flops(model, x)
    assert count.macs == 2 * macs and count.forward == 4 * macs
    assert count.backward == 2 * count.forward - 4 * first  # all but the gradient of the image
    assert fxgrow.count_flops(model, x.requires_grad_()).backward == 2 * count.forward
    assert count.parameters == sum(p.numel() for p in model.parameters())
    assert count.parameter_bytes == count.gradient_bytes == 4 * count.parameters


FAST = ("alexnet", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet", "densenet121", "regnet_y_400mf",
        "swin_t", "mnasnet0_5", "vgg11")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", FAST)
def test_forward_is_what_torch_counts(name):
    model, x = meta_twin(stock(name)), image(name).to("meta")
    count = fxgrow.count_flops(model, x)
    assert count.forward == torch_count(model, x) and not count.eager


@pytest.mark.sweep
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_forward_is_what_torch_counts_on_every_classifier(name):
    model, x = meta_twin(stock(name)), image(name).to("meta")
    count = fxgrow.count_flops(model, x, ops="all")
    assert fxgrow.count_flops(model, x).forward == torch_count(model, x)
    assert not count.eager and not count.uncounted


# --- the backward pass that autograd runs ----------------------------------------------------------------------------


class Backward(TorchDispatchMode):
    """Counts the FLOPs of the products in a real backward pass, from the shapes of what the ops make, groups included."""
    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.flops += 2 * out.numel() * args[0].shape[-1]
        elif name == "convolution_backward":
            grad, x, weight, *_, transposed, _, _, mask = args
            positions = (x if transposed else grad).shape
            self.flops += 2 * sum(mask[:2]) * positions[0] * prod(positions[2:]) * weight.numel()
        return out


class Block(nn.Module):
    """Grouped, depthwise and transposed convolutions, attention, norms, a gate, two readers of one value."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.group = nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.gate = nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.group(self.depth(x) + x) * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]
        tokens = self.up(y).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


FROZEN = {"nothing": (), "the first layer": ("stem", "norm"),
          "all but the head": ("stem", "norm", "depth", "group", "up", "gate", "attention"),
          "in the middle": ("depth", "attention.out"), "everything": ("",)}


@pytest.mark.parametrize("input_too", [False, True])
@pytest.mark.parametrize("frozen", FROZEN)
def test_backward_is_what_autograd_runs(frozen, input_too):
    model, x = Block(), torch.randn(2, 3, 8, 8, requires_grad=input_too)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(FROZEN[frozen]) if FROZEN[frozen] else True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = model.train()(x)
        with Backward() as real:
            if out.requires_grad:
                out.sum().backward()
    for eager in (False, True):
        assert counted(model, (x,), eager).backward == real.flops
    count = fxgrow.count_flops(model, x)
    grads = sum(p.numel() * 4 for p in model.parameters() if p.grad is not None)
    assert count.gradient_bytes == grads


def test_no_gradient_flows_where_the_result_does_not_depend():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            self.unused(y)
            return self.b(y.detach()) + 1

    count = fxgrow.count_flops(Net(), torch.randn(2, 4))
    layers = count.by_module()
    assert [layers[n].backward for n in ("a", "b", "unused")] == [0, 64, 0]
    assert [layers[n].gradient_bytes for n in ("a", "b", "unused")] == [0, 80, 0]


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return (x @ w).relu() @ w

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


@pytest.mark.parametrize("eager", [False, True])
def test_functions_with_a_gradient_of_their_own_cost_what_their_forward_does_twice(eager):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.w = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            return Twice.apply(self.a(x), self.w)

    count = counted(Net(), (torch.randn(4, 8),), eager)
    assert (count.forward, count.backward) == (3 * 512, 5 * 512)
    assert count.gradient_bytes == count.parameter_bytes


# --- memory ----------------------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Measures a real training step: which memory is alive when."""

    def __init__(self, held):
        super().__init__()
        self.time, self.held, self.pieces = 0, {t.untyped_storage()._cdata for t in held}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.look()
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and (key := t.untyped_storage()._cdata) not in self.held:
                memory = t.untyped_storage()
                self.pieces.setdefault(key, [StorageWeakRef(memory), memory.nbytes(), self.time, None])
        self.time += 1
        return out

    def look(self):
        for piece in self.pieces.values():
            if piece[3] is None and piece[0].expired():
                piece[3] = self.time

    def peak(self, but) -> int:
        self.look()
        apart = {t.untyped_storage()._cdata for t in but}
        lives = [p[1:] for key, p in self.pieces.items() if key not in apart]
        return max(sum(size for size, born, dead in lives if born <= t and (dead is None or dead > t))
                   for t in range(self.time))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "densenet121", "mobilenet_v3_small"])
def test_peak_memory_is_that_of_a_real_training_step(name, train):
    model = torchvision.models.get_model(name, weights=None).train(train)
    x = torch.randn(2, 3, 64, 64)
    count = fxgrow.count_flops(model, x)
    with Allocations([*model.parameters(), *model.buffers()]) as real:
        x = x + 0
        out = model(x)
        out.sum().backward()
    measured = real.peak([p.grad for p in model.parameters()])
    assert measured == pytest.approx(count.peak_activation_bytes, rel=0.01)
    assert count.activation_bytes <= count.peak_activation_bytes


def test_what_is_kept_is_what_autograd_keeps():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    x = torch.randn(8, 4)
    count = fxgrow.count_flops(model.eval(), x)
    kept = {name: cost.activation_bytes for name, cost in count.by_module().items()}
    assert kept == {"": 4 * (32 + 48), "0": 4 * 32, "1": 4 * 48, "2": 0, "3": 0}  # the input; relu's result, once
    train = fxgrow.count_flops(model.train(), x)
    assert train.by_module()["2"].activation_bytes == 4 * 48  # a mask, of floats as on a CPU
    assert train.by_module()["3"].activation_bytes == 4 * 48
    for p in model.parameters():
        p.requires_grad_(False)
    frozen = fxgrow.count_flops(model, x)
    assert frozen.activation_bytes == frozen.backward == frozen.gradient_bytes == 0
    assert frozen.peak_activation_bytes >= 4 * (32 + 48)


# --- rules, attribution, forms ---------------------------------------------------------------------------------------


def test_all_ops_and_what_is_not_counted():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Softmax(-1)), torch.randn(8, 4)
    plain, full = fxgrow.count_flops(model, x), fxgrow.count_flops(model, x, ops="all")
    assert plain.uncounted == {"relu": {"1": 1}, "native_layer_norm": {"2": 1}, "_softmax": {"3": 1}}
    assert full.uncounted == {} and full.macs == plain.macs
    assert full.forward - plain.forward == 48 * (1 + 7 + 5)
    with pytest.raises(ValueError, match="'matmul' or 'all'"):
        fxgrow.count_flops(model, x, ops="everything")
    with pytest.raises(ValueError, match="belongs to"):
        fxgrow.flop_rule("mm", ops="some")


def test_interpolation_and_pooling_count_their_windows():
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    for layer, forward, backward in ((nn.Upsample(scale_factor=2, mode="bilinear"), 288 * 8, 288 * 8),
                                     (nn.Upsample(scale_factor=2, mode="bicubic"), 288 * 32, 288 * 32),
                                     (nn.Upsample(scale_factor=2), 0, 0), (nn.AvgPool2d(3), 8 * 9, 8 * 9),
                                     (nn.MaxPool2d(3), 8 * 9, 8), (nn.MaxPool2d((2, 3)), 12 * 6, 12)):
        count = fxgrow.count_flops(nn.Sequential(layer), x, ops="all")
        assert (count.forward, count.backward, count.uncounted) == (forward, backward, {}), layer


def test_a_rule_of_a_users_own():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Hardshrink()), torch.randn(8, 4)
    assert fxgrow.count_flops(model, x, ops="all").uncounted == {"hardshrink": {"1": 1}}
    try:
        @fxgrow.flop_rule("hardshrink", ops="all")
        def hardshrink(args, kwargs, out):
            return fxgrow.Flops(2 * out.numel(), [(args[0], out.numel())])

        shrink = fxgrow.count_flops(model, x, ops="all").by_module()["1"]
        assert (shrink.forward, shrink.backward) == (96, 48)
        assert fxgrow.count_flops(model, x).uncounted == {"hardshrink": {"1": 1}}
    finally:
        del RULES["hardshrink"]


def test_nodes_and_modules_add_up_and_json_is_plain():
    model, x = stock("resnet18"), torch.randn(1, 3, 64, 64)
    gm = fxgrow.capture(model, x)
    count = fxgrow.count_flops(gm, x, ops="all")
    assert set(count.by_node()) <= {n.name for n in gm.graph.nodes}
    for name in COST_FIELDS:
        whole = getattr(count, name)
        assert whole == sum(getattr(c, name) for c in count.by_node().values()), name
        assert whole == sum(getattr(c, name) for m, c in count.by_module().items() if m and "." not in m) + \
            sum(getattr(c, name) for n, c in count.by_node().items() if n in ("flatten", "x")), name
    direct = fxgrow.count_flops(model, x, ops="all")
    assert direct.by_module() == count.by_module()
    assert json.loads(json.dumps(count.to_json()))["total"] == count.total == count.forward + count.backward


def test_shared_layers_count_each_call_and_their_parameters_once():
    layer = nn.Linear(4, 4)
    count = fxgrow.count_flops(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4))
    assert count.forward == 2 * 64 and count.parameters == 20


def test_both_modes_of_one_graph():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.aux, self.head = nn.Linear(4, 4), nn.Linear(4, 9), nn.Linear(4, 2)

        def forward(self, x):
            x = self.body(x)
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    model, x = Net(), torch.randn(2, 4)
    gm = fxgrow.capture(model, x)
    for train, macs in ((True, 2 * 4 * 15), (False, 2 * 4 * 6)):
        assert fxgrow.count_flops(model.train(train), x).macs == macs
        assert fxgrow.count_flops(gm.train(train), x).macs == macs


def test_grown_models_and_other_batches():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.randn(1, 3, 5, 5)
    grown = fxgrow.transform(model, x, [Widen("0", factor=2, seed=0)])
    assert fxgrow.count_flops(grown.model, x).macs == 9 * (27 * 8 + 8 * 2)
    assert fxgrow.count_flops(grown.model, torch.randn(4, 3, 5, 5)).macs == 4 * 9 * (27 * 8 + 8 * 2)


class Shell(nn.Module):
    """Chooses by data, as a detector does."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        x = self.body(torch.stack(images)).mean((2, 3))
        return [self.head(row) if row.sum() > -1e9 else row for row in x]


def test_what_cannot_be_captured_is_run_and_left_as_it_was():
    model, x = Shell().train(), [torch.randn(3, 6, 6), torch.randn(3, 6, 6)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    count = fxgrow.count_flops(model, [x])
    assert count.eager and count.macs == 2 * 16 * 27 * 4 + 2 * 8
    assert count.by_module()["body.0"].backward == count.by_module()["body.0"].forward
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(fxgrow.CaptureError):
        fxgrow.count_flops(meta_twin(model), [x])


def test_detectors():
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    x = [torch.rand(3, 320, 320)]
    count = fxgrow.count_flops(model, [x])
    assert count.eager and count.forward == torch_count(model, x)
    assert count.by_module()["backbone"].forward + count.by_module()["head"].forward == count.forward
    assert "torchvision::nms" in count.uncounted
    assert 1.9 < count.backward / count.forward < 2
