"""Networks with code of their own: the file has their sizes and numbers, an instance of their class the code."""
from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from archives import refused, resealed, run, same
from support import shake
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.archive import load_weights
from fxgrow.errors import ArchiveError
from fxgrow.passes import Deepen, Widen

X, OTHER = torch.randn(3, 4).double(), torch.randn(5, 4).double()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


class Odd(nn.Module):
    """Kept whole, since it counts its calls; it reaches its layers through a list, too."""

    def __init__(self, kind="tanh", power=1.0):
        super().__init__()
        self.inner, self.kind, self.power, self.function = nn.Linear(6, 6), kind, power, getattr(torch, kind)
        self.layers, self.calls = [self.inner], 0
        self.register_buffer("scale", torch.rand(6) + 1)

    def forward(self, x):
        self.calls += 1
        return self.function(self.layers[0](x)) * self.scale * self.power


class Block(nn.Module):
    def __init__(self, kind="tanh"):
        super().__init__()
        self.odd, self.out = Odd(kind), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.out(self.odd(x))


class Net(nn.Module):
    def __init__(self, kind="tanh"):
        super().__init__()
        self.stem, self.blocks, self.drop = nn.Linear(4, 6), nn.Sequential(Block(kind), Block(kind)), nn.Dropout(0.0)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.drop(self.blocks(self.stem(x))))


class Shell(nn.Module):
    """Its own forward looks at numbers, and at what its part knows of itself."""

    def __init__(self, kind="tanh"):
        super().__init__()
        self.net, self.last, self.gain = Net(kind), nn.Linear(2, 2), 1.5
        self.shift = nn.Parameter(torch.randn(2))

    def forward(self, x):
        y = self.net(x)
        return self.last(y) * self.gain + self.shift if float(y.detach().sum()) > -1e9 else y


def saved(cls, path, passes):
    model = shake(cls()).double()
    if cls is Shell:
        model.gain = 2.5
    grown = fxgrow.transform(model, X, passes)
    fxgrow.save(grown, path)
    return model, grown


@pytest.mark.parametrize("cls", [Net, Shell])
def test_a_network_comes_back_into_an_instance(cls, path):
    model, grown = saved(cls, path, [Widen(factor=2, seed=0)])
    fresh = cls()
    before = copy.deepcopy(fresh.state_dict())
    loaded = fxgrow.load(path, into=fresh)
    assert type(loaded) is cls if cls is Shell else isinstance(loaded, GraphModule)
    assert list(loaded.state_dict()) == list(grown.model.state_dict())
    for mode in (True, False):
        same(run(grown.model, (OTHER,), mode), run(loaded, (OTHER,), mode))
    same(fresh.state_dict(), before)
    again = path.with_name("again")
    fxgrow.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


class Counting(nn.Module):
    """Kept whole, since it counts its calls; the most of the network is in it, and is a graph by itself."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 6)), 0

    def forward(self, x):
        self.calls += 1
        return x + self.inner(x)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(4, 6), Counting(), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def test_parts_of_what_a_captured_network_keeps_whole_come_back(path):
    model = shake(Around()).double()
    captured = fxgrow.capture(model, X)
    assert "body" in captured.meta["leaves"]
    grown = fxgrow.transform(captured, X, Deepen(seed=0))
    assert isinstance(grown.model, GraphModule) and isinstance(grown.model.get_submodule("body.inner"), GraphModule)
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path, into=Around())
    for mode in (True, False):
        same(run(grown.model, (OTHER,), mode), run(loaded, (OTHER,), mode))
    assert list(loaded.state_dict()) == list(grown.model.state_dict()) and len(loaded.state_dict()) > len(model.state_dict())
    further = fxgrow.transform(loaded, X, Widen("body.inner.0", factor=2, seed=1))
    torch.testing.assert_close(further.model(OTHER), model(OTHER), rtol=1e-9, atol=1e-12)


def test_an_instance_without_sizes_is_refused(path):
    saved(Shell, path, [Widen(factor=2, seed=0)])
    fresh = Shell()
    fresh.last = nn.LazyLinear(2)
    with pytest.raises(fxgrow.ArchiveError, match="last has no sizes before the model has run"):
        fxgrow.load(path, into=fresh)


@pytest.mark.parametrize("cls", [Net, Shell])
def test_growth_goes_on_after_a_file(cls, path):
    model, grown = saved(cls, path, [Widen(factor=2, seed=0)])
    loaded = fxgrow.load(path, into=cls())
    record = loaded.meta["fxgrow"]["record"]
    assert record.to_json() == grown.record.to_json()
    same(run(record.shrink(loaded), (OTHER,), False), run(grown.record.shrink(grown.model), (OTHER,), False))
    further = fxgrow.transform(loaded, X, [Widen(factor=2, seed=1)])
    assert len(further.record.lineage) == 2 and fxgrow.verify(model, further.model, X).exact_in == ("eval", "train")
    optimizer = torch.optim.Adam(model.parameters())
    model(X).sum().backward()
    optimizer.step()
    assert record.migrate_optimizer(optimizer, loaded, model).state


@pytest.mark.parametrize("cls", [Net, Shell])
def test_layers_that_were_moved_and_copied_find_their_code(cls, path):
    where = "blocks.0" if cls is Net else "net.blocks.0"
    model, grown = saved(cls, path, [Deepen(where, seed=0)])
    assert sum(isinstance(m, Odd) for m in grown.model.modules()) == 3
    loaded = fxgrow.load(path, into=cls())
    same(run(grown.model, (OTHER,), False), run(loaded, (OTHER,), False))
    assert fxgrow.verify(model, loaded, X).ok
    places = [m for m in loaded.modules() if isinstance(m, Odd)]
    assert all(m.layers[0] is m.inner for m in places) and len({id(m) for m in places}) == 3
    mixed = cls()
    mixed.get_submodule(where).odd.function = torch.sin
    with pytest.raises(ArchiveError, match="not all alike"):
        fxgrow.load(path, into=mixed)


def test_in_another_process(path):
    code = """
import sys, torch, fxgrow
from odd_net import Net
loaded = fxgrow.load(sys.argv[1], into=Net())
torch.save(loaded.eval()(torch.load(sys.argv[2])), sys.argv[2])
"""
    source = "import torch\nfrom torch import nn\n" + "".join(
        f"\n{text}" for text in map(__import__("inspect").getsource, (Odd, Block, Net)))
    (path.parent / "odd_net.py").write_text(source)
    _, grown = saved(Net, path, [Widen(factor=2, seed=0)])
    torch.save(OTHER, path.with_name("x.pt"))
    subprocess.run([sys.executable, "-c", code, str(path), str(path.with_name("x.pt"))], check=True, cwd=path.parent)
    assert torch.equal(torch.load(path.with_name("x.pt")), run(grown.model, (OTHER,), False))


def test_instances_that_do_not_fit(path):
    saved(Shell, path, [Widen(factor=2, seed=0)])
    refused(path, "class .*, whose code was not recorded; an archive holds no code.*into=")
    refused(path, "into= has nothing at 'net.blocks.1.odd', where the file has a .*Odd: .*not a Net", into=Net())
    refused(path, "attribute 'kind' of a .*Odd is 'sin', and in the file 'tanh'", into=Shell("sin"))
    for change, said in ((lambda odd: odd.register_buffer("more", torch.ones(1)), "buffer 'more'"),
                         (lambda odd: odd.register_forward_hook(print), "hook 'builtins.print'"),
                         (lambda odd: setattr(odd, "power", print), "'power' of a .*Odd is no plain data"),
                         (lambda odd: setattr(odd, "inner", nn.Identity()), "'weight'|parameter 'bias'")):
        other = Shell()
        change(other.net.blocks[1].odd)
        refused(path, said, into=other)


def test_a_file_of_stock_layers_needs_no_instance(path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fxgrow.save(model, path, example_inputs=torch.ones(2, 4))
    same(run(fxgrow.load(path, into=Net()), (torch.ones(2, 4),), False), run(model, (torch.ones(2, 4),), False))


def test_weights_alone_need_no_instance(path):
    _, grown = saved(Shell, path, [Widen(factor=2, seed=0)])
    same(dict(load_weights(path)), dict(grown.model.state_dict()))


def test_lies_about_code(path):
    saved(Net, path, [Widen(factor=2, seed=0)])
    good = path.read_bytes()

    def own(graph):
        return [m for m in graph["modules"] if isinstance(m["class"], dict)][-1]

    lies = {"takes": lambda g: own(g)["attributes"].update(forward=1),
            "hides": lambda g: own(g)["attributes"].update(_modules={}),
            "dict": lambda g: own(g)["attributes"].update(_buffers={"dict": []}),
            "runs": lambda g: own(g)["attributes"].update(power={"function": "torch.relu"}),
            "away": lambda g: own(g)["class"].update(at="nowhere"), "type": lambda g: own(g)["class"].update(at=3),
            "name": lambda g: own(g)["class"].update(own="os.Popen"), "key": lambda g: own(g)["class"].pop("at"),
            "child": lambda g: own(g)["children"].update(inner=10 ** 6), "list": lambda g: own(g).update(children=[]),
            "none": lambda g: g["modules"].__setitem__(0, None)}
    for lie in lies.values():
        path.write_bytes(resealed(good, lie))
        refused(path, into=Net())


class Reading(nn.Module):
    """A shell that reads a layer inside its part, and a layer that the graph and a module of its own share."""

    def __init__(self):
        super().__init__()
        self.net, self.last = Net(), nn.Linear(2, 2)
        self.net.blocks[0].out = self.net.blocks[1].odd.inner
        self.known = {"stem": self.net.stem}

    def forward(self, x):
        y = self.last(self.net(x))
        return y * self.known["stem"].weight.sum() if float(y.detach().sum()) > -1e9 else y


def test_what_is_read_elsewhere_is_the_same_layer(path):
    _, grown = saved(Reading, path, [Widen("net.head.0", factor=2, seed=0)])
    loaded = fxgrow.load(path, into=Reading())
    assert loaded.known["stem"] is loaded.net.get_submodule("stem")
    same(run(grown.model, (OTHER,), False), run(loaded, (OTHER,), False))
    net = shake(Reading().net).double()
    fxgrow.save(net, path, example_inputs=X)
    loaded = fxgrow.load(path, into=Net())
    same(run(net, (OTHER,), False), run(loaded, (OTHER,), False))


class Scripted(nn.Module):
    """Has a part in TorchScript, with layers and running statistics inside."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.inner = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()).double())

    def forward(self, x):
        return self.last(self.inner(torch.relu(self.first(x))))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_part_comes_back_into_an_instance(path):
    torch.manual_seed(0)
    model = shake(Scripted().double())
    grown = fxgrow.transform(model, X, Widen(factor=2, seed=0))
    fxgrow.save(grown, path)
    with pytest.raises(ArchiveError, match="into=instance"):
        fxgrow.load(path)
    back = fxgrow.load(path, into=Scripted().double())
    assert back.first.out_features == 12 and torch.equal(back(OTHER), grown.model(OTHER))
    assert torch.equal(back.eval()(OTHER), grown.model.eval()(OTHER))


class Clip(torch.autograd.Function):
    """A step whose gradient is another one's."""

    @staticmethod
    def forward(ctx, x, by):
        return (x * by).relu()

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient, None


class Stepped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mid, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(Clip.apply(self.mid(torch.tanh(self.first(x))), 1.5))


def test_a_function_with_a_backward_is_that_of_the_instance(path):
    model, grown = saved(Stepped, path, [Widen(factor=2, seed=0), Deepen(seed=0)])
    with pytest.raises(ArchiveError, match=r"test_own.Clip, a torch.autograd.Function .* into=instance"):
        fxgrow.load(path)
    with pytest.raises(ArchiveError, match=r"knows 0 torch.autograd.Functions named Clip"):
        fxgrow.load(path, into=nn.Linear(1, 1))
    loaded = fxgrow.load(path, into=Stepped())
    same(run(grown.model, (OTHER,), False), run(loaded, (OTHER,), False))
    for each in (grown.model, loaded):
        each(OTHER).sum().backward()
    for name, p in loaded.named_parameters():
        torch.testing.assert_close(p.grad, grown.model.get_parameter(name).grad, rtol=0, atol=0)
    small = loaded.meta["fxgrow"]["record"].shrink(loaded)
    same(run(model, (OTHER,), False), run(small, (OTHER,), False))
    assert load_weights(path).keys() == loaded.state_dict().keys()
