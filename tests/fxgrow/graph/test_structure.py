"""What is known of a structure: growing with it gives what growing without it gives, and nothing else is taken for it."""
from __future__ import annotations

import random

import pytest
import torch
import torchvision
from random_nets import RandomNet, random_pass
from support import shake
from torch import nn

import fxgrow
from fxgrow.axis import analyse
from fxgrow.errors import FxgrowError
from fxgrow.graph import StructureCache, clone_structure, remembered
from fxgrow.passes import Branch, Deepen, Skip, Widen


def outcome(gm, step):
    """All that a growth gives: code, layers, numbers, record; or why there is none."""
    try:
        grown = fxgrow.transform(gm, gm.meta["example_inputs"], step)
    except FxgrowError as error:
        return type(error).__name__, str(error)
    tensors = {n: (t.shape, t.detach().numpy().tobytes()) for n, t in grown.model.state_dict().items()}
    return grown.model.code, str(grown.model), tensors, grown.record.to_json(), grown.explain()


@pytest.mark.thinned(4)
@pytest.mark.parametrize("seed", range(12))
def test_random_passes_give_the_same_with_what_is_known_and_without(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    gm = fxgrow.capture(shake(RandomNet(seed), seed), torch.randn(2, 3, 8, 8))
    facts = StructureCache(gm)
    for step in [random_pass(rng, gm) for _ in range(5)]:
        expected = outcome(gm, step)
        for _ in range(2):  # the second time all that is asked for is known
            with facts.active():
                assert outcome(gm, step) == expected, step
    assert facts.results and StructureCache(gm).structure == facts.structure  # no pass edits what it is given


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", [pytest.param("shufflenet", marks=pytest.mark.sweep), "transformer"])
def test_copies_in_a_shuffle_heads_and_new_outputs_leave_what_is_known_as_it_was(name):
    torch.manual_seed(0)
    if name == "shufflenet":
        model, x, head = torchvision.models.shufflenet_v2_x0_5(), torch.randn(2, 3, 32, 32), "fc"
    else:
        model = torchvision.models.VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8,
                                                     mlp_dim=16, num_classes=5)
        x, head = torch.randn(2, 3, 16, 16), "heads.head"
    gm = fxgrow.capture(shake(model), x)
    facts = StructureCache(gm)
    classes = [r["name"] for r in fxgrow.axes(gm, x).rows if r["may"]]
    steps = [Widen(head, by=3, seed=0), *(Widen(c, factor=2, method=m, seed=1) for c in classes[:3] + classes[-3:]
                                          for m in ("r2r", "netmorph")), Widen(head, by=3, seed=0)]
    for step in steps:
        expected = outcome(gm, step)
        with facts.active():
            assert outcome(gm, step) == expected, step


def test_a_chain_of_passes_follows_what_each_made():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1),
                        nn.ReLU(inplace=True))
    gm = fxgrow.capture(net, torch.randn(2, 3, 8, 8))
    chain = [Widen("0", factor=2, seed=0), Skip("2"), Branch("2", seed=1), Deepen("2", seed=2), Widen("0", by=2, seed=3)]
    expected = outcome(gm, chain)
    with StructureCache(gm).active():
        assert outcome(gm, chain) == expected


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.Dropout(0.5), nn.Conv2d(4, 4, 3, padding=1))


def tied(gm) -> None:
    gm.get_submodule("3").bias = gm.get_submodule("0").bias


def scaled(gm) -> None:
    node = next(iter(gm.graph.find_nodes(op="output")))
    with gm.graph.inserting_before(node):
        node.args = (gm.graph.call_function(torch.mul, (node.args[0], 2)),)


CHANGES = {
    "a setting": lambda gm: setattr(gm.get_submodule("0"), "stride", (2, 2)),
    "a flag for a number": lambda gm: setattr(gm.get_submodule("2"), "inplace", 0),
    "a slope": lambda gm: setattr(gm.get_submodule("1"), "negative_slope", 0.2),
    "a size": lambda gm: setattr(gm.get_submodule("3"), "bias", nn.Parameter(torch.zeros(5))),
    "a type": lambda gm: gm.get_submodule("3").double(),
    "a frozen parameter": lambda gm: gm.get_submodule("3").weight.requires_grad_(False),
    "a tied parameter": tied,
    "a hook": lambda gm: gm.get_submodule("0").register_forward_hook(lambda m, args, out: out * 2),
    "a layer": lambda gm: gm.set_submodule("1", nn.ReLU()),
    "a node": scaled,
    "inputs": lambda gm: gm.meta.update(example_inputs=(torch.empty(2, 3, 9, 9, device="meta"),)),
    "the mode": lambda gm: gm.train(False)}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_not_taken_for_what_it_was(change):
    gm = fxgrow.capture(net(), torch.randn(2, 3, 8, 8))
    facts = StructureCache(gm)
    with facts.active():
        remembered(gm, "answer", lambda gm: 42)
        copy = clone_structure(gm, lambda t: t.detach().clone())
        assert remembered(copy, "answer", lambda gm: 0) == 42
        CHANGES[change](copy)
        assert remembered(copy, "answer", lambda gm: 0) == 0
    assert remembered(gm, "answer", lambda gm: 0) == 0, "outside nothing is known"


def test_an_analysis_that_was_touched_is_made_anew():
    gm = fxgrow.capture(net(), torch.randn(2, 3, 8, 8))
    with StructureCache(gm).active():
        first = analyse(gm)
        assert analyse(gm) is first
        atom = next(a for a, reason in first.found.items() if reason)
        first.open(atom)
        assert analyse(gm) is not first
