"""What follows from the record, after every pass and after chains of them."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizers import OPTIMIZERS
from small_nets import made, train

import fxgrow
from fxgrow.passes import Activation, Branch, Deepen, Kernel, Skip, SqueezeExcite, Subnet, Widen

CHAINS = {
    "deepen": [Deepen("block1", seed=0), Deepen("block2", method="netmorph", seed=1)],
    "kernel": [Kernel(size=5), Kernel("block2.conv1", size=7)],
    "skip": [Skip("block1.conv1"), Skip("block2", weight="channel")],
    "gates": [SqueezeExcite("block1", reduction=3, seed=0)],
    "activation": [Activation("block1.conv1")],
    "branch": [Branch("block1.conv1", seed=0), Branch("block2.conv1", join="concat"),
               Branch("block2.conv2", join="new", seed=1)],
    "subnet": [Subnet("block1", seed=0), Subnet("block2.conv2", method="netmorph", seed=1)],
    "chain": [Kernel("block1.*", size=5), Widen(factor=1.5, seed=0), Deepen("block2", seed=1),
              SqueezeExcite("block2", reduction=3, seed=0), Widen(by=2, method="netmorph", seed=3), Skip("block1")],
}


@pytest.fixture(params=CHAINS)
def family(request):
    """A small network, trained a little, what it grew into, and the optimizer."""
    model, x = made("residual")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    train(model, optimizer, x, 2)
    grown = fxgrow.transform(model, x, CHAINS[request.param])
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
    return model, grown, optimizer, x


def same(small, model):
    ours, theirs = small.state_dict(), model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


@pytest.mark.thinned(2)
def test_the_small_network_comes_back(family, tmp_path):
    model, grown, optimizer, x = family
    fxgrow.save(grown, tmp_path / "big.pt")
    loaded = fxgrow.load(tmp_path / "big.pt")
    assert same(grown.record.shrink(grown.model), model)
    assert same(loaded.meta["growth"]["record"].shrink(loaded), model)
    with grown.record.freeze_old(grown.model):
        train(grown.model, OPTIMIZERS["momentum"](grown.model.parameters()), x, 2)
    assert same(grown.record.shrink(grown.model), model)


@pytest.mark.thinned(2)
def test_training_goes_on(family):
    model, grown, optimizer, x = family
    moved = grown.record.migrate_tensors(model.state_dict(), like=grown.model)
    assert all(torch.equal(moved[n], t) for n, t in grown.model.state_dict().items())
    follower = grown.record.migrate_optimizer(optimizer, grown.model)
    assert {id(p) for g in follower.param_groups for p in g["params"]} == {id(p) for p in grown.model.parameters()}
    train(model, optimizer, x, 1, first=2)
    train(grown.model, follower, x, 1, first=2)
    for (name, p), q in zip(grown.record.shrink(grown.model).named_parameters(), model.parameters()):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-12), name


@pytest.mark.thinned(2)
def test_tied_it_costs_what_is_new(family):
    model, grown, _, x = family
    child = fxgrow.tie(model, grown)
    assert fxgrow.verify(model, child, x).exact_in == ("eval", "train") and fxgrow.verify(child, copy.deepcopy(child), x).ok
    together = {*model.parameters(), *child.parameters()}
    assert sum(p.numel() for p in together) == sum(p.numel() for p in grown.model.parameters())
