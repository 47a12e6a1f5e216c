"""Rules of sums of products: networks around every kind of contraction, grown by each method and compared in both modes."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from support import grow, size
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]


class Net(nn.Module):
    """first -> function(x, *parameters) -> last; parameters are free tensors of the given shapes."""

    def __init__(self, first: nn.Module, last: nn.Module, function, *shapes: tuple[int, ...]):
        super().__init__()
        self.first, self.last, self.function = first, last, function
        self.free = nn.ParameterList(torch.randn(s) for s in shapes)

    def forward(self, x):
        return self.last(self.function(self.first(x), *self.free))


def chain(*layers) -> nn.Module:
    """Layers with an activation between, so that no two fold into one."""
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.SiLU())))


DRAWN = torch.Generator().manual_seed(0)


def of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAWN)


# --- layers: (network, input, the layers whose output must grow) -----------------------------------------------------

LAYERS = {
    "linear": (lambda: chain(nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)), of(2, 3), "0 2"),
    "linear on sequences": (lambda: chain(nn.Linear(3, 4), nn.Linear(4, 2)), of(2, 5, 3), "0"),
    "linear on one vector": (lambda: chain(nn.Linear(3, 4), nn.Linear(4, 2)), of(3), "0"),
    "conv1d": (lambda: chain(nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 2, 3, stride=2)), of(2, 3, 7), "0"),
    "conv2d": (lambda: chain(nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.Conv2d(4, 2, (1, 3))), of(2, 3, 5, 5), "0"),
    "conv2d, other paddings": (lambda: chain(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
                                             nn.Conv2d(4, 2, 3, padding="same")), of(2, 3, 5, 5), "0"),
    "conv3d": (lambda: chain(nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 1)), of(2, 2, 3, 3, 3), "0"),
    "one image without a batch": (lambda: chain(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), of(3, 5, 5), "0"),
    "transposed 1d": (lambda: chain(nn.ConvTranspose1d(3, 4, 2, stride=2), nn.ConvTranspose1d(4, 2, 3)), of(2, 3, 4), "0"),
    "transposed 2d": (lambda: chain(nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), nn.ConvTranspose2d(4, 2, 2)),
                      of(2, 3, 3, 3), "0"),
    "transposed 3d": (lambda: chain(nn.ConvTranspose3d(2, 4, 2), nn.Conv3d(4, 2, 1)), of(2, 2, 2, 2, 2), "0"),
    "grouped": (lambda: chain(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4, padding=1), nn.Conv2d(12, 2, 1)),
                of(2, 3, 4, 4), "0 2"),
    "grouped by three, then by two": (lambda: chain(nn.Conv1d(3, 6, 1), nn.Conv1d(6, 6, 1, groups=3),
                                                    nn.Conv1d(6, 6, 1, groups=2), nn.Conv1d(6, 2, 1)), of(2, 3, 4), "0 2 4"),
    "depthwise": (lambda: chain(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.Conv2d(6, 2, 1)),
                  of(2, 3, 4, 4), "0 2"),
    "depthwise with a multiplier": (lambda: chain(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)),
                                    of(2, 3, 4, 4), "0 2"),
    "depthwise on the input": (lambda: chain(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1)), of(2, 3, 4, 4), "0"),
    "grouped transposed": (lambda: chain(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 4, 2, groups=2), nn.Conv2d(4, 2, 1)),
                           of(2, 3, 3, 3), "0 2"),
    "depthwise transposed": (lambda: chain(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2, groups=4), nn.Conv2d(4, 2, 1)),
                             of(2, 3, 3, 3), "0 2"),
    "embedding": (lambda: chain(nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 2)), torch.tensor([[1, 0], [2, 6]]), "0"),
    **{f"bags of embeddings, {mode}": (lambda mode=mode: chain(nn.EmbeddingBag(7, 4, mode=mode), nn.Linear(4, 2)),
                                       torch.tensor([[1, 0], [2, 6]]), "0") for mode in ("sum", "mean", "max")},
}


def producers(grown: fxgrow.Grown) -> set[str]:
    return {p for o in grown.outcomes if o.method for p in o.producers}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", LAYERS)
def test_layers(case, method):
    """Each layer's inner axes grow twofold by the method asked for, and the network computes the same."""
    torch.manual_seed(0)
    build, x, growing = LAYERS[case]
    model = build()
    grown = grow(model, x, Widen(factor=2, method=method, seed=0))
    assert producers(grown) == set(growing.split()) and size(grown.model) > size(model)
    allowed = {method, "netmorph"} if case == "grouped by three, then by two" else {method}  # odd: pairs do not fit a copy
    assert method in {o.method for o in grown.outcomes if o.method} <= allowed


# --- functions: (function of x and free parameters, width of x, their shapes, width of the result, classes that grow) ----

FUNCTIONS = {
    "x @ W": (lambda x, w: x @ w, 6, [(6, 4)], 4, [4, 6]),
    "W @ x": (lambda x, w: (w @ x.transpose(1, 2)).transpose(1, 2), 6, [(4, 6)], 4, [4, 6]),
    "matmul in a batch": (lambda x, w: torch.matmul(x, w), 6, [(2, 6, 4)], 4, [4, 6]),
    "a low-rank weight": (lambda x, u, v: x @ (u @ v), 6, [(6, 3), (3, 4)], 4, [3, 4, 6]),
    "a transposed weight": (lambda x, w: x @ w.t(), 6, [(4, 6)], 4, [4, 6]),
    "a scaled weight": (lambda x, w, s: F.linear(x, w * s[:, None]), 6, [(4, 6), (4,)], 4, [4, 6]),
    "F.linear": (F.linear, 6, [(4, 6), (4,)], 4, [4, 6]),
    "addmm": (lambda x, b, w: torch.addmm(b, x.flatten(0, 1), w, beta=0.5, alpha=2).view(2, 5, -1),
              6, [(4,), (6, 4)], 4, [4, 6]),
    "addmm without its bias": (lambda x, b, w: torch.addmm(b, x.flatten(0, 1), w, beta=0).view(2, 5, -1),
                               6, [(4,), (6, 4)], 4,
                               [4, 4, 6]),
    "baddbmm": (lambda x, b, w: torch.baddbmm(b, x, w), 6, [(2, 5, 4), (2, 6, 4)], 4, [4, 6]),
    "bmm": (torch.bmm, 6, [(2, 6, 4)], 4, [4, 6]),
    "einsum": (lambda x, w: torch.einsum("bni,oi->bno", x, w), 6, [(4, 6)], 4, [4, 6]),
    "einsum of three": (lambda x, w, s: torch.einsum("bni,oi,o->bno", x, w, s), 6, [(4, 6), (4,)], 4, [4, 6]),
    "einsum that transposes": (lambda x, w: torch.einsum("bni,io->bon", x, w).transpose(1, 2), 6, [(6, 4)], 4, [4, 6]),
    "einsum by heads": (lambda x, w: torch.einsum("bnhd,hde->bnhe", x.unflatten(2, (2, 3)), w).flatten(2), 6, [(2, 3, 4)], 8,
                        None),
    "tensordot": (lambda x, w: torch.tensordot(x, w, dims=1), 6, [(6, 4)], 4, [4, 6]),
    "inner": (torch.inner, 6, [(4, 6)], 4, [4, 6]),
    "a vector": (lambda x, w: x * (x.flatten(0, 1) @ w).view(2, 5, 1), 6, [(6,)], 6, [6]),
    "a triangular weight": (lambda x, w: F.linear(x, w.tril()), 6, [(4, 6)], 4, []),
    "a standardised weight": (lambda x, w: F.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)),
                              6, [(4, 6)], 4,
                              [4, 6]),
    "F.conv1d": (lambda x, w, b: F.conv1d(x.mT, w, b, padding=1).mT, 6, [(4, 6, 3), (4,)], 4, [4, 6]),
    "F.conv1d with groups": (lambda x, w: F.conv1d(x.mT, w, None, 1, 0, 1, 2).mT, 6, [(4, 3, 1)], 4, [2]),
    "F.conv1d, depthwise": (lambda x, w: F.conv1d(x.mT, w, groups=w.shape[0]).mT, 6, [(6, 1, 3)], 6, [6]),
    "F.conv_transpose1d": (lambda x, w: F.conv_transpose1d(x.mT, w, groups=2).mT, 6, [(6, 2, 1)], 4, [2]),
    "a Gram matrix": (lambda x: x @ x.mT, 6, [], 5, []),
    "F.bilinear of one": (lambda x, w: F.bilinear(x, x, w), 6, [(4, 6, 6)], 4, [4, 6]),
    "F.bilinear": (lambda x, v, w, b: F.bilinear(x, F.linear(x, v), w, b), 6, [(5, 6), (4, 6, 5), (4,)], 4, [4, 5, 6]),
    "a dot product": (lambda x, v, w: x * torch.dot(v, w), 6, [(3,), (3,)], 6, [3, 6]),
}


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_with_free_parameters(case, method):
    """No rule rests on module classes: the same holds for weights held by the model itself."""
    torch.manual_seed(0)
    function, width, shapes, last, growing = FUNCTIONS[case]
    model = Net(nn.Linear(3, width), nn.Linear(last, 2), function, *shapes)
    if growing == []:
        with pytest.raises(SelectionError, match="nothing in the model can grow"):
            grow(model, of(2, 5, 3), Widen(factor=2, method=method, seed=0))
        return
    grown = grow(model, of(2, 5, 3), Widen(factor=2, method=method, seed=0))
    assert growing is None or sorted(o.before for o in grown.outcomes if o.method) == growing, grown.explain()


@pytest.mark.parametrize("method", ["r2r", "net2net"])
@pytest.mark.parametrize("function", [lambda x, w: x * torch.dot(w.flatten(), w.flatten()), lambda x, w: x @ (w.t() @ w)])
def test_a_parameter_times_itself(function, method):
    """Columns that are their own complement do not exist: that class is left alone, and the others grow."""
    torch.manual_seed(0)
    model = Net(nn.Linear(3, 6), nn.Linear(6, 2), function, (4, 6))
    grow(model, of(2, 5, 3), Widen(factor=2, method=method, seed=0))


# --- products of values ----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """`mix(q(x), k(x), v(x))` of three projections of one width, and a projection back."""

    def __init__(self, mix, width: int = 4):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, width) for _ in range(3))
        self.out, self.mix = nn.Linear(width, 2), mix

    def forward(self, x):
        return self.out(self.mix(self.q(x), self.k(x), self.v(x)))


def _heads(q, k, v):
    q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


PRODUCTS = {
    "attention": lambda q, k, v: (q @ k.mT / 2).softmax(-1) @ v,
    "attention by bmm": lambda q, k, v: torch.bmm(torch.bmm(q, k.mT).softmax(-1), v),
    "attention by einsum": lambda q, k, v: torch.einsum("bnm,bmd->bnd", torch.einsum("bnd,bmd->bnm", q, k).softmax(-1), v),
    "an odd function before the product": lambda q, k, v: (q.tanh() @ k.sin().mT).softmax(-1) @ v,
    "scaled_dot_product_attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "causal attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "heads": _heads,
    "linear attention": lambda q, k, v: q @ (k.mT @ v),
    "linear attention with positive keys": lambda q, k, v: (F.elu(q) + 1) @ ((F.elu(k) + 1).mT @ v),
    "gates": lambda q, k, v: q * k.sigmoid() + v,
    "values of one product in another": lambda q, k, v: (q @ k.mT) @ v,
    "rectified queries": lambda q, k, v: (q.relu() @ k.mT).softmax(-1) @ v,
    "squared distances": lambda q, k, v: -(q[:, :, None] - k[:, None]).square().sum(-1) @ v,
}


ONLY_VALUES = ("linear attention with positive keys",)  # no sign survives elu + 1


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", PRODUCTS)
def test_products_of_values(case, method):
    """Queries, keys and values: one side of each product carries the complement, and the values always grow."""
    torch.manual_seed(0)
    grown = grow(Attention(PRODUCTS[case]), of(2, 5, 3), Widen(factor=2, method=method, seed=0))
    assert producers(grown) == ({"v"} if case in ONLY_VALUES else {"q", "k", "v"}), grown.explain()


# --- random networks -------------------------------------------------------------------------------------------------


class Mix(nn.Module):
    """Random convolutions on a stream of `width` channels: in sequence, added, concatenated or multiplied to it."""

    def __init__(self, width: int, plan: list[tuple[str, str]]):
        super().__init__()
        self.stem, self.plan, total = nn.Conv2d(2, width, 1), plan, width
        self.layers = nn.ModuleList()
        for kind, join in plan:
            out = total if join in ("add", "mul") or kind == "depthwise" else width
            groups = {"grouped": 2, "depthwise": total}.get(kind, 1)
            if kind == "transposed":
                self.layers.append(nn.ConvTranspose2d(total, out, 3, padding=1, groups=groups))
            else:
                kernel = 1 if kind == "point" else 3
                self.layers.append(nn.Conv2d(total, out, kernel, padding=kernel // 2, groups=groups))
            total = total + out if join == "cat" else out
        self.head = nn.Linear(total, 2)

    def forward(self, x):
        x = self.stem(x)
        for layer, (_, join) in zip(self.layers, self.plan):
            y = F.relu(layer(x))
            x = torch.cat([x, y], 1) if join == "cat" else x + y if join == "add" else x * y if join == "mul" else y
        return self.head(x.mean((2, 3)))

    def __repr__(self):
        return f"Mix({self.stem.out_channels}, {self.plan})"


KINDS, JOINS = ["plain", "point", "grouped", "depthwise", "transposed"], ["then", "add", "cat", "mul"]


@proves(60)
@given(st.sampled_from([2, 4, 6]), st.lists(st.tuples(*map(st.sampled_from, (KINDS, JOINS))), min_size=1, max_size=4),
       st.sampled_from(METHODS), st.sampled_from([{"factor": 2}, {"factor": 1.5}, {"by": 3}]), st.integers(0, 99))
def test_random_convolutional_networks(width, plan, method, how, seed):
    """Any wiring of plain, grouped, depthwise and transposed convolutions grows exactly, in both modes."""
    torch.manual_seed(seed)
    model = Mix(width, plan)
    try:
        grown = grow(model, torch.randn(2, 2, 3, 3), Widen(method=method, seed=seed, **how))
        assert size(grown.model) > size(model)
    except SelectionError as why:  # groups that end inside a concatenated part tell its positions apart
        kinds, joins = zip(*plan)
        assert "told apart" in str(why) and "grouped" in kinds and "cat" in joins


def test_an_embedding_tied_to_the_output_layer_grows_in_its_width():
    """One table looked up and multiplied by: new columns must be the complement of themselves, or zero."""
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 4)

        def forward(self, x):
            return F.linear(self.down(F.gelu(self.up(self.table(x)))), self.table.weight)

    torch.manual_seed(0)
    for method in METHODS:
        grown = grow(Tied(), torch.tensor([[1, 0, 6]]), Widen(factor=2, method=method, seed=0))
        assert 5 in [o.before for o in grown.outcomes if o.method]


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped_mm")
def test_rows_that_meet_one_of_several_matrices():
    """A sparse mixture of experts: which of the matrices a row meets, data say; widths grow."""
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
            self.up, self.down = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(3, 16, 8))

        def forward(self, x):
            x = self.inner(x)
            expert, order = x[:, 7].mul(3).long().clamp(0, 2).sort()
            ends = torch.histc(expert.float(), 3, 0, 2).cumsum(0).to(torch.int32)
            h = F.grouped_mm(F.silu(F.grouped_mm(x[order], self.up, offs=ends)), self.down, offs=ends)
            return self.last(x + torch.empty_like(x).index_copy(0, order, h))

    model, x = Experts(), torch.randn(12, 4)
    for method in METHODS:
        grown = fxgrow.transform(model, x, Widen(factor=2, method=method, seed=0)).model
        assert grown.up.shape == (3, 8, 32) and grown.down.shape == (3, 32, 8)
        assert fxgrow.verify(model, grown, x).exact_in == ("eval", "train")
    with pytest.raises(SelectionError, match="multiple of 16 bytes"):  # else the grown network would not run
        fxgrow.transform(model, x, Widen(by=2, seed=0))

