"""Subnet: whatever is put beside a part of a network, it computes the same at first, and what is new learns."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from steps import archived, dead, gradients, network
from support import grow, shake
from torch import Tensor, nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Branch, Subnet, Widen

METHODS = ("r2r", "netmorph")


class Stages(nn.Module):
    """Convolutions of several kinds in a row, with a block that has a skip path."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.block = Preactivated(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.up(self.stem(x))).mean((2, 3)))


class Preactivated(nn.Module):
    """A block that writes to what it is given before it reads it."""

    def __init__(self, width: int):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.act(x))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.last = nn.Parameter(torch.randn(4, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.conv2d(x, self.first, None, 2, 1)).mean((2, 3)), self.last)


class Words(nn.Module):
    """A transformer layer and a convolution along the words."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.conv = nn.Conv1d(8, 6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.layer(x).transpose(1, 2)).mean(-1))


class Two(nn.Module):
    """A block with two inputs, and one with two outputs."""

    def __init__(self):
        super().__init__()
        self.add, self.cut, self.last = Add(), Cut(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cut(x)
        return self.last(self.add(a, b))


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Cut(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(x[:, :4]), torch.tanh(x[:, 4:])


class Odd(nn.Module):
    """A sub-network that is no stack of layers: it writes to its input, calls functions and has a parameter of its own."""

    def __init__(self, ins: int, outs: int):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))
        self.mix = nn.Conv2d(ins, outs, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(outs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x.sub_(0.1), inplace=True)
        x = self.norm(self.mix(x)) * self.slope
        return torch.sin(x) if self.training else torch.cos(x)


def odd(ins: int, outs: int) -> nn.Module:
    return Odd(ins, outs)


def dropping(ins: int, outs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(ins, outs), nn.Dropout(0.5))


def picture(size: int = 9) -> Tensor:
    return torch.randn(4, 3, size, size)


CASES = {
    "resnet18": lambda: (network("resnet18"), picture(32), ["layer1.0", "layer2", "layer3.1.conv1", "fc"]),
    "efficientnet_b0": lambda: (network("efficientnet_b0"), picture(32), ["features.2.*", "features.4.0.block.1.0"]),
    "stages": lambda: (Stages(), picture(), ["stem.0", "stem", "block", "block.conv", "fc"]),
    "functional": lambda: (Functional(), picture(), None),
    "words": lambda: (Words(), torch.randn(4, 7, 8), ["layer", "layer.linear1", "conv", "head"]),
    "images in 3d": lambda: (nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 2, 2)),
                             torch.randn(2, 3, 4, 4, 4), ["0", "2"]),
}


@pytest.mark.thinned(5)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_layers_blocks_and_stages_compute_the_same(name, method, tmp_path):
    model, x, where = CASES[name]()
    grown = grow(model, x, Subnet(where, method=method, seed=0))
    x = x.double()
    assert all(o.method == method for o in grown.outcomes) and len(grown.outcomes) >= 2
    assert grown.record.lineage[0]["pass"] == "subnet"
    before = dict(fxgrow.capture(model, x).state_dict())
    assert all(torch.equal(before[n], t) for n, t in grown.model.state_dict().items() if n in before)
    assert before.keys() <= grown.model.state_dict().keys()
    small = grown.record.shrink(grown.model)
    assert fxgrow.verify(model, small, x).max_abs_error == 0 and small.state_dict().keys() == before.keys()
    archived(grown, x, tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["stages", "functional", "words"])
def test_what_is_new_learns_at_once_by_r2r_and_in_the_second_step_by_netmorph(name):
    model, x, where = CASES[name]()
    x = x.double()
    assert dead(grow(model, x, Subnet(where, seed=0)), x) == [set(), set()]
    grown = grow(model, x, Subnet(where, method="netmorph", seed=0))
    first, second = dead(grown, x)
    assert first and all(".net." in n for n in first) and second == set()


@pytest.mark.parametrize("method", METHODS)
def test_single_precision(method):
    model, x, where = CASES["resnet18"]()
    grow(model, x, Subnet(where, method=method, seed=0), double=False)


@pytest.mark.parametrize("method", METHODS)
def test_any_module_will_do(method, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU())
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    grown = grow(model, x, Subnet("1", module=odd, method=method, seed=0))
    assert grown.record.lineage[0]["module"] == "odd"
    first, second = dead(grown, x)
    assert second == set() and (first == set()) == (method == "r2r")
    archived(grown, x, tmp_path / "m.pt")
    for mode in (True, False):  # it follows the mode as it did
        assert torch.allclose(grown.model.train(mode)(x), model.train(mode)(x))
    grown.model.get_parameter("1_subnet.project.weight").data.normal_()
    outs = [fxgrow.verify(grown.model, grown.model, x), grown.model.train()(x), grown.model.eval()(x)]
    assert outs[0].ok and not torch.allclose(outs[1], outs[2])


def test_values_that_are_written_to_train_as_they_should():
    """The block relus its input in place: what stands beside it reads a copy, and backward finds what forward read."""
    model = shake(nn.Sequential(nn.Conv2d(3, 8, 3), Preactivated(8), nn.Conv2d(8, 2, 3)).double())
    x = picture().double()
    grown = grow(model, x, Subnet("1", block="basic", seed=0))
    assert "clone" in grown.model.code
    for name, gradient in gradients(fxgrow.capture(model, x), x, 1)[0].items():
        assert gradient.shape == grown.model.get_parameter(name).shape
    assert dead(grown, x) == [set(), set()]
    grown = grow(model, x, Subnet("0", seed=0))  # what it gives is written to
    assert dead(grown, x) == [set(), set()]


def test_a_view_that_is_written_to_and_read_elsewhere_is_refused():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn, self.last = nn.Flatten(), nn.Linear(12, 2)

        def forward(self, x):
            x = x * 2
            flat = self.turn(x)
            flat += 1
            return self.last(flat) + x.sum((1, 2, 3))[:, None]

    with pytest.raises(SelectionError, match="turn: turn is a view of a value that is written to later"):
        grow(Views(), torch.randn(2, 3, 2, 2), Subnet("turn", module=lambda i, o: nn.Flatten()))


def test_a_subnetwork_that_draws_random_numbers_has_no_twin():
    grown = grow(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(3, 4),
                 Subnet("0", module=dropping, seed=0))
    assert grown.outcomes[0].method == "netmorph" and "random numbers" in grown.outcomes[0].certificate


def test_it_composes_with_other_passes_and_with_itself():
    model, x, _ = CASES["stages"]()
    grown = grow(model, x, Subnet("stem", seed=0), Widen(factor=1.5, seed=1), Branch("block.conv", seed=2),
                 Subnet(["stem", "stem_subnet", "block"], method="netmorph", seed=3),
                 Widen(factor=1.3, method="net2net", seed=4))
    x = x.double()
    assert [s["pass"] for s in grown.record.lineage] == ["subnet", "widen", "branch", "subnet", "widen"]
    assert {o.producers[0] for o in grown.outcomes if "_subnet" in str(o.producers)} >= {"stem_subnet", "stem_subnet_2"}
    assert fxgrow.verify(model, grown.record.shrink(grown.model), x).max_rel_error < 1e-12


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    model, x, where = CASES["stages"]()
    torch.manual_seed(5)
    one = fxgrow.transform(model, x, Subnet(where, seed=7)).model.state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    two, other = (fxgrow.transform(model, x, Subnet(where, seed=s)).model.state_dict() for s in (7, 8))
    assert all(torch.equal(one[n], two[n]) for n in one) and any(not torch.equal(one[n], other[n]) for n in one)


def test_globs_take_the_outermost_of_what_they_match():
    model, x, _ = CASES["resnet18"]()
    grown = fxgrow.transform(model, x, Subnet("layer1.*", method="netmorph", seed=0))
    assert [o.name for o in grown.outcomes] == ["layer1.0", "layer1.1"]


@pytest.mark.parametrize("where, module, why", [
    ("add", None, "takes 2 tensors .* name a part with one tensor in and one out"),
    ("cut", None, "gives 2 values"),
    ("last", lambda i, o: nn.Linear(i, o + 1), r"its sub-network gives \[2, 4\] for \[2, 4\], and last gives \[2, 3\]"),
    ("last", lambda i, o: nn.Linear(i + 1, o), "cannot run|shape"),
    ("last", lambda i, o: nn.LSTM(i, o), "gives tuple"),
    ("last", lambda i, o: None, "gave NoneType, not a module"),
])
def test_refusals_name_the_layer_and_say_why(where, module, why):
    with pytest.raises(SelectionError, match=f"{where}: .*{why}"):
        grow(Two(), torch.randn(2, 8), Subnet(where, module=module))


def test_what_is_asked_for_wrongly():
    for options, why in (({"method": "net2net"}, "one of r2r, netmorph"), ({"block": "inception"}, "bottleneck, basic"),
                         ({"module": "nowhere.at:all"}, "nowhere.at:all"), ({"module": "torch.nn:Nothing"}, "Nothing"),
                         ({"module": "torch:pi"}, "no function")):
        with pytest.raises(GrowthError, match=why):
            fxgrow.transform(nn.Linear(2, 2), torch.randn(1, 2), Subnet(**options))
    with pytest.raises(SelectionError, match="names no layer or block; the nearest are: fc"):
        fxgrow.transform(CASES["stages"]()[0], picture(), Subnet("fcc"))


def test_command_line(tmp_path, monkeypatch):
    (tmp_path / "subnets_for_cli.py").write_text("""
from torch import nn

def model():
    import torch
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.zeros(2, 3, 8, 8)

def wide(ins, outs):
    return nn.Sequential(nn.Conv2d(ins, 16, 3), nn.ReLU(), nn.Conv2d(16, outs, 1))
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["transform", "subnets_for_cli:model", "--pass", "subnet", "--where", "2", "--module", "subnets_for_cli:wide",
             "--method", "netmorph", "--seed", "3", "--pass", "subnet", "--where", "0", "--block", "basic",
             "-o", "m.pt", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["verification"]["ok"] and [s["pass"] for s in report["lineage"]] == ["subnet", "subnet"]
    assert report["lineage"][0] == {"pass": "subnet", "where": ["2"], "module": "subnets_for_cli:wide",
                                    "block": "bottleneck", "method": "netmorph", "seed": 3}
    assert fxgrow.load("m.pt").get_submodule("2_subnet.net.0").out_channels == 16
