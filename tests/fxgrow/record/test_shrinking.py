"""The small network back out of the grown one."""
from __future__ import annotations

import pytest
import torch
import torchvision
from small_nets import NETS, Normed, backward, made, train
from support import shake
from torch import nn

import fxgrow
from fxgrow import ParameterRecord
from fxgrow.passes import Widen


def same(small, model):
    """Number for number, buffers included."""
    theirs = model.state_dict()
    ours = small.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


STEPS = {"r2r": [Widen(factor=1.5, seed=1), Widen(by=2, seed=2), Widen(factor=1.2, seed=3)],
         "netmorph": [Widen(factor=1.5, method="netmorph", seed=1), Widen(by=2, method="netmorph", seed=2)],
         "fold": [Widen("block1.conv2", by=2, residual="fold", seed=1), Widen(by=2, seed=2)]}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["r2r", "netmorph"])
def test_it_is_the_small_network(net, method):
    model, x = made(net)
    grown = fxgrow.transform(model, x, STEPS[method])
    before = {n: t.clone() for n, t in grown.model.state_dict().items()}
    small = grown.record.shrink(grown.model)
    assert isinstance(small, torch.fx.GraphModule) and small.training and same(small, model)
    assert list(small.state_dict()) == list(model.state_dict())
    small.get_parameter("fc.weight").data.zero_()
    assert all(torch.equal(t, before[n]) for n, t in grown.model.state_dict().items())
    assert not grown.record.shrink(grown.model.eval()).training


def test_folded_streams():
    model, x = made("residual")
    grown = fxgrow.transform(model, x, STEPS["fold"])
    assert same(grown.record.shrink(grown.model), model)


@pytest.mark.parametrize("net", NETS)
def test_it_can_go_on(net):
    """What comes back is captured, trains, grows and is saved like any other."""
    model, x = made(net)
    grown = fxgrow.transform(model, x, STEPS["r2r"])
    small = grown.record.shrink(grown.model)
    again = fxgrow.transform(small, x, Widen(factor=2, seed=4))
    assert len(again.record.lineage) == 1 and fxgrow.verify(small, again.model, x).ok
    train(small, torch.optim.SGD(small.parameters(), lr=0.01), x, 1)
    assert not same(small, model)


@pytest.mark.parametrize("net", NETS)
def test_net2net_adds_up_the_shares(net):
    model, x = made(net)
    steps = [Widen(factor=1.5, method="net2net", seed=1), Widen(by=2, method="net2net-unequal", seed=2), Widen(by=2, seed=3)]
    grown = fxgrow.transform(model, x, steps)
    small = grown.record.shrink(grown.model)
    assert fxgrow.verify(model, small, x).max_rel_error < 1e-14
    entry = grown.record.parameters["fc.weight"]
    with torch.no_grad():
        grown.model.fc.weight += 1.0
    counts = torch.bincount(entry.index[1][entry.index[1] >= 0])
    expected = model.fc.weight + counts  # of as many columns as there are shares
    assert torch.allclose(grown.record.shrink(grown.model).fc.weight, expected)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_get_their_scale_and_eps_back(norm):
    torch.manual_seed(0)
    model, x = shake(Normed(norm).double()), torch.randn(4, 5, dtype=torch.float64)
    grown = fxgrow.transform(model, x, [Widen(factor=1.5, seed=1), Widen(by=3, seed=2)])
    small = grown.record.shrink(grown.model)
    assert grown.model.norm.eps != model.norm.eps and small.norm.eps == model.norm.eps
    assert fxgrow.verify(model, small, x).max_rel_error < 1e-14


def test_more_classes_are_cut_off():
    model, x = made("concat")
    grown = fxgrow.transform(model, x, Widen("fc", by=3, seed=0))
    assert same(grown.record.shrink(grown.model), model)


def test_numbers_found_in_several_tensors_and_under_other_names():
    """As a convolution split into branches, a kernel with a rim, and a layer that moved up leave them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 2, 3, bias=False)).double()
    grown = fxgrow.transform(model, torch.randn(1, 3, 6, 6, dtype=torch.float64), [])
    gm, record = grown.model, grown.record
    weight = model[0].weight.detach()
    for name, rows in (("left", [0, 3]), ("right", [1, 2, 4])):
        part = nn.Module()
        part.weight = nn.Parameter(weight[rows].clone())
        gm.add_module(name, part)
        record.parameters[f"{name}.weight"] = ParameterRecord("0.weight", [torch.tensor(rows), None, None, None], [None] * 4)
    rim, ring = torch.tensor([-1, 0, 1, 2, -1]), torch.tensor([True, False, False, False, True])
    moved = nn.Module()
    moved.weight = nn.Parameter(nn.functional.pad(model[1].weight.detach(), [1] * 4, value=9.0))
    gm.add_module("moved", moved)
    record.parameters["moved.weight"] = ParameterRecord("1.weight", [None, None, rim, rim], [None, None, ring, ring])
    record.removed |= {"0.weight", "1.weight"}
    gm.delete_submodule("0")
    gm.delete_submodule("1")
    assert same(record.shrink(gm), model)
    del record.parameters["left.weight"]
    with pytest.raises(fxgrow.GrowthError, match="0.weight cannot be had back: 6 of its 15"):
        record.shrink(gm)


def test_a_copy_is_taken_only_where_there_is_nothing_else():
    model, x = made("concat")
    grown = fxgrow.transform(model, x, [])
    twin = nn.Module()
    twin.bias = nn.Parameter(model.fc.bias.detach() + 1)
    grown.model.add_module("a", twin)
    every = torch.arange(5)
    grown.record.parameters["a.bias"] = ParameterRecord("fc.bias", [every], [torch.ones(5, dtype=torch.bool)])
    assert same(grown.record.shrink(grown.model), model)
    grown.record.parameters["fc.bias"] = ParameterRecord.new(1)
    assert torch.equal(grown.record.shrink(grown.model).fc.bias, model.fc.bias + 1)


def test_recurrent_layers():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.lstm(self.embed(x))[0])

    model, x = Recurrent().double(), torch.randn(2, 3, 3, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(by=2, method="netmorph", seed=0))
    small = grown.record.shrink(grown.model)
    assert same(small, model) and fxgrow.verify(model, small, x).max_abs_error == 0


@pytest.mark.sweep
def test_a_detector_comes_back_in_parts():
    from torchvision.models import mobilenet_v3_small
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    torch.manual_seed(0)
    body = mobilenet_v3_small(weights=None).features[:4]
    body.out_channels = 24
    model = FasterRCNN(body, num_classes=3, min_size=64, max_size=64, rpn_anchor_generator=AnchorGenerator(
        ((16,),), ((1.0,),)), box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2)).eval()
    inputs = ([torch.rand(3, 64, 64)],)
    first = fxgrow.transform(model, inputs, Widen("backbone.1.*", factor=1.5, seed=0))
    grown = fxgrow.transform(first.model, inputs, Widen("roi_heads.box_head.*", factor=1.5, seed=0))
    record = first.record.then(grown.record)
    assert "backbone" in record.origin and len(record.origin) > 1
    small = record.shrink(grown.model)
    assert type(small) is FasterRCNN and same(small, model) and fxgrow.verify(model, small, inputs).ok


def test_after_training_the_old_numbers_are_what_they_became():
    model, x = made("residual")
    grown = fxgrow.transform(model, x, STEPS["netmorph"])
    train(grown.model, torch.optim.SGD(grown.model.parameters(), lr=0.01), x, 2)
    small = grown.record.shrink(grown.model)
    for name, p in small.named_parameters():
        trained = grown.model.get_parameter(name)
        assert torch.equal(p.flatten(), trained[~grown.record.new_mask(name, trained)]), name
    backward(small, x)


def test_without_an_origin():
    model, x = made("concat")
    with pytest.raises(fxgrow.GrowthError, match="structure"):
        fxgrow.GrowthRecord().shrink(model)
