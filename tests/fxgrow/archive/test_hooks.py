"""Hooks of torch.nn.utils come back with the layer that they compute a weight of; others are refused by name."""
from __future__ import annotations

import pytest
import torch
from archives import refused, resealed, round_trip, run, same
from support import shake
from torch import nn
from torch.nn.utils import prune

import fxgrow
from fxgrow.errors import ArchiveError
from fxgrow.passes import Widen

KINDS = {"weight_norm": nn.utils.weight_norm, "spectral_norm": nn.utils.spectral_norm,
         "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


def network(kind: str) -> nn.Module:
    return shake(nn.Sequential(KINDS[kind](nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_that_compute_a_weight_come_back(kind, path):
    _, loaded = round_trip(network(kind), torch.randn(5, 3), path)
    layer = loaded.get_submodule("0")
    source = getattr(layer, {"weight_norm": "weight_v"}.get(kind, "weight_orig"))
    before = loaded.eval()(torch.ones(1, 3))
    with torch.no_grad():
        source.add_(torch.randn_like(source))
    assert not torch.equal(loaded(torch.ones(1, 3)), before)
    assert list(layer.state_dict()) == list(network(kind)[0].state_dict())
    layer.load_state_dict(network(kind)[0].state_dict())


def test_a_grown_network_with_hooks(path):
    model, x = network("weight_norm").double(), torch.randn(2, 3).double()
    grown = fxgrow.transform(model, x, [Widen(factor=2, seed=0)])
    fxgrow.save(grown, path)
    loaded, x = fxgrow.load(path), torch.randn(7, 3).double()
    same(run(grown.model, (x,), True), run(loaded, (x,), True))
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x), rtol=1e-12, atol=1e-12)


def test_a_pruned_layer_is_pruned_again(path):
    _, loaded = round_trip(network("pruned"), torch.randn(5, 3), path)
    layer = loaded.get_submodule("0")
    zeros = layer.weight_mask == 0
    prune.random_unstructured(layer, "weight", 0.5)
    assert int((layer.weight_mask == 0).sum()) > int(zeros.sum()) and (layer.weight_mask[zeros] == 0).all()


class Masking(prune.BasePruningMethod):
    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        return default_mask

    def apply_mask(self, module):
        return super().apply_mask(module) * 2


def test_hooks_with_code_are_refused_by_name(path):
    model = nn.Sequential(nn.Linear(3, 3))
    Masking.apply(model[0], "weight")
    with pytest.raises(ArchiveError, match=r"'0' has hooks.*Masking \(a hook before its forward\)"):
        fxgrow.save(model, path, example_inputs=torch.randn(2, 3))
    assert not path.exists()


def test_lies_about_hooks(path):
    fxgrow.save(network("weight_norm"), path, example_inputs=torch.randn(2, 3))
    good = path.read_bytes()

    def hook(graph):
        return next(m for m in graph["modules"] if "hooks" in m)["hooks"]

    for lie in (lambda g: hook(g)[0].update(kind="os.system"), lambda g: hook(g)[0]["attributes"].update(name="forward"),
                lambda g: hook(g)[0]["attributes"].update(name=1), lambda g: hook(g).append(3),
                lambda g: hook(g)[0].update(kind="pruned"), lambda g: hook(g)[0].pop("attributes")):
        path.write_bytes(resealed(good, lie))
        refused(path)
