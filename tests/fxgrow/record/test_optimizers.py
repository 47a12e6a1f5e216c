"""Optimizers and averaged numbers follow a growth: the next step on old numbers is the small network's own."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizers import OPTIMIZERS
from small_nets import NETS, Normed, Residual, backward, made, train
from support import shake
from torch import nn
from torch.optim import SGD, Adam

import fxgrow
from fxgrow.passes import Deepen, Skip, Widen

STEPS = {"r2r": [Widen(factor=1.5, method="r2r", seed=1), Widen(by=2, method="r2r", seed=2)],
         "netmorph": [Widen(factor=1.5, method="netmorph", seed=1), Widen(by=2, method="netmorph", seed=2)],
         "both": [Widen(factor=2, method="netmorph", seed=1), Widen(by=2, method="r2r", seed=2)]}


def close(a, b, tolerance=1e-12):
    return float((a - b).detach().abs().max()) <= tolerance * (1 + float(b.detach().abs().max()))


@pytest.mark.thinned(8)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_next_step_is_that_of_the_small_network(net, method, kind):
    model, x = made(net)
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, x, 3)
    grown = fxgrow.transform(model, x, STEPS[method])
    follower = grown.record.migrate_optimizer(optimizer, grown.model)
    assert type(follower) is type(optimizer) and follower is not optimizer
    train(model, optimizer, x, 1, first=3)
    train(grown.model, follower, x, 1, first=3)
    small = grown.record.shrink(grown.model)
    assert len(list(small.parameters())) == len(list(model.parameters()))
    for name, number in model.named_parameters():
        assert close(small.get_parameter(name), number), (name, float((small.get_parameter(name) - number).abs().max()))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", ["r2r", "netmorph", "net2net"])
def test_momentum_is_the_gradient_that_the_grown_network_has(net, method):
    """After one step from rest the buffer is the gradient: that of every number that is or copies an old one is known."""
    model, x = made(net)
    optimizer = SGD(model.parameters(), lr=0.0, momentum=0.9)
    train(model, optimizer, x, 1)
    grown = fxgrow.transform(model, x, Widen(factor=2, method=method, seed=1))
    follower = grown.record.migrate_optimizer(optimizer, grown.model, model)
    backward(grown.model, x, 0)
    for name, p in grown.model.named_parameters():
        told, new = follower.state[p]["momentum_buffer"], grown.record.new_mask(name, p)
        if method == "net2net":
            assert close(told, p.grad, 1e-10), name
        else:
            assert close(told[~new], p.grad[~new], 1e-10) and not told[new].any(), name


def test_rescaled_norm_weights_have_the_momentum_of_their_scale():
    torch.manual_seed(0)
    model, x = shake(Normed(nn.RMSNorm).double()), torch.randn(4, 5, dtype=torch.float64)
    optimizer = SGD(model.parameters(), lr=0.0, momentum=0.9)
    train(model, optimizer, x, 1)
    grown = fxgrow.transform(model, x, Widen("embed", by=4, seed=1))
    assert grown.record.parameters["norm.weight"].scale != 1.0
    follower = grown.record.migrate_optimizer(optimizer, grown.model, model)
    backward(grown.model, x, 0)
    for name, p in grown.model.named_parameters():
        new = grown.record.new_mask(name, p)
        assert close(follower.state[p]["momentum_buffer"][~new], p.grad[~new], 1e-10), name
    squares = Adam(model.parameters(), lr=0.0)
    train(model, squares, x, 1)
    moved = grown.record.migrate_optimizer(squares, grown.model, model)
    backward(grown.model, x, 0)
    p = grown.model.norm.weight
    assert close(moved.state[p]["exp_avg_sq"][:8], 0.001 * p.grad[:8].square(), 1e-10)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("init", ["match_std", "zero"])
def test_under_grown_norms_a_step_of_sgd_is_felt_alike(norm, init):
    """Rows of producers are shifted by one vector in common, which a LayerNorm takes out: what is computed is the same."""
    torch.manual_seed(0)
    model, x = shake(Normed(norm).double()), torch.randn(16, 5, dtype=torch.float64)
    optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9)
    train(model, optimizer, x, 3)
    grown = fxgrow.transform(model, x, Widen("embed", by=4, init=init, seed=0))
    follower = grown.record.migrate_optimizer(optimizer, grown.model)
    fxgrow.scale_updates(follower, grown.model, {n: p.scale ** 2 for n, p in grown.record.parameters.items()})
    train(model, optimizer, x, 1, first=3)
    train(grown.model, follower, x, 1, first=3)
    small = grown.record.shrink(grown.model)
    assert fxgrow.verify(model, small, x).max_rel_error < 1e-12
    shift = small.embed.weight - model.embed.weight
    assert close(shift, shift.mean(0, keepdim=True).expand_as(shift))
    assert (float(shift.abs().max()) > 1e-6) == (norm is nn.LayerNorm)


def test_new_numbers_take_no_leap():
    """With zero second moments and many steps behind, Adam's first steps would be several times too long."""
    model, x = made("residual")
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, x, 20)
    grown = fxgrow.transform(model, x, Widen(factor=1.5, seed=1))
    follower = grown.record.migrate_optimizer(optimizer, grown.model)
    before = copy.deepcopy(grown.model.state_dict())
    state = follower.state[grown.model.block1.conv1.weight]
    new = grown.record.new_mask("block1.conv1.weight", state["exp_avg"])
    small = optimizer.state[model.block1.conv1.weight]
    assert not state["exp_avg"][new].any() and int(state["step"]) == 20
    assert torch.allclose(state["exp_avg_sq"][new], small["exp_avg_sq"].mean())
    train(grown.model, follower, x, 1)
    assert max(float((p - before[n]).abs().max()) for n, p in grown.model.named_parameters()) < 0.02


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_large_weight_decay_confuses_nothing(optimizer):
    model, x = made("residual")
    settings = {"lr": 1e-4, "weight_decay": 0.3} | ({"momentum": 0.9} if optimizer is SGD else {})
    first = optimizer(model.parameters(), **settings)
    train(model, first, x, 3)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=1))
    state = grown.record.migrate_optimizer(first, grown.model).state[grown.model.fc.weight]
    new = grown.record.new_mask("fc.weight", grown.model.fc.weight)
    assert not state["momentum_buffer" if optimizer is SGD else "exp_avg"][new].any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_an_average_of_parameters_is_one_of_the_grown_ones(decay):
    """ASGD's `ax`: of new numbers it is not zero, but what they are."""
    torch.manual_seed(0)
    model, x = shake(Normed(nn.RMSNorm).double()), torch.randn(4, 5, dtype=torch.float64)
    optimizer = torch.optim.ASGD(model.parameters(), lr=1e-3, t0=0, weight_decay=decay)
    train(model, optimizer, x, 3)
    average = {n: optimizer.state[p]["ax"] for n, p in model.named_parameters()}
    grown = fxgrow.transform(model, x, Widen("embed", by=4, seed=0))
    follower = grown.record.migrate_optimizer(optimizer, grown.model)
    expected = grown.record.migrate_tensors(average, like=grown.model)
    for name, p in grown.model.named_parameters():
        assert torch.equal(follower.state[p]["ax"], expected[name]), name


def test_of_two_optimizers_each_has_its_own_new_tensors():
    model, x = made("residual")
    parts = [[p for p in model.parameters() if (p.ndim > 1) == matrices] for matrices in (True, False)]
    optimizers = [SGD(parts[0], lr=0.01, momentum=0.9), Adam(parts[1])]
    for optimizer in optimizers:
        train(model, optimizer, x, 1)
    grown = fxgrow.transform(model, x, [Deepen("block1", seed=0), Widen("block2.conv1", by=2, seed=0)])
    followers = [grown.step.migrate_optimizer(o, grown.model, model) for o in optimizers]
    held = [[p for group in o.param_groups for p in group["params"]] for o in followers]
    assert {*held[0]} == {p for p in grown.model.parameters() if p.ndim > 1}
    assert {*held[1]} == {p for p in grown.model.parameters() if p.ndim == 1}


def test_a_rate_that_groups_share_is_one_again():
    model, x = made("residual")
    flat, deep = ([p for p in model.parameters() if (p.ndim < 2) == small] for small in (True, False))
    optimizer = Adam([{"params": flat}, {"params": deep}], lr=torch.tensor(0.001))
    train(model, optimizer, x, 1)
    grown = fxgrow.transform(model, x, Widen("block2.conv1", by=2, seed=0))
    first, second = grown.step.migrate_optimizer(optimizer, grown.model, model).param_groups
    assert first["lr"] is second["lr"] and first["lr"] is not optimizer.param_groups[0]["lr"]


def test_groups_and_schedules_stay():
    model, x = made("residual")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = SGD([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "lr": 0.5}], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, x, 1)
    schedule.step()
    grown = fxgrow.transform(model, x, Widen(factor=1.5, seed=1))
    grown.model.add_module("extra", nn.Linear(3, 3).double())
    for name in ("extra.weight", "extra.bias"):
        grown.record.parameters[name] = fxgrow.ParameterRecord.new(2 if "weight" in name else 1)
    with pytest.raises(fxgrow.GrowthError, match="old_params"):
        grown.record.migrate_optimizer(optimizer, grown.model)
    follower = grown.record.migrate_optimizer(optimizer, grown.model, model)
    first, second = follower.param_groups
    assert (first["lr"], second["lr"], first["initial_lr"]) == (optimizer.param_groups[0]["lr"], 0.05, 0.1)
    assert first["weight_decay"] == 0.1 and second["weight_decay"] == 0
    assert {p.ndim for p in first["params"]} == {2, 4} and {p.ndim for p in second["params"]} == {1}
    assert sum(len(g["params"]) for g in follower.param_groups) == len(list(grown.model.parameters()))


def test_named_parameters_say_which_they_are():
    model, x = made("concat")
    optimizer = Adam(sorted(model.named_parameters()), lr=0.01)
    train(model, optimizer, x, 2)
    grown = fxgrow.transform(model, x, Widen(factor=2, method="netmorph", seed=1))
    follower = grown.record.migrate_optimizer(optimizer, grown.model.named_parameters())
    assert follower.param_groups[0]["param_names"] == [n for n, _ in grown.model.named_parameters()]
    for name, p in model.named_parameters():
        new = grown.record.new_mask(name, grown.model.get_parameter(name))
        moved = follower.state[grown.model.get_parameter(name)]["exp_avg"]
        assert torch.equal(moved[~new].view(p.shape), optimizer.state[p]["exp_avg"])


def test_what_was_not_trained_is_not_trained():
    model, x = made("concat")
    model.left.requires_grad_(False)
    optimizer = SGD(model.fc.parameters(), lr=0.1)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=1))
    follower = grown.record.migrate_optimizer(optimizer, grown.model, model)
    assert follower.param_groups[0]["params"] == [grown.model.fc.weight, grown.model.fc.bias]


@pytest.mark.parametrize("case", ["shapes", "strangers", "lbfgs", "factored"])
def test_what_cannot_follow_is_refused(case):
    model, x = made("concat")
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=1))
    params = list(model.parameters())
    if case == "shapes":
        with pytest.raises(fxgrow.GrowthError, match="pass old_params"):
            grown.record.migrate_optimizer(SGD(params[::-1], lr=0.1), grown.model)
    elif case == "strangers":
        with pytest.raises(fxgrow.GrowthError, match="that old_params has not"):
            grown.record.migrate_optimizer(SGD([nn.Parameter(torch.ones(3))], lr=0.1), grown.model, model)
    else:
        made_by = torch.optim.LBFGS if case == "lbfgs" else torch.optim.Adafactor
        optimizer = made_by(params, lr=0.1)
        backward(model, x)
        optimizer.step(lambda: model(x).square().sum())
        with pytest.raises(fxgrow.GrowthError, match="start a new optimizer"):
            grown.record.migrate_optimizer(optimizer, grown.model, model)


@pytest.mark.parametrize("method", ["r2r", "netmorph", "net2net"])
def test_an_average_of_the_small_network_stays_one(method):
    model, x = made("residual")
    average = copy.deepcopy(model.state_dict())
    optimizer = SGD(model.parameters(), lr=0.01)
    for step in range(3):
        train(model, optimizer, x, 1, first=step)
        average = {n: t if not t.is_floating_point() else t.lerp(model.state_dict()[n], 0.3) for n, t in average.items()}
    grown = fxgrow.transform(model, x, [Widen(factor=2, method=method, seed=1), Widen("block1.conv1", by=2, seed=2)])
    moved = grown.record.migrate_tensors(average, like=grown.model.state_dict())
    assert list(moved) == list(grown.model.state_dict())
    averaged, twin = Residual().double(), copy.deepcopy(grown.model)
    averaged.load_state_dict(average)
    twin.load_state_dict(moved, strict=True)
    assert fxgrow.verify(averaged.eval(), twin.eval(), x).ok
    empty = grown.record.migrate_tensors(average)
    assert {n: t.shape for n, t in empty.items()} == {n: t.shape for n, t in grown.model.state_dict().items()}
    new = grown.record.new_mask("block1.conv1.weight", empty["block1.conv1.weight"])
    assert method == "net2net" or not empty["block1.conv1.weight"][new].any()


def test_tensors_of_another_model_are_refused():
    model, x = made("residual")
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=1))
    with pytest.raises(fxgrow.GrowthError, match="does not fit"):
        grown.record.migrate_tensors({"block1.conv1.weight": torch.ones(3, 6, 3, 3)})
    with pytest.raises(fxgrow.GrowthError, match="`like`"):
        grown.record.migrate_tensors(dict(model.named_parameters()), like=model)


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True, "dampening": 0.1},
                                      {"fused": True, "dampening": 0.1}, {}])
def test_all_new_tensors_begin_without_momentum(settings):
    """Fused steps take either all buffers or none."""
    model, x = made("residual")
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, **settings)
    train(model, optimizer, x, 2)
    grown = fxgrow.transform(model, x, Deepen("block1", method="netmorph", seed=0))
    follower = grown.step.migrate_optimizer(optimizer, grown.model, model)
    new = [p for n, p in grown.model.named_parameters() if grown.record.new_mask(n, p).all()]
    assert new and not any(follower.state[p]["momentum_buffer"].any() for p in new)
    train(grown.model, follower, x, 2)
    adam = Adam(model.parameters())
    train(model, adam, x, 1)
    follower = grown.step.migrate_optimizer(adam, grown.model, model)
    assert not any(p in follower.state for p in new)


def test_a_single_new_number_begins_without_momentum():
    """One number shows no sign."""
    model, x = made("residual")
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    train(model, optimizer, x, 1)
    grown = fxgrow.transform(model, x, Skip("block1", weight="scalar"))
    follower = grown.step.migrate_optimizer(optimizer, grown.model, model)
    assert len(follower.state) == len(list(grown.model.parameters()))
    train(grown.model, follower, x, 1)


def test_numbers_beside_both_models_are_as_they_were():
    """A parameter of the loss, which the optimizer has too, and groups that are empty."""
    model, x = made("concat")
    temperature = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = SGD([{"params": [*model.parameters(), temperature]}, {"params": [], "lr": 0.5}], lr=0.01, momentum=0.9)
    backward(model, x)
    temperature.grad = torch.ones_like(temperature)
    optimizer.step()
    grown = fxgrow.transform(model, x, Widen(factor=2, method="netmorph", seed=1))
    follower = grown.step.migrate_optimizer(optimizer, [*grown.model.named_parameters(), ("temperature", temperature)],
                                            [*model.named_parameters(), ("temperature", temperature)])
    assert torch.equal(follower.state[temperature]["momentum_buffer"], temperature.grad)
    assert len(follower.param_groups) == 2 and follower.param_groups[1]["lr"] == 0.5


def test_an_optimizer_around_another_is_refused():
    class Prepared(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model, x = made("concat")
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=1))
    for held, why in ((Prepared(SGD(model.parameters())), "a Prepared is around another optimizer: give that one"),
                      ("sgd", "a str is no torch.optim.Optimizer")):
        with pytest.raises(fxgrow.GrowthError, match=why):
            grown.step.migrate_optimizer(held, grown.model, model)
