"""Branch: layers side by side compute what one did, new branches add nothing at first, and all of it learns."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from proving import proves
from steps import archived, dead, network
from support import grow
from torch import Tensor, nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Branch, Kernel, Widen

METHODS = ("r2r", "netmorph")
CONVOLUTIONS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


class Functional(nn.Module):
    """Convolutions by function, grouped and depthwise ones among them, with a bias; and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(8, 3, 3, 3) / 5), nn.Parameter(torch.randn(8))
        self.depthwise = nn.Parameter(torch.randn(8, 1, 3, 3) / 3)
        self.inner = nn.Module()
        self.inner.weight = nn.Parameter(torch.randn(6, 4, 1, 1) / 2)
        self.inner.other = nn.Parameter(torch.randn(6, 6, 1, 1) / 2)
        self.last = nn.Parameter(torch.randn(4, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.first, self.bias, 2, 1))
        x = F.relu(F.conv2d(x, self.depthwise, None, 1, "same", 1, 8))
        x = F.conv2d(x, weight=self.inner.weight, groups=2)
        x = F.conv2d(F.relu(x), self.inner.other)
        return F.linear(x.mean((2, 3)), self.last)


class Chain(nn.Module):
    """One convolution called twice, a grouped one, and a transposed one."""

    def __init__(self, output_size=None):
        super().__init__()
        self.output_size = output_size
        self.stem, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.grouped, self.up = nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(12, 6, 3, 2, output_padding=1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(F.relu(self.again(F.relu(self.stem(x)))))
        x = self.up(F.relu(self.grouped(x)), output_size=self.output_size)
        return self.fc(F.relu(x).mean((2, 3)))


class Unit(nn.Sequential):
    def __init__(self, ins: int, outs: int, kernel: int, stride: int = 1):
        super().__init__(nn.Conv2d(ins, outs, kernel, stride, kernel // 2 if stride == 1 else 0, bias=False),
                         nn.BatchNorm2d(outs), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """1x1, 3x3 and pooled branches; by `stride` two, a block that makes the image smaller."""

    def __init__(self, ins: int, outs: int, stride: int = 1):
        super().__init__()
        self.one = Unit(ins, outs, 3 if stride > 1 else 1, stride)
        self.three = nn.Sequential(Unit(ins, outs, 1), Unit(outs, outs, 3, stride))
        self.pool = nn.MaxPool2d(3, stride, 1 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pool(x)], 1)


class Net(nn.Module):
    """Two inception blocks, a norm and a residual addition behind."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Inception(3, 4), Inception(11, 4, 2)
        self.norm, self.mix, self.fc = nn.BatchNorm2d(19), nn.Conv2d(19, 19, 3, padding=1), nn.Linear(19, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.second(self.first(x))))
        return self.fc((x + self.mix(x)).mean((2, 3)))


class Plain(nn.Module):
    """Two convolutions side by side, in the network itself; words of a linear layer beside words as they are."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Conv1d(5, 4, 1), nn.Conv1d(5, 6, 3, padding=1), nn.Linear(10, 4)
        self.more, self.head = nn.Linear(4, 6), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.left(x), self.right(x)), dim=1)
        x = torch.tanh(self.last(x.transpose(1, 2)))
        return self.head(torch.cat([x, self.more(x)], -1))


def picture(size: int = 9) -> Tensor:
    return torch.randn(4, 3, size, size)


SPLIT = {
    "resnet18": lambda: (network("resnet18"), picture(32), ["conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc"]),
    "efficientnet_b0": lambda: (network("efficientnet_b0"), picture(32), ["features.2.0.block.*", "classifier.1"]),
    "functional": lambda: (Functional(), picture(), None),
    "chain": lambda: (Chain(), picture(), None),
    "words": lambda: (nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)), torch.randn(2, 4, 5), None),
}


# --- sum ------------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(8)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPLIT)
def test_summed_branches_add_nothing_at_first(name, method, tmp_path):
    model, x, where = SPLIT[name]()
    grown = grow(model, x, Branch(where, branches=3, method=method, seed=0))
    x, before = x.double(), dict(model.double().state_dict())
    assert all((o.after, len(o.producers), o.method) == (3, 3, method) for o in grown.outcomes)
    assert all(torch.equal(before[n], grown.model.state_dict()[n]) for n in before)
    assert not any(n in grown.record.parameters for n in before)
    assert fxgrow.verify(model, grown.record.shrink(grown.model), x).max_abs_error == 0
    archived(grown, x, tmp_path / "m.pt")


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["functional", "chain", "words"])
def test_summed_branches_learn(name):
    model, x, where = SPLIT[name]()
    x = x.double()
    assert dead(grow(model, x, Branch(where, seed=0)), x) == [set(), set()]
    first, second = dead(grow(model, x, Branch(where, method="netmorph", seed=0)), x)
    assert first and all(n.endswith(".conv.weight") for n in first) and second == set()


@proves(60)
@given(rank=st.sampled_from((1, 2, 3)), transposed=st.booleans(), kernel=st.integers(1, 4), stride=st.integers(1, 3),
       padding=st.integers(0, 3), dilation=st.integers(1, 2), groups=st.sampled_from((1, 2, 6)), new=st.integers(1, 7),
       method=st.sampled_from(METHODS))
def test_branches_of_any_kernel_have_the_size_of_the_layer(rank, transposed, kernel, stride, padding, dilation, groups, new,
                                                           method):
    assume(not transposed or padding <= dilation * (kernel - 1))
    layer = CONVOLUTIONS[rank][transposed](6, 12, kernel, stride, padding, dilation=dilation, groups=groups)
    x = torch.randn(2, 6, *[9] * rank)
    front = padding + dilation * (new - kernel) / 2
    try:
        grown = grow(nn.Sequential(layer), x, Branch("0", kernel=new, method=method, seed=0))
    except SelectionError as why:
        assert "another size" in str(why) and (front < 0 or front % 1)
    else:
        branch = grown.model.get_submodule("0_branch1.conv")
        assert branch.kernel_size == (new,) * rank and branch.groups == groups
        assert branch.padding == (int(front),) * rank


# --- concat ---------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", SPLIT)
def test_shared_out_layers_compute_the_same_in_any_number(name, tmp_path):
    model, x, where = SPLIT[name]()
    x = x.double()
    for count in (2, 3):
        grown = grow(model, x, Branch(where, branches=count, join="concat", seed=0))
        assert grown.outcomes[0].method == "split"
        small = grown.record.shrink(grown.model)
        assert fxgrow.verify(model, small, x).max_abs_error == 0
        assert small.state_dict().keys() == model.state_dict().keys()
    archived(grown, x, tmp_path / "m.pt")


def test_the_record_says_where_each_part_comes_from():
    model, x, _ = SPLIT["chain"]()
    grown = grow(model, x, Branch(["stem", "grouped", "up"], branches=3, join="concat"))
    entry = grown.record.parameters
    assert entry["stem.1.weight"].source == "stem.weight" and entry["stem.1.weight"].index[0].tolist() == [3, 4, 5]
    assert entry["stem.2.bias"].source == "stem.bias" and entry["stem.2.bias"].index[0].tolist() == [6, 7]
    assert entry["up.0.weight"].index[0] is None and entry["up.0.weight"].index[1].tolist() == [0, 1]
    assert [grown.model.get_submodule(f"grouped.{i}").groups for i in range(3)] == [2, 1, 1]
    assert entry["grouped.0.weight"].index[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert {"stem.weight", "stem.bias", "grouped.weight"} <= grown.record.removed
    assert not any(grown.record.new_mask(n, p).any() for n, p in grown.model.named_parameters())


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ("r2r", "net2net", "netmorph"))
@pytest.mark.parametrize("name", ["resnet18", "functional", "chain"])
def test_what_was_shared_out_grows_further(name, method):
    """A sum class: each part is widened by itself, and again shared out."""
    model, x, where = SPLIT[name]()
    grown = grow(model, x, Branch(where, join="concat"), Widen(factor=1.5, method=method, seed=0), Kernel(size=5),
                 Branch("*.1", branches=2, method="netmorph", seed=1), Branch("*.0", join="concat"))
    if method != "net2net":
        assert fxgrow.verify(model, grown.record.shrink(grown.model), x.double()).max_rel_error < 1e-12


def test_a_transposed_convolution_that_is_told_its_output_size():
    model, x = Chain((16, 15)), picture()
    grow(model, x, Branch("up", join="concat"))
    with pytest.raises(SelectionError, match="up: it is told its output_size at each call"):
        grow(model, x, Branch("up"))


def test_a_part_alone_gets_another_kernel_and_width():
    model, x = network("resnet18", wide=True), picture(32)
    grown = grow(model, x, Branch("layer1.0.conv1", join="concat"), Kernel("layer1.0.conv1.1", size=5),
                 Widen("layer1.0.conv1.1", by=4, seed=0))
    one, two = (grown.model.get_submodule(f"layer1.0.conv1.{i}") for i in (0, 1))
    assert (one.kernel_size, one.out_channels, two.kernel_size, two.out_channels) == ((3, 3), 32, (5, 5), 36)
    assert grown.model.get_submodule("layer1.0.conv2").in_channels == 68


# --- new ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_new_inception_branch_is_not_used_at_first(method, tmp_path):
    x = picture(12).double()
    model = Net()
    grown = grow(model, x, Branch(join="new", method=method, width=6, seed=0))
    assert [(o.name, o.before, o.after) for o in grown.outcomes] == [("first", 11, 17), ("second", 25, 31)]
    assert [s["pass"] for s in grown.record.lineage] == ["branch"]
    code = [str(n.target) for n in grown.model.graph.nodes]
    assert code.count("first.branch1.conv2") == 1 and sum("cat" in c for c in code) == 2
    assert [type(m).__name__ for m in grown.model.get_submodule("second.branch1").children()] == [
        "Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert grown.model.get_submodule("norm").num_features == grown.model.get_submodule("fc").in_features
    small = grown.record.shrink(grown.model)
    assert fxgrow.verify(model, small, x).max_abs_error == 0 and not grown.record.removed
    archived(grown, x, tmp_path / "m.pt")
    first, second = dead(grown, x)
    assert second == set() and (first == set()) == (method == "r2r")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
def test_googlenet_grows_a_branch(method):
    model, x = network_of_blocks(), torch.randn(2, 3, 64, 64)
    grown = grow(model, x, Branch(["inception3a", "inception4b"], join="new", method=method, seed=0))
    assert [o.method for o in grown.outcomes] == [method] * 2
    assert grown.model.get_submodule("inception3b.branch1.conv").in_channels == 320 == 256 + 64
    assert grown.model.get_submodule("inception3a.branch5.conv2").kernel_size == (3, 3)


def network_of_blocks() -> nn.Module:
    from torchvision.models import googlenet
    model = googlenet(init_weights=False, aux_logits=False, num_classes=5)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
def test_a_branch_beside_a_layer(method):
    model, x = network("resnet18", wide=True), picture(32)
    grown = grow(model, x, Branch(["layer2.0.conv1", "conv1"], join="new", branches=2, width=6, method=method, seed=0))
    norm, reader = (grown.model.get_submodule(n) for n in ("layer2.0.bn1", "layer2.0.conv2"))
    assert norm.num_features == reader.in_channels == 128 + 2 * 6
    assert grown.model.get_submodule("layer2.0.conv1_branch2.conv2").stride == (2, 2)
    grow(Plain(), torch.randn(4, 5, 7), Branch(["left", "right", "more"], join="new", method=method, seed=0))


def test_a_branch_beside_a_stream_widens_what_is_added_to_it():
    grown = grow(Net(), picture(12), Branch("second", join="new", width=4, seed=0))
    assert grown.model.get_submodule("mix").out_channels == grown.model.get_submodule("norm").num_features


def test_what_reads_a_branch_does_so_with_zeros_where_pairs_are_not_exact():
    """A language model's embedding and output layer are one: its columns cannot be pairs and signed pairs at once."""
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, t: Tensor) -> Tensor:
            x = self.embed(t)
            return self.head(x + torch.tanh(self.mix(x)))

    grown = grow(Tied(), torch.randint(11, (2, 5)), Branch("mix", join="new", width=3, seed=0))
    outcome, = grown.outcomes
    assert (outcome.method, outcome.after) == ("netmorph", 11) and "r2r is not exact here: " in outcome.certificate


def test_passes_behind_a_new_branch():
    model, x = Net(), picture(12)
    grown = grow(model, x, Branch("first", join="new", seed=0), Widen(factor=1.5, seed=1),
                 Branch("first", join="new", method="netmorph", seed=2), Branch("first.branch2", join="concat"),
                 Widen(factor=1.3, method="net2net", seed=3))
    assert len(grown.record.lineage) == 5
    assert fxgrow.verify(model, grown.record.shrink(grown.model), x.double()).max_rel_error < 1e-12


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize("join", ["sum", "concat", "new"])
def test_single_precision_and_seeds(join):
    model, x, _ = SPLIT["resnet18"]()
    grown = grow(model, x, Branch("layer1.0.conv1", join=join, seed=3), double=False)
    again = fxgrow.transform(model, x, Branch("layer1.0.conv1", join=join, seed=3))
    assert all(torch.equal(a, again.model.state_dict()[n]) for n, a in grown.model.state_dict().items())


class Refusing(nn.Module):
    def __init__(self):
        super().__init__()
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
        self.tied, self.twin = nn.Linear(6, 6), nn.Linear(6, 6)
        self.twin.weight = self.tied.weight
        self.few = nn.Conv1d(6, 6, 3, groups=2)
        self.into, self.groups = nn.Conv1d(6, 6, 3), nn.Conv1d(6, 6, 1, groups=3)
        self.layernorm, self.last = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twin(self.tied(self.normed(x)))
        x = self.groups(self.into(self.few(x.transpose(1, 2)))).mean(-1)
        return self.last(self.layernorm(x))


@pytest.mark.parametrize("where, options, why", [
    ("normed", {}, "its weight is computed at each call"),
    ("tied", {"join": "concat"}, "used by several layers|also used by"),
    ("few", {"join": "concat", "branches": 3}, "it has 2 groups, which cannot be shared out among 3 branches"),
    ("few", {"kernel": 1}, "another size; choose one that differs by an even number and is at least 3"),
    ("few", {"kernel": 4}, "another size"),
    ("into", {"join": "new"}, "in groups"),
    ("groups", {"join": "new"}, "layernorm normalises over it"),
    ("last", {"join": "new"}, "it is the model's output"),
])
def test_refusals_name_the_layer_and_say_why(where, options, why):
    with pytest.raises(SelectionError, match=f"{where}: .*({why})"):
        grow(Refusing(), torch.randn(2, 7, 4), Branch(where, **options))


def test_what_is_asked_for_wrongly():
    for options, why in (({"join": "mean"}, "sum, concat, new"), ({"branches": 1}, "at least 2"),
                         ({"kernel": 0}, "at least 1"), ({"join": "concat", "kernel": 5}, "enlarge it afterwards"),
                         ({"width": 3}, "option of join new"), ({"method": "net2net"}, "one of r2r, netmorph")):
        with pytest.raises(GrowthError, match=why):
            Branch(**options)
    with pytest.raises(SelectionError, match="names no convolution or linear layer"):
        fxgrow.transform(Net(), picture(12), Branch("nothing"))


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(network("resnet18"), "m.pt")
    result = CliRunner().invoke(main, [
        "transform", "m.pt", "--input", "2,3,32,32", "--pass", "branch", "--where", "layer1.0.conv1", "--kernel", "5",
        "--pass", "branch", "--where", "layer2.0.conv1", "--join", "concat", "--branches", "3",
        "--pass", "branch", "--where", "layer3.0.conv1", "--join", "new", "--width", "8", "--seed", "4",
        "-o", "b.pt", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["verification"]["ok"] and [s["join"] for s in report["lineage"]] == ["sum", "concat", "new"]
    assert fxgrow.load("b.pt").get_submodule("layer3.0.conv1_branch1.conv2").out_channels == 8
