"""Forwards that take as many positions as their data say: captured where nothing depends on the number, and grown."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import CaptureError, OtherInputs, SelectionError
from fxgrow.passes import Widen

X, M = torch.randn(2, 9, 6).double(), torch.rand(2, 9) > 0.4


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 12), nn.Linear(12, 5), function

    def forward(self, *inputs):
        return self.function(self, *inputs)


def written(net, x, mask):
    h = net.first(x)
    out = torch.zeros_like(h)
    out[mask] = torch.tanh(h[mask])
    return net.last(out)


def looked_up(net, x, mask):
    i, j = torch.where(mask)
    return net.last(F.relu(net.first(x)[i, j]))


def routed(net, x):
    """Give each row to the two of three functions that its largest scores name."""
    h = net.first(x).flatten(0, 1)
    scores, names = h[:, :3].softmax(-1).topk(2)
    out = torch.zeros_like(h)
    for k, function in enumerate((torch.tanh, torch.sin, torch.relu)):
        row, place = (names == k).nonzero(as_tuple=True)
        out.index_add_(0, row, function(h[row]) * scores[row, place, None])
    return net.last(out)


def without_loops(net, x, edges):
    """Sum over neighbours, of which a node is none of its own."""
    edges = edges[:, edges[0] != edges[1]]
    h = net.first(x)
    return net.last(torch.zeros_like(h).index_add(0, edges[1], F.relu(h)[edges[0]]))


def with_loops(net, x, edges):
    """Sum over neighbours, of which a node is one of its own; without any, which is never, do something else."""
    loops = torch.arange(len(x)).expand(2, -1)
    edges = torch.cat([edges[:, edges[0] != edges[1]], loops], 1)
    h = net.first(x)
    return x if edges.shape[1] == 0 else net.last(torch.zeros_like(h).index_add(0, edges[1], F.relu(h)[edges[0]]))


CASES = {
    "chosen rows": (lambda net, x, mask: net.last(F.relu(net.first(x)[mask])), (X, M)),
    "their mean": (lambda net, x, mask: net.last(net.first(x)[mask].mean(0)), (X, M)),
    "written rows": (written, (X, M)),
    "places": (looked_up, (X, M)),
    "experts": (routed, (X,)),
    "edges": (without_loops, (X[0], torch.randint(9, (2, 30)))),
    "edges and loops": (with_loops, (X[0], torch.randint(9, (2, 30)))),
    "distinct ones": (lambda net, x, ids: net.last(F.relu(net.first(x))[ids.unique()]), (X[0], torch.randint(9, (7,)))),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", ["r2r", "net2net"])
@pytest.mark.parametrize("case", CASES)
def test_as_many_as_the_data_say(case, method):
    torch.manual_seed(0)
    function, inputs = CASES[case]
    model = Net(function).double()
    assert not fxgrow.capture(model, inputs).meta["leaves"]
    grown = fxgrow.transform(model, inputs, Widen("first", factor=2, method=method, seed=0)).model
    assert grown.first.weight.shape[0] >= 21 or case == "experts"  # of those, three are told apart
    found = fxgrow.verify(model, grown, inputs)
    assert found.exact_in == ("eval", "train") and any("axis 0" in what for what in found.compared)


class Sometimes(nn.Module):
    """Does another thing where there are none."""

    def __init__(self, otherwise):
        super().__init__()
        self.up, self.down, self.otherwise = nn.Linear(6, 12), nn.Linear(12, 6), otherwise

    def forward(self, x, mask):
        row, place = torch.where(mask)
        if row.numel() == 0:
            return self.down(self.otherwise(self.up(x), x))
        return self.down(torch.tanh(self.up(x)))


def test_what_depends_on_the_number_is_kept_whole():
    model = nn.ModuleDict({"a": Sometimes(lambda h, x: h)}).double()
    model.forward = lambda x, mask: model["a"](x, mask)
    leaves = fxgrow.capture(model, (X, M)).meta["leaves"]
    assert list(leaves) == ["a"] and "depends on how many positions where gives, and so on data, at" in leaves["a"]
    with pytest.raises(CaptureError, match="depends on how many positions where gives"):
        fxgrow.capture(model["a"], (X, M))


@pytest.mark.parametrize("otherwise, grows", [(lambda h, x: h, True), (lambda h, x: x.new_zeros(*h.shape[:-1], 12), False)])
def test_the_way_without_any_is_followed_in_a_layer_that_is_kept_whole(otherwise, grows):
    """A width in the code of the way that the example does not take keeps its class as it is."""
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Sometimes(otherwise)

        def forward(self, x, mask):
            return self.a(x, mask)

    model = Outer().double()
    if not grows:
        with pytest.raises(SelectionError, match="nothing in the model can grow"):
            fxgrow.transform(model, (X, M), Widen(factor=2, seed=0))
        return
    grown = fxgrow.transform(model, (X, M), Widen(factor=2, seed=0)).model
    assert grown.a.up.weight.shape[0] == 24
    for mask in (M, torch.zeros_like(M)):
        torch.testing.assert_close(grown(X, mask), model(X, mask), rtol=1e-9, atol=1e-12)


class OneByOne(nn.Module):
    """Asks for the value of each position that it has found, which nobody knows without data."""

    def __init__(self, training_only):
        super().__init__()
        self.weight, self.training_only = nn.Parameter(torch.randn(3, 12, 12)), training_only

    def forward(self, x):
        out = torch.zeros_like(x)
        if self.training_only and not self.training:
            return out + x
        for row in (x.sum(1) > 0).nonzero():
            if row[0] < 2:
                out = out + F.linear(x, self.weight[row[0]])
        return out + x


@pytest.mark.parametrize("training_only", [False, True])
def test_where_positions_cannot_be_followed_one_by_one_nothing_grows_by_the_way_without_any(training_only):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 12), OneByOne(training_only), nn.Linear(12, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0)).model
    assert grown.get_parameter("0.weight").shape == (12, 4) and grown.get_parameter("3.weight").shape == (3, 12, 12)
    assert fxgrow.verify(model, grown, x).exact_in == ("eval", "train")


def test_the_count_of_flops_says_what_it_assumes():
    model = Net(CASES["chosen rows"][0]).double()
    count = fxgrow.count_flops(model, (X.to("meta"), M.to("meta")))
    assert [op for op in count.uncounted if "half are assumed" in op] == ["index (data say how many; half are assumed)"]
    assert count.modules["last"].forward == 2 * 12 * 5 * (M.numel() // 2 + 1)
    told = fxgrow.count_flops(model, (X, M))  # data at hand say how many
    assert told.modules["last"].forward == 2 * 12 * 5 * M.sum() and told.eager and "index" not in " ".join(told.uncounted)


class Diagonal(nn.Module):
    """Takes a mask to have as many positions as there are rows (ClusterGCN's own loops, where it adds `loops`)."""

    def __init__(self, loops):
        super().__init__()
        self.first, self.last, self.loops = nn.Linear(6, 12), nn.Linear(12, 4), loops

    def forward(self, x, edges):
        if self.loops:
            edges = edges[:, edges[0] != edges[1]]
            edges = torch.cat([edges, torch.arange(x.shape[0], device=x.device).expand(2, -1)], 1)
        weights = torch.ones(edges.shape[1]).to(x)
        weights[edges[0] == edges[1]] += torch.arange(x.shape[0]).to(x)
        h = torch.tanh(self.first(x))
        return self.last(torch.zeros_like(h).index_add(0, edges[1], weights[:, None] * h[edges[0]]))


def test_a_mask_that_has_as_many_positions_as_there_are_rows_is_found_to():
    torch.manual_seed(0)
    model, x, edges = Diagonal(loops=True).double(), torch.randn(8, 6).double(), torch.randint(8, (2, 20))
    assert not fxgrow.capture(model, (x, edges)).meta["leaves"]
    grown = fxgrow.transform(model, (x, edges), Widen(factor=2, seed=0)).model
    assert grown.first.weight.shape == (24, 6)
    assert fxgrow.verify(model, grown, (x, edges)).exact_in == ("eval", "train")
    for rows, others in ((11, 7), (5, 0)):  # with a loop of its own, and without an edge
        x, edges = torch.randn(rows, 6).double(), torch.randint(rows, (2, others))
        edges[1, :1] = edges[0, :1]
        torch.testing.assert_close(grown(x, edges), model(x, edges), rtol=1e-9, atol=1e-12)


def test_a_mask_of_numbers_that_nobody_knows_is_told():
    class Whole(Diagonal):
        def forward(self, x, edges):
            chosen = x[:, 0] > -100
            x[chosen] += torch.ones(x.shape[0], 1).to(x)
            return self.first(x)

    model = nn.ModuleDict({"a": Whole(loops=False)})
    model.forward = lambda x, edges: model["a"](x, edges)
    with pytest.raises(CaptureError, match="depends on data, and is made up here"):
        fxgrow.capture(model, (torch.randn(8, 6), torch.randint(8, (2, 20))))


def test_other_data_are_refused_where_the_graph_takes_them_to_say_a_size():
    """Each row has a place of its own in the example, and beside it; in other data it may have none."""
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x, places):
            h = torch.tanh(self.first(x))
            chosen = h[(places >= 0).cumsum(0) > 0]
            return self.last(h + chosen)

    torch.manual_seed(0)
    model, x, places = Dense().double(), torch.randn(8, 6).double(), torch.randint(8, (8,))
    grown = fxgrow.transform(model, (x, places), Widen(factor=2, seed=0)).model
    torch.testing.assert_close(grown(x[:5], places[:5]), model(x[:5], places[:5]), rtol=1e-9, atol=1e-12)
    with pytest.raises(OtherInputs, match=r"data gave as many positions at .*test_counts.py:\d+ as .*shape\[0\], and here"):
        grown(x, torch.arange(8) - 1)


class Routed(nn.Module):
    """Gives each row to one of three experts, and passes over those that get none."""

    def __init__(self, how):
        super().__init__()
        self.gate, self.how = nn.Linear(8, 3), how
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x):
        best, out = self.gate(x).argmax(-1), torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            mask = best == k
            if self.how(mask):
                out[mask] = expert(x[mask])
        return out


@pytest.mark.parametrize("how", [lambda m: m.any(), lambda m: m.sum() > 0, lambda m: m.sum().item(),
                                 lambda m: len(m.nonzero()), lambda m: not (m.count_nonzero() == 0)])
def test_experts_that_get_no_row_are_passed_over(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Routed(how), nn.Linear(8, 4)).double()
    x = torch.randn(10, 6).double()
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0)).model
    assert grown.get_submodule("1").experts[0][0].weight.shape == (32, 16)
    for rows in (x, x[:1], torch.randn(3, 6).double()):
        torch.testing.assert_close(grown(rows), model(rows), rtol=1e-9, atol=1e-12)


class Guarded(nn.Module):
    refused = staticmethod(lambda x: x.isnan().any())

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        x = torch.tanh(self.up(x))
        if self.refused(x):
            raise FloatingPointError("no numbers")
        return self.down(x)


@pytest.mark.parametrize("refused", [Guarded.refused, lambda x: not x.isfinite().all()])
def test_a_layer_that_refuses_nan_grows_inside_and_goes_on_refusing(refused, monkeypatch):
    monkeypatch.setattr(Guarded, "refused", staticmethod(refused))
    model, x = nn.Sequential(Guarded(), nn.Linear(6, 2)).double(), torch.randn(3, 6).double()
    grown = fxgrow.transform(model, x, Widen("0.up", factor=2, seed=0)).model
    assert list(grown.meta["leaves"]) == ["0"] and fxgrow.verify(model, grown, x).exact_in == ("eval", "train")
    with pytest.raises(FloatingPointError):
        grown(x * float("nan"))


def test_how_many_along_one_dimension():
    model, x = Net(lambda net, x: net.last(net.first(x)) * (x > 0).count_nonzero(1)[:, None]).double(), X[0]
    grown = fxgrow.transform(model, x, Widen("first", factor=2, seed=0)).model
    assert grown.first.weight.shape == (24, 6) and fxgrow.verify(model, grown, x).exact_in == ("eval", "train")
    with pytest.raises(CaptureError, match="depends on the data"):
        fxgrow.capture(Net(lambda net, x: net.first(x).unique_consecutive(dim=0)), X[0])
