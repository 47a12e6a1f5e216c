"""Numbers computed from sizes that grew: old where they are no sizes, live in what is free, and refused inside a leaf."""
from __future__ import annotations

import functools
import math
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import shake
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen


class Net(nn.Module):
    """Two layers with a function between them, `[b, t, 4]` to `[b, t, 3]`; `middle` may also be a module of its own."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(self.middle(torch.tanh(self.first(x))))))


class Kernels(nn.Module):
    """Each picture has kernels of its own, all in one convolution: groups are the batch times a class that grows."""

    def __init__(self, count):
        super().__init__()
        self.first, self.kernels, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8 * 9), nn.Conv2d(8, 4, 1)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        b, c, h, w = x.shape
        kernels = self.kernels(x.mean((2, 3))).reshape(-1, 1, 3, 3)
        y = F.conv2d(x.reshape(1, -1, h, w), kernels, padding=1, groups=self.count(b, c, kernels))
        return self.head(y.reshape(b, c, h, w))


@pytest.mark.parametrize("count", [lambda b, c, kernels: b * c, lambda b, c, kernels: b * 8,
                                   lambda b, c, kernels: kernels.shape[0]])
def test_groups_that_are_the_batch_times_a_class(count):
    model = shake(Kernels(count).double())
    grown = fxgrow.transform(model, torch.randn(2, 3, 6, 6).double(), Widen(factor=2, seed=0)).model
    assert grown.get_submodule("first").out_channels == 16
    for batch in (1, 2, 3):
        x = torch.randn(batch, 3, 5, 7, dtype=torch.float64)
        torch.testing.assert_close(grown(x), model(x), rtol=1e-9, atol=1e-12)


def sequence(*sizes: int) -> Tensor:
    return torch.randn(*sizes, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(sizes)))


def assert_same(model: nn.Module, grown: nn.Module) -> None:
    for training in (False, True):
        for sizes in ((2, 5), (3, 5), (1, 7), (5, 2), (1, 1)):
            x = sequence(*sizes)
            torch.testing.assert_close(grown.train(training)(x), model.train(training)(x), rtol=1e-9, atol=1e-11)


def assert_grows(middle) -> nn.Module:
    """Widen the first layer, then everything once more: both are exact at any batch and length, in both modes."""
    model = shake(Net(middle).double())
    grown = fxgrow.transform(model, sequence(2, 5), [Widen("first", factor=2, seed=0)]).model
    assert grown.first.out_features == 16
    assert_same(model, grown)
    assert_same(model, fxgrow.transform(grown, sequence(2, 5), [Widen(factor=1.5, seed=1)]).model)
    return grown


SCALES = {
    "number of elements": lambda h: h / h.numel(),
    "nelement": lambda h: h * 10 / h.nelement(),
    "sum of sizes": lambda h: h / sum(h.shape),
    "product of sizes": lambda h: h / math.prod(h.shape),
    "reduced sizes": lambda h: h / functools.reduce(operator.mul, h.shape),
    "root": lambda h: h * h.numel() ** -0.5,
    "rounded": lambda h: h / round(h.numel() ** 0.5, 2),
    "floor and ceil": lambda h: h * math.ceil(h.shape[2] / h.shape[0]) - math.floor(h.numel() / 7),
    "remainder": lambda h: h + h.numel() % 7,
    "size by keyword": lambda h: h / (h.size(dim=2) * h.size(1)),
    "folded view": lambda h: h / h.view(-1, 4).shape[0],
    "concatenated": lambda h: h / torch.cat([h, torch.ones(*h.shape[:2], 3, dtype=h.dtype)], 2).shape[2],
    "full": lambda h: h + torch.full((h.shape[0], 1, 8), h.numel(), dtype=h.dtype),
    "full by keywords": lambda h: h + torch.full((h.shape[0], 1, 8), fill_value=h.shape[2] + h.shape[1], dtype=h.dtype),
    "linspace": lambda h: h * torch.linspace(0, h.shape[2], h.shape[1], dtype=h.dtype)[:, None],
    "range": lambda h: h * torch.arange(h.shape[2], dtype=h.dtype).sum() / h.shape[0],
    "positions": lambda h: h + torch.sin(torch.arange(h.shape[1], dtype=h.dtype)[:, None] / 100 ** (1 / h.shape[2])),
    "tensor": lambda h: h / torch.tensor([h.shape[2], h.numel()]).sum(),
    "mask": lambda h: h.masked_fill(h > 0, -h.shape[2] * h.shape[0] / 10),
    "written": lambda h: operator.setitem(h := h.clone(), 0, h.numel()) or h,
    "argument": lambda h: torch.add(h, h, alpha=h.numel()),
    "asked": lambda h: h * 2 if h.numel() > 3 else h,
    "output size": lambda h: h * h.shape[-1] + F.pad(h, (0, h.shape[2]))[..., :h.shape[2]],
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", SCALES)
def test_a_number_is_as_before_at_every_batch(name):
    assert_grows(SCALES[name])


SIZES = {
    "written": lambda h: torch.relu(h.view(-1, 8)).view(h.shape[0], -1, 8),
    "tuple": lambda h: h.view(h.size()[:-1] + (2, 4)).tanh().flatten(2),
    "batch by heads": lambda h: h.view(*h.shape[:2], 2, 4).transpose(1, 2).reshape(h.shape[0] * 2, -1, 4).tanh().view(
        h.shape[0], 2, h.shape[1], 4).transpose(1, 2).flatten(2),
    "all in one": lambda h: h.reshape(h.shape[0] * h.shape[1] * 2, 4).tanh().reshape(h.shape[0], h.shape[1], 8),
    "unflatten": lambda h: h.view(-1, 4).tanh().unflatten(0, (h.shape[0], h.shape[1], 2)).flatten(2),
    "zeros": lambda h: torch.cat([h, h.new_zeros(h.shape[0], 1, 8)], 1),
    "zeros of a tuple": lambda h: h + torch.zeros((h.shape[0], 1, 8), dtype=h.dtype),
    "expand": lambda h: h + torch.ones(1, dtype=h.dtype).expand(h.shape[0], h.shape[1], 8),
    "norm": lambda h: F.layer_norm(h, h.shape[1:]),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_beside_one_that_grew_stay_free(name):
    assert_grows(SIZES[name])


def test_nothing_is_left_of_numbers_that_nobody_reads():
    grown = assert_grows(lambda h: h * h.shape[-1] ** -0.5)
    assert 8 ** -0.5 in [node.args[1] for node in grown.graph.nodes if node.target is operator.mul]
    assert not any(node.target is operator.pow for node in grown.graph.nodes)


def test_a_number_that_cannot_be_recomputed_leaves_the_class_alone():
    with pytest.raises(SelectionError, match="in a way that is not followed"):
        fxgrow.transform(Net(lambda h: h / h.stride(1)).double(), sequence(2, 5), [Widen("first", factor=2)])


OPERATIONS = [operator.add, operator.mul, operator.sub, lambda a, b: a / (b * b + 1), lambda a, b: a // (b * b + 1),
              lambda a, b: a % (b * b + 2)]
NUMBERS = st.recursive(
    st.sampled_from([lambda h: h.shape[0], lambda h: h.shape[1], lambda h: h.shape[2], lambda h: h.numel(), lambda h: 3]),
    lambda inner: st.builds(lambda op, a, b: lambda h: op(a(h), b(h)), st.sampled_from(OPERATIONS), inner, inner),
    max_leaves=6)


@proves(30)
@given(NUMBERS)
def test_any_arithmetic_of_sizes(number):
    model = shake(Net(lambda h: h * (1 + number(h))).double())
    grown = fxgrow.transform(model, sequence(2, 5), [Widen("first", factor=2, seed=0)]).model
    assert_same(model, grown)


# --- Inside what is kept whole ---------------------------------------------------------------------------------------------

class Leaf(nn.Module):
    """No recording goes into it, as it asks whether gradients are wanted."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(1))

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h) * self.weight if h.requires_grad else self.function(h) * self.weight.detach()


class Scripted(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h / torch.sqrt(torch.tensor([h.size(-1)], dtype=h.dtype, device=h.device))


class Scaled(torch.autograd.Function):
    """Does other things at another size, with a backward of its own."""

    @staticmethod
    def forward(ctx, h):
        return h * 2 if h.shape[-1] < 10 else h + h + h

    @staticmethod
    def backward(ctx, g):
        return g * 2


INSIDE = {
    "argument": lambda h: h / h.numel(),
    "tensor": lambda h: h / torch.tensor(h.shape[-1]).sqrt(),
    "tensor on a device": lambda h: h / torch.tensor([h.shape[-1]], device=h.device),
    "new tensor": lambda h: h * h.new_tensor(1 / h.shape[-1]),
    "array": lambda h: h / torch.from_numpy(np.array(h.shape[-1])),
    "full": lambda h: h / torch.full((1,), h.shape[-1], dtype=h.dtype, device=h.device),
    "written": lambda h: operator.setitem(h := h.clone(), 0, h.shape[-1]) or h,
    "range": lambda h: h * torch.arange(h.shape[-1]).sum(),
    "view": lambda h: h.view(-1, 8).tanh().view(h.shape),
    "branch": lambda h: h * 2 if h.shape[-1] < 10 else h,
}


def assert_left_alone(middle) -> None:
    model = shake(Net(middle).double())
    with pytest.raises(SelectionError, match="class left unchanged"):
        fxgrow.transform(model, sequence(2, 5), [Widen("first", factor=2, seed=0)])
    assert_same(model, fxgrow.transform(model, sequence(2, 5), [Widen(factor=2, seed=0)]).model)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", INSIDE)
def test_a_number_inside_a_leaf_leaves_the_class_alone(name):
    assert_left_alone(Leaf(INSIDE[name]))


def test_a_number_inside_a_script_or_a_function_with_its_own_backward():
    assert_left_alone(torch.jit.script(Scripted()))
    assert_left_alone(lambda h: Scaled.apply(h))


class Groups(nn.Module):
    """Kept whole, with a norm over groups of channels inside."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.two(self.norm(self.one(h if h.requires_grad else h.detach())).relu())


def test_a_number_of_groups_inside_a_leaf_leaves_their_class_alone():
    model, x = shake(nn.Sequential(nn.Conv2d(2, 3, 1), Groups(), nn.ReLU(), nn.Conv2d(2, 6, 1), nn.ReLU(),
                                   nn.Conv2d(6, 2, 1)).double()), torch.randn(2, 2, 5, 5).double()
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0))
    assert fxgrow.capture(model, x).meta["leaves"] and grown.model.get_parameter("3.weight").shape[0] == 12
    torch.testing.assert_close(grown.model(x), model(x), rtol=1e-9, atol=1e-12)


class ByMode(nn.Module):
    """A switch by mode, which is a leaf."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h) if self.training else h


def test_a_leaf_is_followed_in_train_mode_too():
    assert_left_alone(ByMode(lambda h: h * h.shape[-1] ** -0.5))
    assert_grows(ByMode(lambda h: h - h.mean(-1, keepdim=True)))
    model = Net(ByMode(lambda h: h * 2 if torch.rand(1) < 0.5 else h * h.new_empty(len(h), 1, 1).bernoulli_(0.5))).double()
    assert fxgrow.transform(model, sequence(2, 5), [Widen("first", factor=2, seed=0)]).model.first.out_features == 16
    with pytest.raises(SelectionError, match="cumsum runs over it"):
        fxgrow.transform(Net(ByMode(lambda h: h.cumsum(-1))).double(), sequence(2, 5), [Widen("first", factor=2)])


class Modulated(nn.Module):
    """Each member of the batch has a kernel of its own: the groups of its convolution are the batch."""

    def __init__(self):
        super().__init__()
        self.first, self.style, self.last = nn.Conv1d(4, 8, 1), nn.Linear(4, 8), nn.Conv1d(6, 3, 1)
        self.weight = nn.Parameter(torch.randn(6, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        h, scale = self.first(x.transpose(1, 2)), self.style(x.mean(1))
        kernels = (self.weight[None] * scale[:, None, :, None]).flatten(0, 1)
        h = F.conv1d(h.reshape(1, h.shape[0] * h.shape[1], -1), kernels, padding=1, groups=h.shape[0])
        return self.last(torch.tanh(h.view(x.shape[0], 6, -1))).transpose(1, 2)


def test_groups_that_are_the_batch_stay_free():
    model = shake(Modulated().double())
    grown = fxgrow.transform(model, sequence(2, 5), [Widen(factor=2, seed=0)]).model
    assert grown.first.out_channels == 16
    assert_same(model, grown)


class Table(nn.Module):
    """A table of which the first rows are taken, as many as there are steps."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows = nn.Parameter(torch.linspace(0, 1, 8 * rows).view(rows, 8))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.rows[:h.shape[1]].mean(0)


@pytest.mark.parametrize("rows", [4, 5, 16])
def test_a_size_of_the_inputs_goes_on_saying_where_to_cut(rows):
    """The example is 5 long: the table of 4 rows is cut nowhere with it, and is with a shorter one."""
    model = shake(Net(Table(rows)).double())
    assert_same(model, fxgrow.transform(model, sequence(2, 5), [Widen("first", factor=2, seed=0)]).model)
    grown = fxgrow.transform(model, sequence(2, 5), [Widen(factor=2, seed=0)])
    assert grown.model.middle.rows.shape == (rows, 16)
    assert_same(model, grown.model)


class Slopes(nn.Module):
    """Two of four heads get a bias by distance (ALiBi), the others none; the width of a head is computed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]).view(2, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        q = h.view(*h.shape[:2], 4, h.shape[2] // 4).transpose(1, 2)
        at = torch.arange(h.shape[1], dtype=h.dtype)
        bias = F.pad(-(at - at[:, None]).abs() * self.slopes, (0, 0, 0, 0, 0, 2))
        return ((q @ q.mT + bias).softmax(-1) @ q).transpose(1, 2).flatten(2)


def test_a_size_of_which_a_part_is_fixed_follows_the_other_part():
    model = shake(Net(Slopes()).double())
    grown = fxgrow.transform(model, sequence(2, 5), [Widen(factor=2, seed=0)]).model
    assert grown.first.out_features > 8 and grown.second.out_features == 16  # two heads more, or wider ones
    assert_same(model, grown)
