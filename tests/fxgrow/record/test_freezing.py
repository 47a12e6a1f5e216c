"""Old numbers that stay, and numbers that learn faster or slower than others."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizers import OPTIMIZERS
from small_nets import NETS, backward, made, train
from torch import nn

import fxgrow
from fxgrow.passes import Widen


def grown_net(net="residual", method="r2r"):
    model, x = made(net)
    return model, fxgrow.transform(model, x, [Widen(factor=1.5, method=method, seed=1), Widen(by=2, seed=2)]), x


def same(small, model):
    theirs = model.state_dict()
    return all(torch.equal(t, theirs[n]) for n, t in small.state_dict().items())


def moved(model, before):
    """Whether any number of each parameter is another one."""
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


class Stubborn:
    """Not an optimizer of torch's: it knows nothing of hooks, and moves what has no gradient as well."""

    def __init__(self, model):
        self.params = list(model.parameters())

    def step(self):
        for p in self.params:
            p.data.mul_(0.9).sub_(0.01 * (0 if p.grad is None else p.grad))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_old_numbers_stay_under_any_optimizer(kind):
    """With momentum and decay from before, through training in which running statistics move."""
    model, grown, x = grown_net()
    optimizer = OPTIMIZERS[kind](grown.model.parameters())
    train(grown.model, optimizer, x, 2)
    model, before = grown.record.shrink(grown.model), copy.deepcopy(grown.model.state_dict())
    with grown.record.freeze_old(grown.model):
        train(grown.model, optimizer, x, 3)
        assert same(grown.record.shrink(grown.model), model)
    assert same(grown.record.shrink(grown.model), model)
    new = {n for n, p in grown.model.named_parameters() if grown.record.new_mask(n, p).any()}
    assert moved(grown.model, before) == new and len(new) > 8
    train(grown.model, optimizer, x, 1)
    assert len(moved(grown.record.shrink(grown.model), dict(model.named_parameters()))) == len(list(model.parameters()))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["r2r", "netmorph"])
def test_an_optimizer_that_is_not_torchs(net, method):
    model, grown, x = grown_net(net, method)
    optimizer = Stubborn(grown.model)
    frozen = grown.record.freeze_old(grown.model)
    before = copy.deepcopy(grown.model.state_dict())
    train(grown.model, optimizer, x, 2)
    grown.model(x)
    assert same(grown.record.shrink(grown.model), model)
    optimizer.step()
    frozen.remove()
    assert same(grown.record.shrink(grown.model), model) and moved(grown.model, before)


def test_gradients_of_old_numbers_are_zero():
    _, grown, x = grown_net()
    backward(grown.model, x)
    frozen = grown.record.freeze_old(grown.model)
    for _ in range(2):  # those that were there before, and those of the next step
        for name, p in grown.model.named_parameters():
            new = grown.record.new_mask(name, p)
            assert (p.grad is None and not p.requires_grad) if not new.any() else not p.grad[~new].any()
        backward(grown.model, x, 1)
    frozen.remove()
    assert all(p.requires_grad for p in grown.model.parameters())
    backward(grown.model, x)
    assert all(p.grad.any() for p in grown.model.parameters())


def test_two_forwards_before_a_backward():
    _, grown, x = grown_net()
    with grown.record.freeze_old(grown.model):
        (grown.model(x).sum() + grown.model(x * 2).sum()).backward()


def test_other_optimizers_and_copies_are_left_alone():
    model, grown, x = grown_net()
    with grown.record.freeze_old(grown.model):
        twin = copy.deepcopy(grown.model)
        before = copy.deepcopy(twin.state_dict())
        train(twin, Stubborn(twin), x, 1)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), x, 1)
        twin(x)
    assert moved(twin, before) == set(dict(twin.named_parameters()))


def test_a_frozen_model_can_be_saved_and_grown(tmp_path):
    model, grown, x = grown_net()
    with grown.record.freeze_old(grown.model):
        fxgrow.save(grown, tmp_path / "m.pt")
        more = fxgrow.transform(grown.model, x, Widen(factor=2, seed=3))
    loaded = fxgrow.load(tmp_path / "m.pt")
    assert same(loaded.meta["growth"]["record"].shrink(loaded), model) and not loaded._forward_hooks
    assert same(more.record.shrink(more.model), model)


def test_what_is_made_of_a_frozen_model_trains(tmp_path):
    model, grown, x = grown_net()
    grown.model.block2.bn1.bias.requires_grad_(False)
    wanted = {n for n, p in grown.model.named_parameters() if p.requires_grad}
    with grown.record.freeze_old(grown.model):
        fxgrow.save(grown, tmp_path / "m.pt")
        torch.save(grown.model, tmp_path / "pickled.pt")
        made_of_it = [fxgrow.load(tmp_path / "m.pt"), torch.load(tmp_path / "pickled.pt", weights_only=False),
                      copy.deepcopy(grown.model), fxgrow.untie(fxgrow.tie(model, grown)),
                      torch.optim.swa_utils.AveragedModel(grown.model).module,
                      fxgrow.transform(grown.model, x, Widen("block1.conv1", by=2, seed=3)).model]
        assert all(p.requires_grad for p in grown.record.shrink(grown.model).parameters())
    assert all(same(grown.record.shrink(m), model) for m in made_of_it[:2])
    for other in [*made_of_it, grown.model]:
        assert {n for n, p in other.named_parameters() if p.requires_grad} == wanted
        backward(other, x)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("first", ["frozen", "compiled"])
def test_a_model_that_compiles_in_place(first):
    _, grown, x = grown_net()
    if first == "compiled":
        grown.model.compile(backend="aot_eager")
        grown.model(x)
    before = grown.record.shrink(grown.model)
    with grown.record.freeze_old(grown.model):
        if first == "frozen":
            grown.model.compile(backend="aot_eager")
        train(grown.model, torch.optim.SGD(grown.model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1), x, 2)
        grown.model(x)
        assert same(grown.record.shrink(grown.model), before)


# --- factors ----------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_updates_are_scaled_number_by_number(kind):
    _, grown, x = grown_net()
    twin = copy.deepcopy(grown.model)
    optimizers = [OPTIMIZERS[kind](m.parameters()) for m in (grown.model, twin)]
    scales = grown.record.lr_scales(grown.model, new=3.0, old=0.5)
    handle = fxgrow.scale_updates(optimizers[0], grown.model, scales)
    before = copy.deepcopy(twin.state_dict())
    for model, optimizer in zip((grown.model, twin), optimizers):
        train(model, optimizer, x, 1)
    for name, p in grown.model.named_parameters():
        step = twin.get_parameter(name) - before[name]
        factor = torch.where(grown.record.new_mask(name, p), 3.0, 0.5)
        assert torch.allclose(p - before[name], factor * step, atol=1e-15, rtol=1e-9), name
    handle.remove()
    grown.model.load_state_dict(twin.state_dict())
    for model, optimizer in zip((grown.model, twin), optimizers):
        train(model, optimizer, x, 1)
    assert same(grown.model, twin)


def test_a_factor_of_one_changes_no_bit_and_zero_stops():
    _, grown, x = grown_net()
    twin = copy.deepcopy(grown.model)
    optimizers = [OPTIMIZERS["adamw"](m.parameters()) for m in (grown.model, twin)]
    before = copy.deepcopy(twin.state_dict())
    with fxgrow.scale_updates(optimizers[0], grown.model, grown.record.lr_scales(grown.model, new=0.0)):
        for model, optimizer in zip((grown.model, twin), optimizers):
            train(model, optimizer, x, 1)
    for name, p in grown.model.named_parameters():
        new = grown.record.new_mask(name, p)
        assert torch.equal(p[new], before[name][new]) and torch.equal(p[~new], twin.get_parameter(name)[~new])


def test_scales_of_whole_parameters_are_numbers():
    _, grown, x = grown_net()
    grown.record.parameters["fc.bias"] = fxgrow.ParameterRecord.new(1)
    scales = grown.record.lr_scales(grown.model, new=10.0)
    assert scales["fc.bias"] == 10.0 and isinstance(scales["fc.weight"], torch.Tensor)
    groups = grown.record.parameter_groups(grown.model, lr=0.1, new=10.0)
    assert [g["lr"] for g in groups] == [0.1, 1.0] and groups[1]["params"] == [grown.model.fc.bias]
    assert len(groups[0]["params"]) == len(list(grown.model.parameters())) - 1
    torch.optim.SGD(groups)


def test_layers_that_were_put_in_later_are_new():
    _, grown, x = grown_net()
    grown.model.add_module("other", nn.Linear(2, 2).double())
    with grown.record.freeze_old(grown.model):
        assert grown.model.other.weight.requires_grad and not grown.model.fc.bias.requires_grad
    assert grown.record.lr_scales(grown.model, new=2.0)["other.weight"] == 2.0
    grown.record.shrink(grown.model)


def test_factors_of_another_model_are_refused():
    _, grown, _ = grown_net()
    optimizer = torch.optim.SGD(grown.model.parameters(), lr=0.1)
    for scales in ({"nothing": 2.0}, {"fc.weight": torch.ones(2, 2)}):
        with pytest.raises(fxgrow.GrowthError, match="not a parameter of the model, or has another shape"):
            fxgrow.scale_updates(optimizer, grown.model, scales)
    tied = fxgrow.tie(made("residual")[0], grown)
    with pytest.raises(fxgrow.GrowthError, match="fxgrow.untie"):
        grown.record.freeze_old(tied)
    assert isinstance(tied, nn.Module)
