"""What a forward does beside computing: autocast, seeds and attributes that it keeps are those of the graph."""
import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError, OtherInputs
from fxgrow.layers import set_autocast
from fxgrow.passes import Widen

HALF = torch.bfloat16


class Net(nn.Module):
    """Two layers and a head around what `middle` does."""

    def __init__(self, middle=None):
        super().__init__()
        self.body, self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.middle = middle

    def forward(self, x):
        h = torch.relu(self.inner(torch.tanh(self.body(x)))) if self.middle is None else self.middle(self, x)
        return self.head(h.to(x.dtype))


def in_half(net, x):
    with torch.autocast("cpu", HALF):
        return net.inner(net.body(x)).softmax(-1)


def asks_for_the_type(net, x):
    with torch.autocast("cpu", HALF):
        h = net.inner(net.body(x))
        return h * torch.ones(1, dtype=h.dtype) if h.dtype is HALF or x.dtype is torch.float64 else h * 3


def in_half_but_for_a_part(net, x):
    with torch.autocast(x.device.type, HALF):
        h = net.body(x)
        with torch.autocast(x.device.type, enabled=False):
            h = net.inner(h.to(x.dtype))
        return torch.relu(h) @ torch.eye(8, dtype=x.dtype)


def in_half_while_training(net, x):
    h = net.body(x)
    if net.training:
        with torch.autocast("cpu", HALF):
            return net.inner(h).float()
    return net.inner(h)


def checked(net, x):
    with torch.autocast("cpu", HALF), torch.no_grad():
        return net.inner(net.body(x)) if x.shape[0] % 2 else net.body(x)


class HalfHead(Net):
    @torch.autocast("cpu", HALF)
    def forward(self, x):
        return super().forward(x)


def drawn(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net.eval()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("middle", [in_half, asks_for_the_type, in_half_but_for_a_part, in_half_while_training, None])
def test_autocast_is_switched_where_the_forward_does(middle, tmp_path):
    net, x = drawn(Net(middle) if middle else HalfHead()), torch.randn(3, 4)
    graph, grown = fxgrow.capture(net, x), fxgrow.transform(net, x, Widen(factor=2, seed=0))
    fxgrow.save(grown, tmp_path / "a.fxg")
    for training in (False, True):
        for y in (torch.randn(5, 4), torch.randn(1, 4)):
            want = net.train(training)(y)
            for one in (graph, grown.model, fxgrow.load(tmp_path / "a.fxg")):
                got = one.train(training)(y)
                assert got.dtype is want.dtype and not torch.is_autocast_enabled("cpu")
                torch.testing.assert_close(got, want, atol=0.1, rtol=0.1)
            assert torch.equal(graph(y), want)
    assert fxgrow.verify(net, grown.model, x).exact_in == ("eval", "train") and grown.model.inner.weight.shape != (8, 8)
    if middle is not in_half_while_training:
        exact, x = net.double(), x.double()
        assert fxgrow.verify(exact, fxgrow.transform(exact, x, Widen(factor=2, seed=0)).model, x).max_rel_error < 1e-9


def test_autocast_around_the_graph_is_switched_off_where_the_forward_does():
    def off(net, x):
        with torch.autocast("cpu", enabled=False):
            return net.inner(net.body(x))
    net, x = drawn(Net(off)), torch.randn(3, 4)
    graph = fxgrow.capture(net, x)
    with torch.autocast("cpu", HALF):
        assert torch.equal(graph(x), net(x)) and not torch.equal(net(x), net.head(in_half(net, x)))


def test_a_check_that_fails_leaves_autocast_as_it_was():
    x = torch.randn(3, 4)
    graph = fxgrow.capture(drawn(Net(checked)), x)
    for one in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        with pytest.raises(OtherInputs):
            one(torch.randn(4, 4))
        assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


class Attends(nn.Module):
    """Keeps its attention, and in train mode a loss."""
    loss = None

    def __init__(self):
        super().__init__()
        self.maps: dict = {}
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        weights = (self.q(x) @ self.k(x).mT).softmax(-1)
        self.maps["last"] = [weights, (weights.mean(), "mean")]
        if self.training:
            self.loss = (weights ** 2).sum()
        return weights @ self.v(x)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.part, self.head = nn.Linear(4, 8), Attends(), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        self.hidden = self.part(h)
        return self.head(torch.relu(self.hidden))


def kept(model) -> list:
    part = model.get_submodule("part")
    return [model.hidden, *part.maps["last"][0], part.maps["last"][1][0], *([part.loss] if part.training else [])]


@pytest.mark.parametrize("called", [False, True])
def test_what_a_forward_keeps_as_attributes_is_kept_by_the_graph(called, tmp_path):
    net, x = drawn(Keeps().double()), torch.randn(2, 5, 4).double()
    if called:
        net(x)
    graph, grown = fxgrow.capture(net, x), fxgrow.transform(net, x, Widen(factor=2, seed=0))
    fxgrow.save(grown, tmp_path / "a.fxg")
    again = fxgrow.transform(grown.model, x, Widen(factor=2, seed=1)).model
    assert not graph.meta["leaves"] and grown.model.part.q.weight.shape == (16, 16)
    assert "keeps it as an attribute" in str(grown.explain())  # the hidden states
    fresh = fxgrow.capture(net, x)
    others = again, copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh)), fxgrow.load(tmp_path / "a.fxg")
    for training in (False, True):
        y = torch.randn(3, 7, 4).double()
        net.train(training)(y)
        for one in (graph, grown.model, *others):
            one.train(training)(y)
            for want, got in zip(kept(net), kept(one)):
                torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    kept(graph)[-1].backward()
    assert graph.part.q.weight.grad is not None
    assert fxgrow.verify(net, grown.model, x).exact_in == ("eval", "train")


def test_verify_compares_what_is_kept():
    net, x = drawn(Keeps().double()), torch.randn(2, 5, 4).double()
    graph = fxgrow.capture(net, x)
    keep = next(n for n in graph.graph.nodes if "hidden" in n.args)
    with graph.graph.inserting_before(keep):
        keep.update_arg(2, graph.graph.call_function(torch.mul, (keep.args[2], 2)))
    graph.recompile()
    found = fxgrow.verify(net, graph, x)
    assert torch.equal(graph(x), net(x)) and not found.ok and "what it keeps" in str(found.notes)


def test_what_the_next_call_reads_is_no_part_of_a_graph():
    class Remembers(Net):
        last: Tensor | None = None

        def forward(self, x):
            h = self.body(x)
            h, self.last = h if self.last is None else h + self.last.mean(), h.detach()
            return self.head(h)

    with pytest.raises(fxgrow.errors.CaptureError, match="changes its attribute 'last'"):
        fxgrow.capture(Remembers(), torch.randn(2, 4))


def test_a_forward_that_leaves_autocast_on_is_refused_and_leaves_nothing_behind():
    with pytest.raises(CaptureError, match="switches autocast off or on and not back again"):
        fxgrow.capture(Net(lambda net, x: (torch.autocast("cpu").__enter__(), net.inner(net.body(x)))[1]), torch.randn(5, 4))
    assert not torch.is_autocast_enabled("cpu")


def by_the_device(net, x):
    with torch.autocast(x.device.type):
        h = net.body(x)
    with torch.autocast("cpu", HALF):
        return net.inner(h.to(x.dtype))


def test_autocast_for_the_device_of_a_tensor_goes_where_the_tensor_is():
    gm = fxgrow.capture(Net(by_the_device), torch.randn(5, 4))
    (first, *rest), (other, *_) = (n.args for n in gm.graph.nodes if n.target is set_autocast)
    assert first.target is getattr and first.args[1] == "device" and rest[0] is None  # the type is the device's, too
    assert other.target is getattr  # as it may well be


def test_autocast_for_a_device_that_is_named_stays_there():
    gm = fxgrow.capture(Net(in_half), torch.randn(5, 4))
    assert [n.args[:2] for n in gm.graph.nodes if n.target is set_autocast] == [("cpu", HALF)]
