"""A child whose old numbers are its parent's parameters."""
from __future__ import annotations

import copy

import pytest
import torch
from small_nets import NETS, Normed, backward, made
from support import shake
from torch import nn

import fxgrow
from fxgrow.passes import Widen
from fxgrow.record import record_in

STEPS = {"r2r": [Widen(factor=1.5, seed=1), Widen(by=2, seed=2)], "netmorph": [Widen(factor=1.5, method="netmorph", seed=1)]}


def family(net="residual", method="r2r"):
    parent, x = made(net)
    grown = fxgrow.transform(parent, x, STEPS[method])
    return parent, grown, fxgrow.tie(parent, grown), x


def own(child, parent):
    """The parameters that a child does not share."""
    return [p for p in child.parameters() if id(p) not in {id(q) for q in parent.parameters()}]


def size(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", STEPS)
def test_it_costs_only_what_is_new(net, method):
    parent, grown, child, x = family(net, method)
    before = {n: t.clone() for n, t in grown.model.state_dict().items()}
    assert fxgrow.verify(parent, child, x).exact_in == ("eval", "train")
    assert size(own(child, parent)) == size(grown.model.parameters()) - size(parent.parameters())
    theirs = {p.untyped_storage().data_ptr() for p in parent.parameters()}
    memory = {s.data_ptr(): s.nbytes() for p in child.parameters() for s in [p.untyped_storage()]}
    assert theirs <= memory.keys()
    assert sum(n for at, n in memory.items() if at not in theirs) == 8 * size(own(child, parent))
    held = {s.data_ptr() for p in grown.model.parameters() for s in [p.untyped_storage()]}
    assert not held & memory.keys() and all(torch.equal(t, before[n]) for n, t in grown.model.state_dict().items())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", STEPS)
def test_gradients_are_those_of_the_grown_network(net, method):
    parent, grown, child, x = family(net, method)
    backward(grown.model, x)
    backward(child, x)
    for p, theirs in zip(grown.record.shrink(grown.model).named_parameters(), parent.parameters()):
        name = p[0]
        expected = grown.model.get_parameter(name)
        old = ~grown.record.new_mask(name, expected)
        assert torch.allclose(theirs.grad.flatten(), expected.grad[old], atol=1e-12), name
    new = torch.cat([p.grad.flatten() for p in own(child, parent)])
    expected = torch.cat([p.grad[grown.record.new_mask(n, p)] for n, p in grown.model.named_parameters()])
    assert torch.allclose(new.sort().values, expected.sort().values, atol=1e-12)


@pytest.mark.parametrize("method", STEPS)
def test_a_step_on_either_moves_both(method):
    parent, grown, child, x = family("residual", method)
    optimizer = torch.optim.SGD({*parent.parameters(), *child.parameters()}, lr=0.01)
    was = parent(x)
    backward(parent, x)
    optimizer.step()
    assert float((parent(x) - was).abs().max()) > 1e-4
    assert torch.allclose(parent(x), child(x), atol=1e-12)  # new numbers did not move: they cancel still
    backward(child, x)
    optimizer.step()
    assert torch.equal(grown.record.shrink(child).fc.weight, parent.fc.weight)
    assert torch.equal(child.fc.weight[:, :6], parent.fc.weight) and not torch.allclose(parent(x), child(x), atol=1e-6)


def test_siblings_share_through_their_parent():
    parent, x = made("concat")
    children = [fxgrow.tie(parent, fxgrow.transform(parent, x, Widen(factor=2, method=m, seed=s)))
                for s, m in enumerate(("r2r", "netmorph", "r2r"))]
    everything = {*parent.parameters(), *(p for c in children for p in c.parameters())}
    assert size(everything) == size(parent.parameters()) + sum(size(own(c, parent)) for c in children)
    for child in children:
        assert fxgrow.verify(parent, child, x).ok


def test_children_of_children():
    """An untied copy grows on, and its record leads back to the same parent."""
    parent, _, child, x = family()
    more = fxgrow.transform(fxgrow.untie(child), x, Widen("block1.conv1", by=4, seed=5))
    grandchild = fxgrow.tie(parent, more)
    assert fxgrow.verify(parent, grandchild, x).ok and len(more.record.lineage) == 3
    assert size(own(grandchild, parent)) == size(more.model.parameters()) - size(parent.parameters())


@pytest.mark.thinned(6)
@pytest.mark.parametrize("net, where", [("residual", None), ("residual", "block1.conv1"), ("concat", None)])
@pytest.mark.parametrize("method", STEPS)
def test_a_tied_parent(net, where, method):
    """A child of a tied child: each holds its own new numbers alone, and a step on any moves all three."""
    parent, _, child, x = family(net, method)
    alone = fxgrow.untie(child)
    del alone.meta["growth"]
    more = fxgrow.transform(alone, x, Widen(where, factor=1.5, method=method, seed=7))
    grandchild = fxgrow.tie(child, more, more.record)
    assert fxgrow.verify(child, grandchild, x).ok
    everything = {*parent.parameters(), *child.parameters(), *grandchild.parameters()}
    assert everything == set(grandchild.parameters())
    assert size(everything) == size(more.model.parameters())
    whole = fxgrow.untie(grandchild)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in more.model.state_dict().items())
    optimizer = torch.optim.SGD(everything, lr=0.01)
    was = [m(x) for m in (parent, child, grandchild)]
    backward(grandchild, x)
    optimizer.step()
    assert all(float((m(x) - old).abs().max()) > 1e-6 for m, old in zip((parent, child, grandchild), was))
    expected = fxgrow.untie(grandchild)  # what the child holds is in it
    assert all(torch.equal(p, more.record.shrink(expected).state_dict()[n])
               for n, p in fxgrow.untie(child).named_parameters())


def test_parents_that_are_captured_and_norms_that_are_rescaled():
    torch.manual_seed(0)
    parent, x = shake(Normed().double()), torch.randn(4, 5, dtype=torch.float64)
    captured = fxgrow.capture(parent, x)
    child = fxgrow.tie(captured, fxgrow.transform(captured, x, Widen(factor=1.5, seed=0)))
    assert fxgrow.verify(parent, child, x).ok and fxgrow.untie(child).norm.weight.shape == (12,)
    backward(child, x)
    assert parent.norm.weight.grad is not None


def test_copies_and_state_dicts():
    parent, grown, child, x = family()
    twin = copy.deepcopy(child)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in child.parameters()}
    assert fxgrow.verify(child, twin, x).ok and size(twin.parameters()) == size(child.parameters())
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    twin.load_state_dict(child.state_dict())
    assert fxgrow.verify(child, twin, x).max_abs_error == 0


def test_untied_and_saved_it_stands_alone(tmp_path):
    parent, grown, child, x = family()
    alone = fxgrow.untie(child)
    assert list(alone.state_dict()) == list(grown.model.state_dict())
    assert all(torch.equal(t, alone.state_dict()[n]) for n, t in grown.model.state_dict().items())
    assert fxgrow.untie(alone) is alone and fxgrow.verify(child, alone, x).max_abs_error == 0
    fxgrow.save(child, tmp_path / "child.pt")
    loaded = fxgrow.load(tmp_path / "child.pt")
    assert fxgrow.verify(child, loaded, x).max_abs_error == 0 and fxgrow.verify(parent, fxgrow.tie(parent, loaded), x).ok
    with torch.no_grad():
        parent.fc.weight.add_(1.0)
    assert not fxgrow.verify(child, alone, x).ok


class Reads(nn.Module):
    """Its graph reads parameters by name, twice, as vision transformers and functional models do."""

    def __init__(self):
        super().__init__()
        self.token, self.body, self.place = nn.Parameter(torch.randn(1, 6)), nn.Module(), nn.Parameter(torch.randn(6))
        self.body.weight, self.head = nn.Parameter(torch.randn(6, 5)), nn.Linear(6, 2)

    def forward(self, x):
        x = torch.nn.functional.linear(x, self.body.weight) * self.place
        return self.head(torch.tanh(torch.cat([self.token, x + self.token]) + self.place))


def test_parameters_that_the_graph_reads(tmp_path):
    torch.manual_seed(0)
    parent, x = Reads().double(), torch.randn(3, 5, dtype=torch.float64)
    grown = fxgrow.transform(parent, x, Widen("body", by=4, method="netmorph", seed=0))
    child = fxgrow.tie(parent, grown)
    assert fxgrow.verify(parent, child, x).ok and fxgrow.verify(child, copy.deepcopy(child), x).max_abs_error == 0
    assert size(own(child, parent)) == size(grown.model.parameters()) - size(parent.parameters())
    assert size(own(copy.deepcopy(child), parent)) == size(child.parameters())
    backward(child, x)
    assert all(p.grad is not None for p in [*parent.parameters(), *child.parameters()])
    alone = fxgrow.untie(child)
    assert list(alone.state_dict()) == list(grown.model.state_dict())
    assert str(alone.graph) == str(grown.model.graph) and fxgrow.verify(child, alone, x).max_abs_error == 0
    fxgrow.save(child, tmp_path / "child.pt")
    assert fxgrow.verify(parent, fxgrow.load(tmp_path / "child.pt"), x).ok
    with pytest.raises(fxgrow.GrowthError, match="untie"):
        grown.record.lr_scales(child)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0]).relu()


def test_recurrent_layers_share_what_is_unchanged_and_are_refused_where_they_grew():
    parent, x = Recurrent().double(), torch.randn(2, 3, 3, dtype=torch.float64)
    grown = fxgrow.transform(parent, x, Widen("lstm", by=2, method="netmorph", seed=0))
    with pytest.raises(fxgrow.GrowthError, match="lstm.weight_ih_l0 cannot be tied: a LSTM"):
        fxgrow.tie(parent, grown)
    model = nn.Sequential(parent, nn.Linear(2, 3), nn.Linear(3, 1)).double()
    child = fxgrow.tie(model, fxgrow.transform(model, x, Widen("1", by=2, method="netmorph", seed=0)))
    assert child.get_submodule("0.lstm").weight_ih_l0 is parent.lstm.weight_ih_l0
    assert child.get_submodule("0.lstm")._flat_weights[0] is parent.lstm.weight_ih_l0
    assert fxgrow.verify(model, child, x).ok


def test_a_model_grown_in_parts():
    class Shell(nn.Sequential):
        def forward(self, x):
            if x.sum() > 1e9:
                return x
            return super().forward(x)

    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    parent, x = Shell(body, nn.Linear(2, 2)).double(), torch.randn(3, 3, dtype=torch.float64)
    grown = fxgrow.transform(parent, x, Widen("0.0", by=2, seed=0))
    assert list(grown.record.origin) == ["0"]
    child = fxgrow.tie(parent, grown)
    assert fxgrow.verify(parent, child, x).ok and child[1].weight is parent[1].weight
    assert size(own(child, parent)) == 2 * 3 + 2 + 2 * 2
    assert fxgrow.verify(child, fxgrow.untie(child), x).max_abs_error == 0
    assert fxgrow.verify(child, copy.deepcopy(child), x).max_abs_error == 0
    assert record_in(fxgrow.untie(child)).lineage == grown.record.lineage


def test_what_cannot_be_tied_is_refused():
    parent, x = made("residual")
    shared_out = fxgrow.transform(parent, x, Widen(factor=2, method="net2net", seed=0))
    with pytest.raises(fxgrow.GrowthError, match="net2net"):
        fxgrow.tie(parent, shared_out)
    grown = fxgrow.transform(parent, x, STEPS["r2r"])
    with pytest.raises(fxgrow.GrowthError, match="which the parent has not, or of another shape"):
        fxgrow.tie(made("concat")[0], grown)
    with pytest.raises(fxgrow.GrowthError, match="one type and device"):
        fxgrow.tie(copy.deepcopy(parent).float(), grown)
    with pytest.raises(fxgrow.GrowthError, match="needs a growth record"):
        fxgrow.tie(parent, parent)
    assert fxgrow.verify(parent, fxgrow.tie(parent, grown.model, grown.record), x).ok


@pytest.mark.parametrize("norm", ["weight_norm", "orthogonal"])
def test_layers_that_compute_their_weights_share_no_class_with_a_tied_copy(norm):
    """Tied or refused, parent and grown network go on as they were."""
    torch.manual_seed(0)
    parametrized = getattr(nn.utils.parametrizations, norm)(nn.Linear(8, 8))
    parent = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), parametrized, nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(parent, x, Widen("2", by=4, seed=0))
    if norm == "weight_norm":
        with pytest.raises(fxgrow.GrowthError, match="cannot be tied: a ParametrizationList"):
            fxgrow.tie(parent, grown)
    else:
        assert fxgrow.verify(parent, fxgrow.tie(parent, grown), x).ok
    assert fxgrow.verify(parent, grown.model, x).ok


def test_other_weights_of_a_layer_that_computes_one_are_tied():
    class Doubled(nn.Module):
        def forward(self, bias):
            return bias * 2

    torch.manual_seed(0)
    head = nn.Linear(8, 3)
    nn.utils.parametrize.register_parametrization(head, "bias", Doubled())
    parent, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), head).double(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(parent, x, Widen("0", by=4, seed=0))
    child = fxgrow.tie(parent, grown)
    assert fxgrow.verify(parent, child, x).ok and fxgrow.verify(parent, grown.model, x).ok
    alone = fxgrow.untie(child)
    assert fxgrow.verify(alone, grown.model, x).ok and fxgrow.verify(parent, child, x).ok
    backward(child, x)
    assert all(p.grad is not None for p in parent.parameters())
