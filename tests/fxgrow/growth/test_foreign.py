"""Passes of others: what they add is new and learns, what they leave out is completed, what is wrong is said by name."""
import copy
import operator
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

import fxgrow
from fxgrow.errors import ArchiveError, GrowthError, SelectionError
from fxgrow.passes import Widen


class Gain(nn.Module):
    """A layer with numbers, a norm, state and constants of its own."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.ones(channels)), nn.BatchNorm1d(channels)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls.add_(1)
        return x * self.weight * torch.tensor([0.5, 0.5]).sum() + 0 * self.norm(x), {"calls": self.calls}


class Switch(nn.Module):
    """A layer that asks for the mode and holds nothing: no graph follows it, so it stays as it is."""

    def forward(self, x):
        return x * 1 if self.training else x


def halves(x, times=2):
    return torch.stack([x / 2] * times).sum(0)


def insert(gm, behind: str, layer, name: str, calls: int = 1):
    """Put a layer or function behind another one, and go on with the first of what it gives."""
    node = next(n for n in gm.graph.nodes if n.target == behind)
    for _ in range(calls):
        with gm.graph.inserting_after(node):
            if isinstance(layer, nn.Module):
                gm.add_submodule(name, layer)
                new = last = gm.graph.call_module(name, (node,))
            else:
                new = last = gm.graph.call_function(layer, (node,), {"times": 2})
        if isinstance(layer, Gain):
            with gm.graph.inserting_after(new):
                last = gm.graph.call_function(operator.getitem, (new, 0))
        node.replace_all_uses_with(last, lambda user, own=(new, last): user not in own)
        node = last


@dataclass
class Gains(PassBase):
    """Puts a gain behind the first layer, twice, as CONTRIBUTING shows it: on a copy of the graph."""
    width: int = 6

    def call(self, graph_module):
        made = GraphModule(graph_module, copy.deepcopy(graph_module.graph))
        insert(made, "0", Gain(self.width), "gain", calls=2)
        return PassResult(made, True)  # meta forgotten


def in_place(gm):
    gm.get_submodule("0").weight.data.add_(0)
    insert(gm, "0", halves, "halves")


def copied(gm):
    return copy.deepcopy(gm)


def renamed(gm):
    gm.add_submodule("head", gm.get_submodule("1"))
    next(n for n in gm.graph.nodes if n.target == "1").target = "head"
    gm.delete_submodule("1")


@pytest.fixture
def case():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double(), torch.randn(5, 4, dtype=torch.float64)


def wide():
    return Widen("0", by=2, seed=0)


@pytest.mark.parametrize("passes, new", [
    ([Gains(), wide()], {"gain.weight", "gain.norm.weight", "gain.norm.bias"}),
    ([wide(), Gains(8)], {"gain.weight", "gain.norm.weight", "gain.norm.bias"}),
    (in_place, set()), ([wide(), in_place], set()), ([copied, wide()], set()), ([wide(), renamed], set())],
    ids=["gain first", "gain last", "in place", "function last", "deep copy", "renamed"])
def test_what_a_pass_adds_is_new_is_trained_saved_and_shrunk(case, passes, new, tmp_path):
    model, x = case
    before = copy.deepcopy(model.state_dict())
    grown = fxgrow.transform(model, x, passes)
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
    assert {n for n, p in grown.model.named_parameters() if grown.record.new_mask(n, p).all()} == new
    optimizer = grown.record.migrate_optimizer(torch.optim.SGD(model.parameters(), 0.1), grown.model, model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in grown.model.parameters()}
    fxgrow.save(grown, tmp_path / "grown.pt")
    assert fxgrow.verify(grown.model, fxgrow.load(tmp_path / "grown.pt"), x).exact_in == ("eval", "train")
    assert fxgrow.verify(model, grown.record.shrink(grown.model), x).ok
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(p.data_ptr() == q.data_ptr() for p in model.parameters() for q in grown.model.parameters())


def test_a_pass_stands_in_the_lineage_with_its_settings_and_in_the_explanation(case):
    grown = fxgrow.transform(*case, [Gains(), wide()])
    assert grown.record.lineage[0] == {"pass": "Gains", "width": 6}
    assert "Gains" in grown.explain() and "fxgrow.verify tells" in grown.explain().replace("\n", " ")


def test_a_layer_that_no_graph_follows_stays_whole_and_its_file_says_so(case, tmp_path):
    model, x = case
    grown = fxgrow.transform(model, x, [lambda gm: insert(gm, "0", Switch(), "switch"), wide()])
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
    fxgrow.save(grown, tmp_path / "grown.pt")
    with pytest.raises(ArchiveError, match="'switch' is of class"):
        fxgrow.load(tmp_path / "grown.pt")


def test_new_layers_take_mode_and_type_of_the_network(case):
    model, x = case
    grown = fxgrow.transform(model.eval(), x, lambda gm: insert(gm, "0", nn.Linear(6, 6), "more"))
    assert grown.model.more.weight.dtype is torch.float64 and not grown.model.more.training
    assert fxgrow.transform(model.float().train(), x.float(), Gains()).model.gain.norm.training


def test_passes_of_others_work_on_the_parts_of_a_model():
    class Shell(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))

        def forward(self, x):
            return self.body(x) * (2 if float(x.sum()) > 0 else 3)

    def gains(gm):
        insert(gm, "body.0", Gain(6), "body.gain")
        insert(gm, "body.1", halves, "")

    torch.manual_seed(0)
    model, x = Shell().double(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, [gains, Widen("body.0", by=2, seed=0)])
    assert fxgrow.verify(model, grown.model, x).ok and grown.record.new_mask("body.gain.weight", torch.ones(8)).all()


def more_inputs(gm):
    with gm.graph.inserting_before(next(iter(gm.graph.nodes))):
        gm.graph.placeholder("extra")


def too_narrow(gm):
    insert(gm, "0", nn.Linear(5, 6), "narrow")


@pytest.mark.parametrize("passes, said", [
    (lambda gm: 3, "<lambda> gave 3: a pass .* gives PassResult"), (lambda gm: nn.ReLU(), "gave a ReLU"),
    (more_inputs, "more_inputs changed what the network takes: input became extra, input"),
    (too_narrow, "too_narrow gave a network that does not run: narrow"), (Widen, "Widen is a class"),
    ("widen", "'widen' is no pass"), (None, "None is no pass"), ([wide(), 7], "7 is no pass")])
def test_what_is_wrong_with_a_pass_is_said_in_its_name(case, passes, said):
    with pytest.raises(GrowthError, match=said):
        fxgrow.transform(*case, passes)


@pytest.mark.parametrize("make, said", [
    (lambda model: Widen(model[0], factor=2), "where of Widen is a Linear; it takes names"),
    (lambda model: Widen([0], factor=2), r"where of Widen is \[0\]; it takes names"),
    (lambda model: Widen("0", factor=2, method=model), "method a Sequential is not known")])
def test_messages_print_no_networks(case, make, said):
    model, x = case
    with pytest.raises((GrowthError, SelectionError), match=said):
        fxgrow.transform(model, x, make(model))
