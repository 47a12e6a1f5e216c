"""Where Deepen finds blocks: loops written by hand, post-norm stacks, shared activations; and what it says elsewhere."""
from __future__ import annotations

import copy

import pytest
import torch
from support import shake
from torch import nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Deepen

X = torch.randn(2, 5, 3).double()


class Perceptron(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width, eps=1e-12), nn.Linear(width, 12), nn.Linear(12, width)
        self.gate = nn.Linear(width, width)

    def forward(self, x):  # post-norm
        return self.norm(x + self.down(torch.relu(self.up(x))))


class Stack(nn.Module):
    """A stem, blocks in a loop, and a head; `kind` says what the loop does with each block."""

    def __init__(self, kind, depth=3):
        super().__init__()
        self.kind, self.stem, self.head = kind, nn.Linear(3, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(Perceptron() for _ in range(depth))

    def forward(self, x):
        x = self.stem(x)
        for b in self.blocks:
            x = getattr(self, self.kind)(b, x)
        return self.head(torch.relu(x).mean(1))

    def called(self, b, x):
        return b(x)

    def pre_norm(self, b, x):
        x = x + b.down(torch.relu(b.up(b.norm(x))))
        return x + b.gate(torch.tanh(x))

    def plain(self, b, x):
        return torch.tanh(b.down(torch.relu(b.up(b.norm(x)))))


def deepened(model, x, step):
    return deepened_as_it_is(shake(model.double()), x, step)


def deepened_as_it_is(model, x, step):
    grown = fxgrow.transform(model, x, [step])
    found = fxgrow.verify(model, grown.model, x)
    assert found.exact_in == ("eval", "train"), f"{found.errors} {found.notes}\n{grown.explain()}"
    return grown


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("kind", ["called", "pre_norm"])
@pytest.mark.parametrize("where", [None, "blocks.0", "blocks"])
def test_the_deeper_stack_is_the_stock_class(kind, where, method):
    model = Stack(kind)
    grown = deepened(model, X, Deepen(where, times=2, method=method, seed=0))
    new = ["blocks.1", "blocks.2"] if where == "blocks.0" else ["blocks.3", "blocks.4"]
    assert sorted(o.name for o in grown.outcomes) == new and {o.method for o in grown.outcomes} == {method}
    stock = Stack(kind, 5).double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    x = torch.randn(4, 7, 3).double()
    torch.testing.assert_close(stock(x), model(x), rtol=1e-9, atol=1e-9)


def test_a_norm_that_hands_on_its_numbers_gets_them_back():
    model = Stack("called")
    grown = deepened(model, X, Deepen("blocks.1", seed=0))
    assert torch.equal(grown.model.get_parameter("blocks.2.norm.weight"), model.blocks[1].norm.weight)
    assert torch.equal(grown.model.get_parameter("blocks.1.norm.weight"), torch.ones(8).double())
    small = grown.record.shrink(grown.model)
    for name, value in model.state_dict().items():
        assert torch.equal(small.state_dict()[name], value), name
    further = fxgrow.transform(grown.model, X, [Deepen("blocks.2", seed=1)])
    assert fxgrow.verify(model, further.model, X).ok
    back = further.record.shrink(further.model)
    assert torch.equal(back.get_parameter("blocks.1.norm.weight"), model.blocks[1].norm.weight)


def test_an_eps_that_counts_twice_is_told():
    model = Stack("called")
    for block in model.blocks:
        block.norm.eps = 1e-5
    grown = deepened(model, X, Deepen(seed=0))
    assert "its eps of 1e-05 counts twice, which is a difference in float64" in grown.outcomes[-1].reason
    x = X.float()
    grown = fxgrow.transform(model.float(), x, [Deepen(seed=0)])
    assert [o.name for o in grown.outcomes] == ["blocks.3"] and fxgrow.verify(model, grown.model, x).ok


def test_numbers_that_others_share_are_neither_drawn_nor_handed_on():
    model = Stack("called")
    model.head = nn.Sequential(model.blocks[2].norm, nn.Linear(8, 2))
    with pytest.raises(SelectionError, match="blocks.2"):
        fxgrow.transform(shake(model.double()), X, [Deepen("blocks.2", seed=0)])
    before = copy.deepcopy(model.state_dict())
    deepened_as_it_is(model, X, Deepen(seed=0))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_loop_without_skip_paths_gets_a_block_beside_one():
    for where in ("blocks.0", "blocks.2"):
        grown = deepened(Stack("plain"), X, Deepen(where, seed=0))
        new = f"blocks.{int(where[-1]) + 1}"
        assert [o.name for o in grown.outcomes] == [new]
        assert {"up", "down", "project"} <= {n for n, _ in grown.model.get_submodule(new).named_children()}


class Unit(nn.Module):
    shared = nn.SiLU()

    def __init__(self, ins, outs):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), self.shared

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Unit(8, 8), Unit(8, 8)

    def forward(self, x):
        return x + self.second(self.first(x))


class Shared(nn.Module):
    """Every unit has the same activation module, as ultralytics' networks do; blocks take one half of a split value."""

    def __init__(self, depth=2):
        super().__init__()
        self.stem, self.tail = Unit(3, 16), Unit(8, 4)
        self.blocks = nn.Sequential(*(Pair() for _ in range(depth)))

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        return self.tail(self.blocks(right) + left).mean((2, 3))


@pytest.mark.parametrize("where", [None, "blocks.0"])
def test_blocks_that_share_one_activation(where):
    model, x = Shared(), torch.randn(2, 3, 6, 6).double()
    grown = deepened(model, x, Deepen(where, seed=0))
    stock = Shared(3).double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    x = torch.randn(3, 3, 9, 7).double()
    torch.testing.assert_close(stock.eval()(x), model.eval()(x), rtol=1e-9, atol=1e-9)


class Split(nn.Module):
    """All blocks' results are concatenated, as in a C2f of YOLO."""

    def __init__(self, depth=2, tail=nn.Conv2d):
        super().__init__()
        self.cv1, self.blocks = Unit(3, 16), nn.ModuleList(Pair() for _ in range(depth))
        self.cv2 = tail(8 * (2 + depth), 5, 1)

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(block(y[-1]) for block in self.blocks)
        return self.cv2(torch.cat(y, 1))


@pytest.mark.parametrize("where", [None, "blocks.0", "blocks.*"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_block_joins_a_concatenation(where, times):
    model, x = Split(), torch.randn(2, 3, 6, 6).double()
    grown = deepened(model, x, Deepen(where, times=times, seed=0))
    stock = Split(2 + times * (2 if where == "blocks.*" else 1)).double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    assert grown.model.get_submodule("cv2").in_channels == stock.cv2.in_channels
    x = torch.randn(3, 3, 9, 7).double()
    torch.testing.assert_close(stock.eval()(x), model.eval()(x), rtol=1e-9, atol=1e-9)
    small = grown.record.shrink(grown.model)
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in model.state_dict().items())
    columns = grown.record.parameters["cv2.weight"].fresh[1]
    assert int(columns.sum()) == 8 * times * (2 if where == "blocks.*" else 1)


def test_a_reader_that_cannot_take_more_leaves_the_concatenation_alone():
    model = Split(tail=lambda ins, outs, size: nn.Conv2d(ins, ins, size, groups=ins))
    grown = deepened(model, torch.randn(2, 3, 6, 6).double(), Deepen(seed=0))
    assert [o.name for o in grown.outcomes] == ["blocks.2"] and grown.model.get_submodule("cv2").in_channels == 32


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 12), nn.LSTM(12, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0])


def normed():
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(weight_norm(nn.Linear(3, 8)), nn.ReLU(), weight_norm(nn.Linear(8, 2)))


@pytest.mark.parametrize("build, x, said", [
    (Tagger, torch.randint(20, (2, 7)), r"head gives its output.*rnn \(LSTM\) is no convolution.*"
                                        "no weights make one more layer of rnn"),
    (normed, X, "the weight of 0, 2 is computed from others"),
    (lambda: nn.Sequential(nn.ReLU()), X, "has no convolution or linear layer")])
def test_what_is_said_where_there_is_no_place(build, x, said):
    with pytest.raises(SelectionError, match=said):
        fxgrow.transform(build().double(), x, [Deepen(seed=0)])
