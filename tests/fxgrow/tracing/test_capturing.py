"""Capture: each trap between a forward and a graph that behaves like it in both modes, for any batch."""
from __future__ import annotations

import collections
import copy
import math
import statistics
import types
from fractions import Fraction
from itertools import islice, repeat
from math import gcd

import numpy
import pytest
import timm
import torch
import torch.nn.functional as F
from older import names_in_a_copy
from support import shake
from torch import nn
from torch.func import functional_call
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import StochasticDepth

import fxgrow
from fxgrow.errors import CaptureError, OtherInputs
from fxgrow.passes import Widen

X = torch.randn(3, 4)


class Base(nn.Module):
    """A layer, a buffer, and one step of many."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("state", torch.zeros(4))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.drop, self.path = nn.Dropout(0.5), timm.layers.DropPath(0.5)

    def forward(self, x):
        return self.step(self.layer(x))


def traced(step) -> nn.Module:
    return type("Traced", (Base,), {"step": step})()


def in_train(module, x):
    if module.training:
        x = torch.tanh(x) * 2
    return x + 1


def other_arguments_in_train(module, x):
    one, two = (2 * x).chunk(2, -1)
    start = torch.zeros(len(one), 2, dtype=two.dtype)  # of the type of a part that is used later
    x = torch.cat([one + start, two], -1)
    return torch.add(x, 1.0, alpha=2) if module.training else torch.add(x, other=1.0)


def in_place_on_a_view(module, x):
    half = x[:, :2]
    half += 1
    half *= x.shape[1]
    return x


def in_place_in_train(module, x):
    if module.training:
        x.mul_(2)
    return x + 1


def counts_in_train(module, x):
    if module.training:
        module.state.add_(1)
    return x - module.state


def moving_average(module, x):
    if module.training:
        module.state = 0.9 * module.state + 0.1 * x.detach().mean(0)
    return x - module.state


def keeps_all_of_it(module, x):
    module.state = x.detach()
    return x - module.state.mean(0)


def counts_with_a_buffer(module, x):
    module.state = module.state + 1
    return x / module.state


def infers(module, x):
    with torch.inference_mode(not module.training):
        y = x.cos() if torch.is_inference_mode_enabled() else x.sin()
    with torch.inference_mode(False):
        return x + y


def moving_average_in_place(module, x):
    if module.training:
        module.state *= 0.9
        module.state += 0.1 * x.detach().mean(0)
    return x - module.state


def normalises_by_hand(module, x):
    if module.training:
        mean, count = x.mean(0), x.numel() / x.size(-1)
        with torch.no_grad():
            module.state.copy_(0.9 * module.state + 0.1 * mean * count / (count - 1))
    else:
        mean = module.state
    return (x - mean) * 2


def draws_around_a_mean(module, x):
    spread = torch.exp(x / 2)
    return torch.randn_like(spread).mul(spread).add_(x) if module.training else x


def draws_in_place_around_a_mean(module, x):
    spread = torch.exp(x / 2)
    if module.training:
        spread = torch.randn_like(spread).mul_(spread)
    return spread.add_(x)


def fills_a_cache(module, x):
    if module.cache.shape[0] != 2 * x.shape[1]:
        module.cache = torch.arange(2 * x.shape[1]).to(x.dtype)
    return x + module.cache[4:]


def made_of_sizes(module, x):
    return x + torch.ones(x.shape[0], x.size(-1), dtype=x.dtype, device=x.device) + torch.tensor([1.0, 2, 3, 4])


def asserts_shapes(module, x):
    batch, width = x.shape
    torch._assert(width == x.shape[-1], "a width")
    assert len(x) == batch
    return x.reshape(batch, 2, width // 2).flatten(1)


STEPS = {f.__name__: f for f in (
    in_train, other_arguments_in_train, in_place_on_a_view, in_place_in_train, counts_in_train, moving_average,
    counts_with_a_buffer, infers, moving_average_in_place, fills_a_cache, made_of_sizes, asserts_shapes,
    normalises_by_hand, draws_around_a_mean, draws_in_place_around_a_mean)} | {
    "functional dropout": lambda m, x: F.dropout(x, 0.5, training=m.training),
    "dropout": lambda m, x: m.drop(x),
    "drop path": lambda m, x: x + m.path(x),
    "stochastic depth": lambda m, x: StochasticDepth(0.5, "row")(x) if m.training else x,
    "random numbers": lambda m, x: x + torch.rand(4) if m.training else x,
    "called twice": lambda m, x: m.layer(torch.relu(m.layer(x))),
    "unpacks": lambda m, x: torch.stack([*x.unbind(-1)], -1) + x.chunk(2, -1)[0].sum(),
}


def same(model: nn.Module, graph: nn.Module, *inputs: torch.Tensor) -> None:
    """Equal outputs and equal state after steps in both modes, with the same random numbers."""
    names = names_in_a_copy(graph)
    model, graph = copy.deepcopy(model), copy.deepcopy(graph)
    for mode in (True, False, True):
        outs = []
        for module in (model.train(mode), graph.train(mode)):
            torch.manual_seed(1)
            outs.append(module(*(x.clone() for x in inputs)))
        assert torch.equal(*outs), f"training={mode}"
    state = graph.state_dict()
    assert names == list(model.state_dict())
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", STEPS)
def test_it_behaves_like_the_model(name):
    model = nn.Sequential(traced(STEPS[name]), nn.ReLU(), traced(STEPS[name]))
    graph = fxgrow.capture(model, X)
    same(model, graph, X)
    same(model, graph, torch.randn(5, 4))  # any batch
    assert {id(p) for p in graph.parameters()} == {id(p) for p in model.parameters()}
    assert model.training and graph.training


def test_a_buffer_that_is_replaced_grows():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.mean = nn.Linear(4, 6), nn.Linear(6, 3), nn.Buffer(torch.zeros(6))

        def forward(self, x):
            x = self.up(x)
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return self.down(torch.tanh(x - self.mean))

    model, x = Centred().double(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("up", by=2, seed=0))
    for batch in (5, 3, 1):
        outs = [m.train()(x[:batch]) for m in (model, grown.model)]
        torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)
    assert grown.model.mean.shape == (8,) and torch.allclose(grown.record.shrink(grown.model).mean, model.mean, rtol=1e-12)


def test_a_buffer_that_is_given_out_or_shared_is_not_written_to():
    class Model(nn.Module):
        def __init__(self, gives=False):
            super().__init__()
            self.layer, self.gives, self.state = nn.Linear(4, 4), gives, nn.Buffer(torch.zeros(4))
            self.same = nn.Buffer(torch.ones(4)) if gives else self.state

        def forward(self, x):
            old, self.state = self.state, self.state + 1
            return self.layer(x), old if self.gives else self.same + 0

    for gives in (True, False):
        with pytest.raises(CaptureError, match="replaces the buffer 'state'"):
            fxgrow.capture(Model(gives), torch.randn(5, 4))


@pytest.mark.parametrize("habit, said", [
    (lambda self, x: setattr(self, "last", collections.OrderedDict(a=x * 2)) or x, "its attribute 'last'.* forward hook"),
    (lambda self, x: torch.seed() and x + torch.rand_like(x), "sets the seed .* keep it in a buffer"),
    (lambda self, x: x + torch.rand(4, generator=torch.Generator()), "a Generator is passed on.* keep it in a buffer"),
    (lambda self, x: torch.autocast("cpu").__enter__() and torch.sin(x), "switches autocast .* not back again")])
def test_what_is_said_of_habits_that_no_graph_has(habit, said):
    with pytest.raises(CaptureError, match=said):
        fxgrow.capture(traced(habit), X)


def test_what_only_a_submodule_can_do_is_left_to_it():
    """What replaces its buffer by a tensor of another form stays opaque, with the reason; the layers around it do not."""
    model = nn.Sequential(nn.Linear(4, 4), traced(keeps_all_of_it), nn.Linear(4, 4))
    graph = fxgrow.capture(model, X)
    assert graph.meta["leaves"] == {"1": "its forward replaces the buffer 'state'"}
    model[1] = traced(in_place_in_train)
    assert "writes in place in one mode only" in fxgrow.capture(model, X).meta["leaves"]["1"]
    model[1] = traced(lambda self, x: x + len(x.data_ptr().bit_length.__name__))
    assert "test_capturing.py:" in fxgrow.capture(model, X).meta["leaves"]["1"]


class Ordered(nn.Module):
    """Its parameters are used in another order than they are held in, and one not at all; two are one."""

    def __init__(self):
        super().__init__()
        self.second, self.unused, self.first = (nn.Parameter(torch.randn(4)) for _ in range(3))
        self.register_buffer("late", torch.ones(4))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.register_buffer("early", torch.ones(4))
        self.out, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.out.weight

    def forward(self, x):
        return self.tied(self.out(x * self.first + self.early + self.hidden) * self.second + self.late)


def test_names_order_and_ties_are_the_model_s():
    model = nn.Sequential(Ordered(), nn.Tanh())
    graph = fxgrow.capture(model, X)
    assert list(graph.state_dict()) == list(model.state_dict()) and "0.hidden" not in graph.state_dict()
    assert [n for n, _ in graph.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(a is b for a, b in zip(graph.parameters(), model.parameters()))
    assert graph.get_submodule("0").tied.weight is model[0].out.weight
    same(model, graph, X)


@pytest.mark.parametrize("forward, reason", [
    (lambda self, x: self.body(x) if float(x.sum()) > 0 else x, "control flow depends on the data"),
    (lambda self, x: torch.autograd.grad(self.body(x).sum(), x)[0], r"computes gradients at .*test_capturing\.py:\d+"),
    (lambda self, x: (self.body(x).sum().backward(), x)[1], r"computes gradients at .*test_capturing\.py:\d+"),
    (lambda self, x: (torch.autograd.backward(self.body(x).sum()), x)[1], r"computes gradients at .*test_capturing\.py"),
    (lambda self, x: self.body(nn.utils.rnn.pack_padded_sequence(x[None], torch.tensor([len(x)])).data),
     r"packs sequences, whose lengths are data, at .*test_capturing\.py:\d+: give the recurrent layer the padded batch"),
    (lambda self, x: self.body(x.numpy()), r"test_capturing\.py:\d+"),
    (lambda self, x: self.eval().body(x), r"switches between train and eval mode at .*test_capturing\.py:\d+")])
def test_a_shell_that_cannot_be_captured(forward, reason):
    class Shell(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    Shell.forward = forward
    with pytest.raises(CaptureError, match="Shell") as stop:
        fxgrow.capture(Shell(), X)
    assert stop.match(reason)


def test_what_torch_checks_of_sizes_is_insisted_on():
    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)

        def forward(self, x, y):
            torch._check(x.shape[0] == y.numel(), lambda: f"{x.shape[0]} rows")
            return self.body(x)

    model = Checks()
    graph = fxgrow.capture(model, (X, X[:, 0]))
    same(model, graph, X[:2], X[:2, 0])
    with pytest.raises(OtherInputs, match="numel"):
        graph(X, X[:2, 0])


def test_a_length_that_has_to_be_even_is_free_beside_a_type_that_is_followed():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 8)

        def forward(self, ids):
            pairs = self.table(ids).view(ids.shape[0], ids.shape[1] // 2, 2, 8).sum(2)
            return pairs + torch.ones(pairs.shape[1], 1, dtype=pairs.dtype)

    model = Pairs()
    graph = fxgrow.capture(model, torch.ones(2, 6, dtype=torch.int64))
    ids = torch.randint(10, (3, 8))
    assert torch.equal(graph(ids), model(ids)) and graph.double()(ids).dtype is torch.float64


def test_a_length_is_free_though_longer_ones_raise_where_gradients_are_off():
    class Thirds(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():  # the first longer input that is tried is no multiple of three
                means = x.reshape(x.shape[0], -1, 3, 4).mean(2)
            return self.layer(x) + means.repeat_interleave(3, 1)

    model, x = Thirds(), torch.randn(4, 9, 4)
    assert torch.equal(fxgrow.capture(model, torch.randn(2, 3, 4))(x), model(x))


@pytest.mark.parametrize("choose, said", [
    (lambda x: x.shape[1] > 4, "`x.shape[1] > 4` was False (x.shape[1] was 3, "),
    (lambda x: x.size(1) % 2, "`x.shape[1] % 2` was True ("),
    (lambda x: len(x) == x.size()[1], "`x.shape[0] == x.shape[1]` was False ("),
    (lambda x: torch.tanh(x).shape[-2] // 2 > 1, "`(tanh(...).shape[1] // 2) > 1` was False (tanh(...).shape[1] // 2 was 1"),
    (lambda x: x.numel() > 50, "`x.numel() > 50` was False (x.numel() was 24, ")])
def test_a_check_says_what_was_asked_of_the_inputs(choose, said):
    model = traced(lambda m, x: x)
    type(model).forward = lambda self, x: self.layer(x) if choose(x) else self.layer(x) * 2
    graph = fxgrow.capture(model, torch.randn(2, 3, 4))
    with pytest.raises(ValueError) as stop:
        graph(torch.randn(6, 6, 4))
    assert f"captured where {said}" in str(stop.value) and "test_capturing.py:" in str(stop.value)


def test_a_check_comes_before_what_it_guards():
    def twice(model, x):
        b, c, h = x.shape
        rows = x.flatten(0, 1).view(2 * c if b == 2 else b * c, h)  # would not run at another batch
        return rows.view(b, c, h)

    graph = fxgrow.capture(traced(twice), torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"`layer\(...\).shape\[0\] == 2` was True"):
        graph(torch.randn(3, 3, 4))


@pytest.mark.parametrize("length", [3, 5, 9])
def test_what_lies_behind_a_remainder_is_seen_at_sizes_of_the_same_remainder(length):
    def padded(model, x):
        x = F.pad(x, (0, 0, 0, 1)) if x.shape[1] % 2 else x
        pairs = x.unflatten(1, (-1, 2)).sum(2)  # would not run if an even length were padded
        return torch.stack([pairs[:, t] for t in range(pairs.shape[1])], 1) if model.unrolled else pairs

    model = traced(padded)
    model.unrolled = False
    graph, x = fxgrow.capture(model, torch.randn(2, length, 4)), torch.randn(2, 15, 4)
    assert torch.equal(graph(x), model(x))
    model.unrolled = True
    graph = fxgrow.capture(model, torch.randn(2, length, 4))
    with pytest.raises(ValueError, match=f"size {length} along axis 1 of 'x'"):
        graph(x)


def test_a_size_of_which_no_other_gives_a_recorded_answer_is_checked():
    def elevens(model, x):
        return F.pad(x, (0, 0, 0, 2)).unflatten(1, (-1, 11)).sum(2) if x.shape[1] % 11 == 9 else x

    with pytest.raises(ValueError, match=r"size 20 along axis 1 of 'x': no other one is known for which .* == 9` is True"):
        fxgrow.capture(traced(elevens), torch.randn(2, 20, 4))(torch.randn(2, 31, 4))


def test_both_modes_hold_one_copy_of_a_constant():
    graph = fxgrow.capture(traced(lambda m, x: F.dropout(x, 0.5, m.training) + torch.tensor([1.0, 2, 3, 4])), X)
    assert len([n for n in graph.graph.nodes if n.op == "get_attr" and "constant" in n.target]) == 1


@pytest.mark.sweep
@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", ["convit_tiny", "test_convnext", "resnetv2_18", "levit_128s", "coat_lite_tiny"])
def test_networks_of_timm(name):
    model = shake(timm.create_model(name, pretrained=False, drop_rate=0.1, drop_path_rate=0.2))
    x = torch.randn(2, *model.default_cfg["input_size"])
    graph = fxgrow.capture(model, x)
    assert not graph.meta["leaves"]
    same(model, graph, x)
    same(model, graph, torch.cat([x, x[:1]]))


@pytest.mark.sweep
def test_a_detector_grows_inside_its_shell():
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=64,
                                                  max_size=64)
    model, image = shake(model).double().eval(), torch.rand(3, 64, 64, dtype=torch.float64)
    grown = fxgrow.transform(model, ([image],), [Widen(factor=2, seed=0)])
    assert type(grown.model) is type(model) and list(grown.model.state_dict()) == list(model.state_dict())
    assert fxgrow.verify(model, grown.model, ([image],)).ok
    targets = [{"boxes": torch.tensor([[4.0, 4, 40, 40]]).double(), "labels": torch.tensor([1])}]
    losses = []
    for detector in (model.train(), grown.model.train()):
        torch.manual_seed(1)
        losses.append(detector([image], targets))
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=1e-9, atol=1e-12)


def into(x):
    y = torch.empty(3, 4)
    torch.add(x.detach(), 1, out=y)
    return y


@pytest.mark.parametrize("step", [lambda m, x: torch.zeros(3, 4).add_(x), lambda m, x: into(x)])
def test_what_a_forward_makes_and_writes_to_is_made_anew_at_each_call(step):
    model = traced(step)
    graph = fxgrow.capture(model, X)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(graph(X), model(X))


def test_weights_that_a_hook_computes():
    model = shake(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.utils.weight_norm(nn.Linear(6, 4)))).double()
    x = X.double()
    model(x)
    grown = fxgrow.transform(model, x, [Widen("0", factor=2, seed=0)])
    assert fxgrow.verify(model, grown.model, x).ok and grown.model.get_submodule("0").out_features == 12


def test_a_counter_of_training_steps_counts_them():
    def step(model, x):
        if model.training:
            model.state += 1
        return x + 1

    model = traced(step)
    graph = fxgrow.capture(model, X)
    graph.train()(X), graph.eval()(X)
    assert not graph.meta["leaves"] and torch.equal(graph.state, torch.ones(4))


# --- Sizes that tell how often something is done ---------------------------------------------------------------------------

def in_chunks(model, x):
    return torch.cat([x[:, i:i + 32] - x[:, i:i + 32].mean(1, True) for i in range(0, x.shape[1], 32)], 1)


def until(model, x):
    for i in range(x.shape[1]):
        x = x * 2 if i == 40 else x
    return x


OFTEN = {  # and lengths for which the graph does as the model does; the others of 5, 20 and 64 are refused
    "in chunks": (in_chunks, [5, 20]),
    "in chunks from the end": (lambda m, x: x + len(range(x.shape[1] - 1, -1, -32)), [5, 20]),
    "until a turn": (until, [5]),
    "numbers that are zipped": (lambda m, x: x * sum(a * b for a, b in zip((1, 2, 3), range(x.shape[1]))), [5]),
    "a list": (lambda m, x: x * (2 if len([0] * x.shape[1]) > 40 else 1), [5]),
    "a word": (lambda m, x: x * (2 if len(x.shape[1] * "-") > 40 else 1), [5]),
    "no loop at all": (lambda m, x: x + len(range(x.shape[1], 10)), [5]),
    "no turn": (lambda m, x: x + len(range(100, x.shape[1])), [5, 20, 64]),
    "over dimensions": (lambda m, x: x + x.sum(tuple(range(1, x.ndim)), True), [5, 20, 64]),
    "bytes": (lambda m, x: x * (2 if x.nbytes > 1000 else 1), [5, 20]),
    "an upper bound": (lambda m, x: x + sum(1 for i in range(8) if isinstance(range(i), range) and i < x.shape[1]), [5]),
    "pieces": (lambda m, x: x * (2 if len([*x[0]]) > 40 else 1), [5]),
    "pieces of another axis": (lambda m, x: x * (2 if len(x.unbind(1)) > 40 else 1), [5]),
    "functions of math": (lambda m, x: x * (2 if math.isqrt(x.shape[1]) > 6 else math.log(x.shape[1], 2)), [5]),
    "logarithms": (lambda m, x: x * (2 if math.log(x.shape[1], 3) > 3 else math.log10(x.shape[1])), [5, 20]),
    "a function by its own name": (lambda m, x: x * (2 if gcd(x.shape[1], 64) > 6 else 1), [5]),
    "functions of numpy": (lambda m, x: x * (2 if numpy.zeros(x.shape[1]).size > 40 else 1), [5]),
    "a product of numpy": (lambda m, x: x / int(numpy.prod(x.shape[1:])), [5, 20, 64]),
    "parts of a number": (lambda m, x: x * (2 if x.shape[1].real > 40 else 1), [5]),
    "a fraction": (lambda m, x: x * (2 if Fraction(x.shape[1], 3) > 13 else 1), [5]),
    "bits": (lambda m, x: x * (2 if x.shape[1].to_bytes(2, "big") > b"\0-" else 1), [5]),
    "a whole quotient": (lambda m, x: x * (2 if (x.shape[1] / 16).is_integer() else 1), [5]),
    "a layer of a list": (lambda m, x: m.layers[x.shape[1] // 30](x), [5, 20]),
    "layers of a list": (lambda m, x: m.layers[x.shape[1] // 30:](x), [5, 20]),
    "a place in a list": (lambda m, x: x * ([1.0] * 30 + [2.0] * 99)[x.shape[1]], [5]),
    "a part of a tuple": (lambda m, x: x * sum(((1.0,) * 3 + (-1.0,) * 3)[x.shape[1] // 30:]), [5]),
    "behind a float": (lambda m, x: x * (2 if 5000.5 > x.shape[1] else 1) * (2 if 0.5 * x.shape[1] > 9000 else 1), [5]),
    "in front of a float": (lambda m, x: x * (2 if x.shape[1] * 0.5 > 9000 else 1), [5, 20, 64]),
    "a number of bytes": (lambda m, x: x * (2 if len(bytes(x.shape[1])) > 40 else 1), [5]),
    "the first of many": (lambda m, x: x * (2 if sum(islice(repeat(1, 50), x.shape[1])) > 40 else 1), [5]),
    "a quotient": (lambda m, x: x / float(x.shape[1]) + float(x.shape[1] ** 0.5) + float("0.5"), [5, 20, 64]),
    "types": (lambda m, x: x + torch.ones(1, dtype=float).to(float) * torch.ones(1, dtype=int) * int(True), [5, 20, 64]),
}


@pytest.mark.parametrize("name", OFTEN)
def test_how_often_something_is_done_is_checked(name):
    forward, same = OFTEN[name]
    model = traced(forward)
    model.layers = nn.Sequential(nn.Identity(), nn.Tanh(), nn.Sigmoid())
    graph = fxgrow.capture(model, torch.randn(2, 5, 4))
    for length in (5, 20, 64):
        x = torch.randn(2, length, 4)
        if length in same:
            assert torch.equal(graph(x), model(x))
        else:
            with pytest.raises(OtherInputs, match="this network was captured w"):
                graph(x)


@pytest.mark.parametrize("forward", [
    lambda m, x: x * (2 if tuple(x.shape) > (2, 40, 4) else 1), lambda m, x: x * (2 if x.shape == (2, 5, 4) else 1),
    lambda m, x: x * len({*x.shape[:1]}), lambda m, x: x * (2 if math.fsum(x.shape[:1]) > 3 else 1)])
def test_a_batch_of_one_that_is_told_apart_is_taken_as_it_is(forward):
    model, x = traced(forward), torch.randn(1, 5, 4)
    graph = fxgrow.capture(model, x)
    assert torch.equal(graph(-x), model(-x))
    with pytest.raises(OtherInputs, match="this network was captured w"):
        graph(torch.randn(2, 5, 4))


def test_the_memory_of_a_tensor_is_not_asked_about():
    model = traced(lambda m, x: x * (2 if x.untyped_storage().nbytes() > 1000 else 1))
    with pytest.raises(fxgrow.errors.CaptureError, match="untyped_storage"):
        fxgrow.capture(model, X)


# --- Sizes below the example's, and together -------------------------------------------------------------------------------

LONG = torch.randn(2, 5, 4)


def fills_up(model, x):
    for _ in range(4 - x.shape[1]):
        x = torch.cat([x, x[:, -1:] / 2], 1)
    return x


CUT = {
    "asked after a cut": lambda m, x: x[:, :4] * 2 if x[:, :4].shape[1] > 3 else x[:, :4],
    "computed after a cut": lambda m, x: x[:, :4] * x[:, :4].shape[1].bit_length(),
    "filled up": fills_up,
    "filled up by a list": lambda m, x: torch.cat([x, *[x[:, -1:] / 2] * (4 - x.shape[1])], 1),
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_done_to_short_inputs_only_is_not_left_out_in_silence(name):
    model = traced(CUT[name])
    graph = fxgrow.capture(model, LONG)
    for length in (4, 5, 6, 11, 64):
        x = torch.randn(3, length, 4)
        if length > 4 or name == "asked after a cut":
            assert torch.equal(graph(x), model(x))
    with pytest.raises(OtherInputs, match=r"this network was captured (where|with size 5 along axis 1 of 'x': below 5, )"):
        graph(torch.randn(3, 3, 4))


def test_a_size_below_which_it_does_something_else_is_searched_for():
    model = traced(lambda m, x: torch.cat([x, *[x[:, -1:] / 2] * (4 - x.shape[1])], 1))
    graph = fxgrow.capture(model, torch.randn(2, 10, 4))
    x = torch.randn(2, 5, 4)
    assert torch.equal(graph(x), model(x))
    with pytest.raises(OtherInputs, match="size 10 along axis 1 of 'x': below 5, it gives cat other arguments at"):
        graph(x[:, :3])


def test_two_sizes_that_are_free_one_by_one_only():
    class Cut(Base):
        def forward(self, x, size):
            x = x[:, :size]
            return self.layer(x) * x.shape[1].bit_length()

    model = Cut()
    graph = fxgrow.capture(model, (torch.randn(2, 4, 4), 4))
    assert torch.equal(graph(LONG, 4), model(LONG, 4))
    with pytest.raises(OtherInputs, match="captured with"):
        graph(torch.randn(2, 9, 4), 9)


def scaled_if_whole(model, x):
    return model.layer(x if x.is_floating_point() else x.to(model.layer.weight.dtype) / 255)


def scaled_if_bytes(model, x):
    return model.layer(x.float() / 255 if x.dtype == torch.uint8 else x.float())


@pytest.mark.parametrize("forward", [scaled_if_whole, scaled_if_bytes])
@pytest.mark.parametrize("example, other", [(X, X.to(torch.uint8)), (X.to(torch.uint8), X)])
def test_an_input_of_another_type_does_not_take_the_way_of_the_example(forward, example, other):
    model = type("Typed", (Base,), {"forward": forward})()
    graph = fxgrow.capture(model, example)
    assert torch.equal(graph(example + 1), model(example + 1))
    with pytest.raises(OtherInputs, match="this network was captured with 'x' of "):
        graph(other)


def test_the_class_of_a_size_makes_plain_numbers():
    model = traced(lambda m, x: x * type(x.shape[1])(x.shape[1] * 0.5) * statistics.mean(x.shape[:2]))
    graph = fxgrow.capture(model, LONG)
    assert torch.equal(graph(LONG), model(LONG))
    with pytest.raises(OtherInputs):
        graph(torch.randn(2, 6, 4))


# --- Leaves that do more than give tensors ---------------------------------------------------------------------------------

class Remembers(nn.Module):
    """A leaf, since it counts its calls."""

    def __init__(self, step):
        super().__init__()
        self.layer, self.calls, self.step = nn.Linear(4, 4), 0, step

    def forward(self, x, *others):
        self.calls += 1
        return self.step(self.layer(x), self.calls, *others)


class Around(Base):
    def __init__(self, inner, step):
        super().__init__()
        self.inner, self.step = Remembers(inner), step.__get__(self)


TOLD = {
    "a flag": (lambda y, n: (y, n > 2), lambda m, y, flag: y * 2 if flag else y),
    "a word": (lambda y, n: {"y": y, "phase": "late" if n > 2 else "early"}, lambda m, out, _: out["y"] * len(out["phase"])),
    "None": (lambda y, n: (y, y if n > 2 else None), lambda m, y, extra: y if extra is None else y + extra),
    "a number": (lambda y, n: (y, n), lambda m, y, n: y * 2 if n < 3 else y),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_a_leaf_tells_besides_tensors_is_checked(name):
    inner, use = TOLD[name]

    def step(model, x):
        out = model.inner(x)
        return use(model, *(out if isinstance(out, tuple) else (out, None)))

    model = Around(inner, step)
    graph = copy.deepcopy(fxgrow.capture(model, X))
    assert list(graph.meta["leaves"]) == ["inner"]
    for _ in range(2):
        assert torch.equal(graph(X), model(X))
    with pytest.raises(OtherInputs, match="this network was captured where"):
        graph(X)


def test_a_leaf_may_give_words_that_stay():
    model = Around(lambda y, n: (y, None, str(y.device), y.shape[0]), lambda model, x: model.inner(x)[0] * model.inner(x)[3])
    graph = copy.deepcopy(fxgrow.capture(model, X))
    for x in (X, torch.randn(5, 4)):
        assert torch.equal(graph(x), model(x))


def calls_with_other_parameters(model, x):
    return functional_call(model.layer, {n: p * 2 for n, p in model.layer.named_parameters()}, (x,))


@pytest.mark.parametrize("inner, step, reason", [
    (lambda y, n, kept: kept.append(y) or y, lambda model, x: sum([model.inner(x, kept := [x]), *kept]),
     "it calls inner, which changes a list or dict that it is given, and a graph would not, at .*test_capturing.py:"),
    (lambda y, n, kept: kept.update(y=y) or y, lambda model, x: model.inner(x, kept := {"y": x}) + kept["y"],
     "it calls inner, which changes a list or dict that it is given"),
    (lambda y, n: y, lambda model, x: model.inner(x) * model.inner.calls,
     "its forward does something else at the second call, since inner remembers the first"),
    (lambda y, n: y, lambda model, x: functional_call(model.inner, {"layer.bias": x[0]}, (x,)),
     "inner cannot be captured|it calls inner with other parameters"),
])
def test_leaves_that_nobody_can_be_told_apart_from(inner, step, reason):
    with pytest.raises(CaptureError, match=reason):
        fxgrow.capture(Around(inner, step), X, check=False)


def test_a_layer_that_is_called_with_other_parameters():
    model = traced(calls_with_other_parameters)
    graph = fxgrow.capture(model, X, check=False)
    assert torch.equal(graph(X), model(X))


@pytest.mark.parametrize("change", [lambda batch, y: batch.update(y=y), lambda batch, y: batch["list"].append(y),
                                    lambda batch, y: batch.pop("x")])
def test_a_forward_that_fills_its_input(change):
    class Fills(Base):
        def forward(self, batch):
            y = self.layer(batch["x"])
            change(batch, y)
            return y

    with pytest.raises(CaptureError, match="Fills cannot be captured: its forward changes a list or dict that it is given"):
        fxgrow.capture(Fills(), ({"x": X, "list": []},), check=False)


# --- State that lies about -------------------------------------------------------------------------------------------------

class Counter:
    calls = 0


def with_default(x, seen=[]):  # noqa: B006
    seen.append(1)
    return x * len(seen)


def with_attribute(x):
    with_attribute.calls += 1
    return x * with_attribute.calls


with_attribute.calls = 0


def set_on(holder, name):
    def step(model, x):
        owner = holder(model)
        setattr(owner, name, getattr(owner, name) + 1)
        return x * getattr(owner, name)
    return step


STATE = {
    "an object": (set_on(lambda m: m.kept, "calls"), Counter),
    "a namespace in a list": (set_on(lambda m: m.kept[0], "calls"), lambda: [types.SimpleNamespace(calls=0)]),
    "a class": (set_on(type, "calls"), None),
    "an array": (lambda m, x: (m.kept.__iadd__(1), x * float(m.kept[0]))[1], lambda: numpy.zeros(2)),
    "a kind of dict": (lambda m, x: (m.kept.update("x"), x * m.kept["x"])[1], collections.Counter),
    "a default": (lambda m, x: with_default(x), None),
    "an attribute of a function": (lambda m, x: with_attribute(x), None),
}


@pytest.mark.parametrize("name", STATE)
def test_state_is_seen_wherever_it_lies(name):
    """No check runs: that would find it on small networks only."""
    step, kept = STATE[name]
    model = traced(step)
    type(model).calls, model.kept = 0, kept() if kept else None
    before = copy.deepcopy(getattr(model.kept, "__dict__", model.kept))
    with pytest.raises(CaptureError, match="the forward of Traced changes .*, and a graph would not"):
        fxgrow.capture(model, X, check=False)
    assert str(getattr(model.kept, "__dict__", model.kept)) == str(before)
    assert not type(model).calls and not with_attribute.calls and not with_default.__defaults__[0]
    assert list(fxgrow.capture(nn.Sequential(model, nn.Linear(4, 2)), X, check=False).meta["leaves"]) == ["0"]


def test_what_a_forward_reads_of_objects_may_stay():
    model = traced(lambda m, x: x * m.kept.scale[0] + m.scale)
    model.kept, type(model).scale = types.SimpleNamespace(scale=numpy.ones(1)), 0.5
    assert torch.equal(fxgrow.capture(model, X)(X), model(X))


class Routed(nn.Module):
    """Asks for the values of its input, unless it is compiled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if torch.compiler.is_compiling():
            return torch.where((x > 0).any(), self.layer(x), x)
        return self.layer(x) if bool((x > 0).any()) else x


class OtherWhenCompiled(nn.Module):
    """Is another function when it is compiled; what is inside it has a way for compilers of its own."""

    def __init__(self):
        super().__init__()
        self.routed = Routed()

    def forward(self, x):
        factor = 3 if torch.compiler.is_compiling() else 2
        return self.routed(x) * factor


def test_only_the_module_that_asks_for_values_is_told_that_it_is_compiled():
    model, x = OtherWhenCompiled().double(), torch.randn(3, 4, dtype=torch.float64)
    graph = fxgrow.capture(model, x)
    assert not graph.meta["leaves"]
    for other in (torch.randn(5, 4, dtype=torch.float64), -x.abs()):
        torch.testing.assert_close(graph(other), model(other))


def insists_on_one(x):
    torch._assert((x > -9).all(), f"of {x.shape[0]} rows one is small")


def insists_on_all(x):
    torch._check_tensor_all_with(ValueError, x > -9, lambda: "one is small")


def insists_later(x):
    torch._assert_async((x > -9).all())


@pytest.mark.parametrize("check", [insists_on_one, insists_on_all, insists_later])
def test_what_torch_checks_of_numbers_is_checked_by_the_graph(check, tmp_path):
    class Insists(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            check(x)
            return self.last(torch.relu(self.first(x)))

    model = Insists()
    grown = fxgrow.transform(model, X, Widen(factor=2, seed=0))
    assert fxgrow.verify(model, grown.model, X).ok and grown.model.get_submodule("first").out_features == 16
    fxgrow.save(grown, tmp_path / "grown.fxgrow")
    for each in (model, grown.model, fxgrow.load(tmp_path / "grown.fxgrow")):
        each(torch.ones(5, 4))
        with pytest.raises((AssertionError, ValueError, RuntimeError)):
            each(torch.full((5, 4), -99.0))


def test_a_network_that_takes_few_inputs_is_compared_on_the_example():
    """Another way for compilers computes something else, and other numbers than the example's raise."""
    class Marked(nn.Linear):
        def forward(self, x, at):
            if not bool((at == 3).sum() == 2):
                raise ValueError("two are to be marked")
            return super().forward(x) * 2

    class Ways(nn.Module):
        def __init__(self):
            super().__init__()
            self.marked, self.last = Marked(4, 8), nn.Linear(8, 2)

        def forward(self, x, at):
            torch._assert((at == 3).sum() == 2, "two are to be marked")
            if not torch.compiler.is_compiling() and bool((at == 3).any()):
                x = x + 1
            return self.last(torch.relu(self.marked.weight @ x.unsqueeze(-1)).squeeze(-1))

    with pytest.raises(CaptureError, match="computes something else than the model does in eval mode"):
        fxgrow.capture(Ways(), (X, torch.tensor([3, 1, 3])))
