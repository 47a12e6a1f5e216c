"""Kernel: larger kernels of every kind of convolution compute the same, and their new taps learn."""
from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from proving import proves
from steps import archived, dead, gradients, network
from support import grow
from thin import thin
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Kernel, Widen

CONVOLUTIONS = {1: (nn.Conv1d, nn.ConvTranspose1d, F.conv1d, F.conv_transpose1d),
                2: (nn.Conv2d, nn.ConvTranspose2d, F.conv2d, F.conv_transpose2d),
                3: (nn.Conv3d, nn.ConvTranspose3d, F.conv3d, F.conv_transpose3d)}


class Functional(nn.Module):
    """A convolution whose weight is a parameter and whose settings are arguments."""

    def __init__(self, function, weight: Tensor, options: dict):
        super().__init__()
        self.function, self.options = function, options
        self.kernel = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.kernel, **self.options)


class Same(nn.Module):
    """Padding computed from the size of the weight, in front of the convolution (as in TensorFlow)."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        around = []
        for size, kernel in zip(reversed(x.shape[2:]), reversed(self.weight.shape[2:])):
            total = max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0)
            around += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, around), self.weight, stride=self.stride)


class Twice(nn.Module):
    """One layer called twice, and its weight once more by a call of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        return F.conv2d(x, self.layer.weight, stride=2)


class Uses(nn.Module):
    """A weight that is also penalised."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.conv.weight.std()


@st.composite
def convolutions(draw):
    """A convolution, as a layer or as a call, an input for it, and a larger size."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    transposed, by_call = draw(st.booleans()), draw(st.booleans())
    groups = draw(st.sampled_from((1, 2, 4)))
    kernel, dilation = each(1, 4), each(1, 3 if rank < 3 else 2)
    padding = draw(st.sampled_from(("numbers",) if transposed else ("numbers", "same", "valid")))
    stride = (1,) * rank if padding == "same" else each(1, 3)
    padding = each(0, 2) if padding == "numbers" else padding
    options = {"padding": padding, "stride": stride, "dilation": dilation, "groups": groups}
    if transposed:
        options["output_padding"] = tuple(max(s, d) - 1 for s, d in zip(stride, dilation))
    elif not by_call:
        options["padding_mode"] = draw(st.sampled_from(("zeros", "circular", "reflect", "replicate")))
    layer, transposed_layer, call, transposed_call = CONVOLUTIONS[rank]
    module = (transposed_layer if transposed else layer)(4, 4, kernel, **options)
    if by_call:
        module = Functional(transposed_call if transposed else call, module.weight.detach(), options)
    size = tuple(k + 2 * draw(st.integers(0, 2)) for k in kernel)
    assume(size != kernel)
    return nn.Sequential(module), torch.randn(2, 4, *(draw(st.integers(8, 12)) for _ in range(rank))), size


@proves(150)
@given(convolutions())
def test_any_convolution_with_any_larger_kernel_computes_the_same(case):
    model, x, size = case
    try:
        model.double()(x.double())
    except RuntimeError:
        assume(False)  # no convolution of this input at all
    try:
        grown = grow(model, x, Kernel("0", size=size))
    except SelectionError as refused:
        assert "padding" in str(refused) and "does not fit its input" in str(refused)
        return
    (weight,) = [p for n, p in grown.model.named_parameters() if n.endswith(("weight", "kernel"))]
    assert tuple(weight.shape[2:]) == size
    (name,) = [n for n, p in grown.model.named_parameters() if p is weight]
    new = grown.record.new_mask(name, weight)
    assert weight[new].count_nonzero() == 0 and new.any() and not new.all()
    old = (model[0].weight if hasattr(model[0], "weight") else model[0].kernel).flatten()
    assert torch.equal(weight[~new], old)


@pytest.mark.parametrize("size", [4, 5, "4,7"])
def test_same_padding_takes_any_size_where_the_old_taps_stay_in_place(size):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"))
    grown = grow(model, torch.randn(2, 3, 9, 9), Kernel(size=size))
    assert grown.model.get_submodule("0").padding == "same"


@pytest.mark.parametrize("layer, size, reason", [
    (nn.Conv2d(3, 4, 3), 4, "odd number of taps"),
    (nn.Conv2d(3, 4, 3, padding="same", dilation=2), 4, "moves the old taps off their places"),
    (nn.Conv2d(3, 4, 5), 3, "would shrink"),
    (nn.Conv2d(3, 4, 5), (7, 3), "would shrink"),
    (nn.Conv2d(3, 4, 3), 3, "already"),
    (nn.Conv2d(3, 4, 3), (5, 5, 5), "2 spatial axes"),
    (nn.Conv2d(3, 4, 3, padding=3, padding_mode="reflect"), 17, "does not fit its input of 9x9"),
    (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), 19, "does not fit its input of 9x9"),
    (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), 5, "computed at each call"),
    (nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), 5, "computed at each call"),
    (Uses(), 5, "also used"),
], ids=str)
def test_what_cannot_be_done_is_refused_with_its_reason(layer, size, reason):
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(nn.Sequential(layer), torch.randn(2, 3, 9, 9), Kernel("0", size=size))


@pytest.mark.parametrize("size", [0, -1, "five", "3,", ()])
def test_a_size_that_is_none_is_an_error(size):
    with pytest.raises(GrowthError, match="size"):
        Kernel(size=size)


def test_a_layer_that_is_called_often_grows_once():
    grown = grow(Twice(), torch.randn(2, 4, 9, 9), Kernel(size=7))
    assert grown.model.layer.weight.shape == (4, 4, 7, 7) and grown.model.layer.padding == (3, 3)
    assert [o.name for o in grown.outcomes if o.method] == ["layer"]


def test_a_module_with_weights_of_two_calls():
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(2, 4, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.relu(F.conv2d(x, self.first)), self.last, None, 1, [1])

    grown = grow(nn.Sequential(Calls()), torch.randn(2, 3, 9, 9), Kernel(size=5)).model
    assert {tuple(p.shape[2:]) for p in grown.parameters()} == {(5, 5)}


def test_two_layers_of_one_weight_still_share_it():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=2))
    model[2].weight = model[0].weight
    grown = grow(model, torch.randn(2, 4, 9, 9), Kernel("2", size=5)).model
    assert grown.get_submodule("0").weight is grown.get_submodule("2").weight
    assert grown.get_submodule("0").padding == (1, 1) and grown.get_submodule("2").padding == (3, 3)


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_computed_in_front_stays_what_it_was(stride):
    grown = grow(nn.Sequential(Same(stride)), torch.randn(2, 3, 10, 9), Kernel(size=7)).model
    for size in (9, 12):  # the padding still follows the size of the input
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        assert grown(x).shape == (2, 4, -(-size // stride), -(-size // stride))


def test_pointwise_convolutions_grow_only_if_they_are_named_in_full():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for where in (None, "*"):
        assert grow(model, torch.randn(2, 3, 9, 9), Kernel(where, size=5)).model.get_submodule("0").kernel_size == (1, 1)
    assert grow(model, torch.randn(2, 3, 9, 9), Kernel("0", size=3)).model.get_submodule("0").kernel_size == (3, 3)


@pytest.mark.parametrize("name, where, size", [
    ("resnet18", ["layer1", "layer2"], 5), pytest.param("efficientnet_b0", None, 7, marks=pytest.mark.sweep)])
def test_whole_networks_grow_and_are_archived(name, where, size, tmp_path):
    model, x = network(name), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Kernel(where, size=size), Widen("*.0.*", factor=1.25, seed=0), Kernel(where, size=size + 2))
    kernels = [m.kernel_size for m in grown.model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((size + 2, size + 2)) == (9 if where else 17)  # those of layer1 and layer2, and the first one
    archived(grown, x, tmp_path / "grown.pt")


def test_a_network_in_single_precision():
    grow(network("resnet18"), torch.randn(2, 3, 64, 64), Kernel(size=(5, 7)), double=False)


def test_new_taps_learn_from_the_first_step_on():
    model = torchvision.models.resnet18(num_classes=5)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grown = grow(model, x, Kernel(["layer1", "layer2.0.downsample.0"], size=5))
    assert dead(grown, x, 1) == [set()]
    (first,) = gradients(grown.model, x, 1)
    new = grown.record.new_mask("layer1.0.conv1.weight", first["layer1.0.conv1.weight"])
    assert first["layer1.0.conv1.weight"][new].count_nonzero() == new.sum() == 64 * 64 * 16


def test_the_model_given_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = copy.deepcopy(model)
    fxgrow.transform(model, torch.randn(2, 3, 9, 9), Kernel(size=5))
    assert torch.equal(model[0].weight, before[0].weight) and model[0].padding == (0, 0)


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(thin(lambda: ResNet(BasicBlock, [1, 1, 1, 1])), "model.pt")
    for words, size in ("--size 5", [5]), ("--size 3,7", [3, 7]), ("--size 5 --size 3", [5, 3]):
        done = CliRunner().invoke(main, ["transform", "model.pt", "--input", "2,3,32,32", "--pass", "kernel", "--where",
                                         "layer1", *words.split(), "-o", "grown.pt", "--json"])
        assert done.exit_code == 0, done.output + done.stderr
        assert json.loads(done.stdout)["lineage"] == [{"pass": "kernel", "where": ["layer1"], "size": size}]
        assert [*fxgrow.load("grown.pt").get_submodule("layer1.0.conv1").weight.shape[2:]] == (size * 2)[:2]
