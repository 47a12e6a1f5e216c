"""Rules of ops that move positions, against the real ops on grown tensors.

`survivors` is the oracle: grow every free class by any number of positions with arbitrary contents, rewrite the graph, run
both, and read each value of the new graph at the places where the axis expressions say that the old positions are. What
is read must be the old value, at every node that no sum over grown positions precedes. Growth that claims to be exact is
checked at the output as well, by all three methods.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import event, given
from hypothesis import strategies as st
from proving import proves
from torch import Tensor, nn

import fxgrow
from fxgrow.axis import Atom, Fixed, Map, Prod, Tape, Value, analyse, resolve
from fxgrow.common import Refusal
from fxgrow.contents import ByPart, certify
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen
from fxgrow.rewrite import Growth, rewrite

# --- the oracle ------------------------------------------------------------------------------------------------------


def labels(e, sizes: dict[Atom, int]) -> Tensor:
    """For each position of a grown axis the old position it is, or -1."""
    e = resolve(e)
    if isinstance(e, Fixed):
        return torch.arange(e.size)
    if isinstance(e, Atom):
        return torch.cat([torch.arange(e.size), torch.full((sizes.get(e, e.size) - e.size,), -1)])
    found = labels(e.parts[0], sizes)
    for p, start in zip(e.parts[1:], (sum(q.size for q in e.parts[:i + 1]) for i in range(len(e.parts)))):
        more = labels(p, sizes)
        if isinstance(e, Prod):
            pair = found[:, None] * p.size + more
            found = torch.where((found[:, None] < 0) | (more < 0), -1, pair).flatten()
        else:
            found = torch.cat([found, torch.where(more < 0, -1, more + start)])
    return found


def extract(value: Tensor, axes, sizes: dict[Atom, int]) -> Tensor:
    """The old positions of a grown value, in their old order."""
    for dim, e in enumerate(axes):
        where = labels(e, sizes)
        assert value.shape[dim] == len(where), f"axis {dim} ({resolve(e)}): {value.shape[dim]} != {len(where)}"
        old = (where >= 0).nonzero().flatten()
        assert torch.equal(where[old].sort().values, torch.arange(resolve(e).size))
        value = value.index_select(dim, old[where[old].argsort()])
    return value


class Record(torch.fx.Interpreter):
    """Runs a graph and keeps what every node gave."""

    def __init__(self, gm):
        super().__init__(gm, garbage_collect_values=False)
        self.found: dict[str, object] = {}

    def run_node(self, n):
        self.found[n.name] = super().run_node(n)
        return self.found[n.name]


def mixed(gm, tape: Tape, grown: set[Atom]) -> set[str]:
    """Nodes at or behind a sum over grown positions, whose old numbers the new contents may change."""
    found: set[str] = set()
    for node in gm.graph.nodes:
        sums = any(not isinstance(op, Map) and op.reduced_atoms() & grown for op in tape.by_node.get(node.name, ()))
        if sums or any(n.name in found for n in node.all_input_nodes):
            found.add(node.name)
    return found


def _pairs(value, got, axes):
    if isinstance(value, Tensor):
        yield value, got, axes
    elif isinstance(value, (tuple, list)) and isinstance(axes, list):
        for v, g, a in zip(value, got, axes):
            yield from _pairs(v, g, a)


def survivors(model: nn.Module, x: Tensor, seed: int = 0, most: float = 1.0) -> list[int]:
    """Grows free classes (each with probability `most`) by arbitrary positions and finds the old numbers where the axes
    say that they are. Returns the sizes of the classes that were grown.
    """
    gm = fxgrow.capture(model.double().eval(), x.double())
    tape, rng = analyse(gm), random.Random(seed)
    growths = []
    for atom in tape.params_of:
        if atom.reason is None and rng.random() < most:
            try:
                certificate = certify(tape, atom, "free", exact=False)
            except Refusal:  # on two axes of one value: no method grows it
                continue
            growths.append(Growth(atom, atom.size + rng.randint(1, atom.size + 1), certificate, _anything))
    sizes, new = {g.atom: g.size for g in growths}, None
    while sizes and new is None:
        try:
            new = rewrite(gm, tape, [g for g in growths if g.atom in sizes])
        except Refusal as why:
            sizes.pop(max((a for a in why.classes if a in sizes), key=lambda a: a.serial))
    if new is None:
        return []
    before, after = Record(gm), Record(new)
    with torch.no_grad():
        before.run(x.double())
        after.run(x.double())
    unsure = mixed(gm, tape, set(sizes))
    for node in gm.graph.nodes:
        if node.name not in unsure and node.name in after.found:
            for value, got, axes in _pairs(before.found[node.name], after.found[node.name], tape.node_values[node.name]):
                axes = axes.axes if isinstance(axes, Value) else [Fixed(s) for s in value.shape]
                read = extract(got, axes, sizes)
                assert torch.allclose(read, value, rtol=1e-12, atol=1e-12), f"{node.format_node()}: {axes} {sizes}"
    return sorted(a.size for a in sizes)


def _anything(content, x: Tensor, axis: int, growth: Growth, key) -> tuple[Tensor, Tensor]:
    """New positions hold arbitrary numbers."""
    assert not isinstance(content, ByPart)
    shape = (*x.shape[:axis], growth.size - growth.atom.size, *x.shape[axis + 1:])
    return x, torch.rand(shape, dtype=x.dtype) + 0.5


def exact(model: nn.Module, x: Tensor, method: str = "r2r", **how) -> fxgrow.Grown | None:
    """Grown twofold with new numbers that are the same function, or None where nothing can grow."""
    model = model.double()
    try:
        grown = fxgrow.transform(model, x.double(), [Widen(method=method, seed=0, **(how or {"factor": 2}))])
    except SelectionError:
        return None
    found = fxgrow.verify(model, grown.model, x.double())
    assert found.exact_in == ("eval", "train"), f"{method}: {found} {found.notes}\n{grown.explain()}"
    return grown


# --- random chains of ops --------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One op: `apply` on a tensor, and how it prints."""
    name: str
    args: tuple = ()

    def __call__(self, x, *args):
        return OPS[self.name][1](x, *(args or self.args))

    def __repr__(self):
        return f"{self.name}{self.args}"


class Chain(nn.Module):
    """producer -> steps -> flatten -> linear."""

    def __init__(self, producer: nn.Module, steps: list[Step]):
        super().__init__()
        self.producer, self.steps = producer, steps
        for k, step in enumerate(steps):
            for arg in step.args:
                if isinstance(arg, Tensor):
                    self.register_buffer(f"index{k}", arg)
        self.consumer = nn.Linear(self.body(producer(self.input())).numel() // 2, 3)

    def __repr__(self):
        return f"Chain({self.producer}, {self.steps})"

    def input(self):
        return torch.randn(2, 3) if isinstance(self.producer, nn.Linear) else torch.randn(2, 3, 2, 2)

    def body(self, x):
        for k, step in enumerate(self.steps):
            x = step(x, *(getattr(self, f"index{k}") if isinstance(a, Tensor) else a for a in step.args))
        return x

    def forward(self, x):
        return self.consumer(self.body(self.producer(x)).flatten(1))


def _replace(shape, dim, *sizes):
    return (*shape[:dim], *sizes, *shape[dim + 1:])


def _to_sizes(x, dim, sizes, hole):
    """A view with literal sizes; the one at `hole` is left to be found."""
    sizes = [-1 if i == hole else s for i, s in enumerate(sizes)]
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1:])


def _shuffle(x, dim, groups):
    """Channel shuffle as ShuffleNet writes it."""
    width = x.shape[dim] // groups
    return x.reshape(*x.shape[:dim], groups, width, *x.shape[dim + 1:]).transpose(dim, dim + 1).flatten(dim, dim + 1)


def _combined(parts, how):
    """Pieces of one tensor put together again: in another order, added, multiplied, stacked."""
    dim, form = how
    if form == "cat":
        return torch.cat([*parts[1:], parts[0]], dim)
    if form == "stack":
        return torch.stack([*parts], dim)
    if form == "one":
        return parts[-1]
    total = parts[0]
    for p in parts[1:]:
        total = total + p if form == "add" else total * p
    return total


def _indexed(x, dim, index):
    return x[(slice(None),) * dim + (index,)]


# How to draw the arguments of each op for a shape (None: not for this shape), and the op. Dimension 0 is the batch.
def _dim(d, shape, low=1, when=lambda s: True):
    return d.choice([i for i in range(low, len(shape)) if when(shape[i])] or [None])


def _draw_reshape(d, shape):
    size, out = prod(shape[1:]), []
    while size > 1 and len(out) < 3:
        out.append(d.choice([k for k in range(1, size + 1) if size % k == 0]))
        size //= out[-1]
    return ((shape[0], *out, size),)


def _draw_split_view(d, shape):
    dim = _dim(d, shape, when=lambda s: s > 3)
    if dim is None or len(shape) > 5:
        return None
    a = d.choice([k for k in range(1, shape[dim] + 1) if shape[dim] % k == 0])
    return dim, (a, shape[dim] // a), d.choice([None, 0, 1])


def _draw_groups(d, shape):
    dim = _dim(d, shape, when=lambda s: s > 3 and s % 2 == 0)
    return None if dim is None else (dim, d.choice([k for k in range(2, shape[dim]) if shape[dim] % k == 0]))


def _draw_sizes(d, shape):
    dim = _dim(d, shape, when=lambda s: s > 1)
    if dim is None:
        return None
    at = sorted({0, shape[dim], d.randint(1, shape[dim] - 1), d.randint(1, shape[dim] - 1)})
    return dim, tuple(b - a for a, b in zip(at, at[1:])), d.choice(["cat", "one"])


def _draw_chunks(d, shape):
    dim, n = _dim(d, shape, when=lambda s: s > 1), d.choice([2, 3, 4])
    if dim is None or shape[dim] < n or len(shape) > 5:
        return None
    even = shape[dim] % n == 0
    return dim, n, d.choice(["add", "mul", "stack", "cat", "one"] if even else ["cat", "one"])


def _draw_slice(d, shape):
    dim = _dim(d, shape, when=lambda s: s > 2)
    if dim is None:
        return None
    a, b = sorted(d.sample(range(shape[dim] + 1), 2))
    return dim, d.choice([slice(0, b), slice(a, None) if a else slice(None, b), slice(a, b - shape[dim] or None),
                          slice(None, None, 2)])


def _draw_order(d, shape):
    return (0, *d.sample(range(1, len(shape)), len(shape) - 1)),


def _draw_pair(d, shape):
    return tuple(d.sample(range(1, len(shape)), 2)) if len(shape) > 2 else None


def _draw_dim(d, shape):
    return _dim(d, shape),


def _draw_index(d, shape):
    dim = _dim(d, shape)
    return dim, [d.randrange(shape[dim]) for _ in range(d.randint(1, 4))]


def _draw_look_up(d, shape):
    dim, index = _draw_index(d, shape)
    return dim, torch.tensor(index)


def _draw_mask(d, shape):
    dim = _dim(d, shape)
    return dim, torch.tensor([d.random() < 0.5 for _ in range(shape[dim] - 1)] + [True])


def _draw_pad(d, shape):
    return [d.randint(0, 2) for _ in range(2 * d.randint(1, len(shape) - 1))],


def _draw_gather(d, shape):
    dim = _dim(d, shape)
    return dim, torch.tensor([d.randrange(shape[dim]) for _ in range(prod(shape))]).reshape(shape)


OPS = {
    "reshape": (_draw_reshape, lambda x, sizes: x.reshape(sizes)),
    "view": (_draw_reshape, lambda x, sizes: x.contiguous().view(x.size(0), *sizes[1:-1], -1)),
    "split_view": (_draw_split_view, _to_sizes),
    "unflatten": (_draw_split_view, lambda x, dim, sizes, hole: x.unflatten(dim, sizes)),
    "flatten": (lambda d, s: (_dim(d, s[:-1]),) if len(s) > 2 else None, lambda x, dim: x.flatten(dim, dim + 1)),
    "permute": (_draw_order, lambda x, order: x.permute(*order)),
    "transpose": (_draw_pair, lambda x, i, j: x.transpose(i, j)),
    "swapaxes": (_draw_pair, torch.swapaxes),
    "movedim": (_draw_pair, torch.movedim),
    "mT": (lambda d, s: () if len(s) > 2 else None, lambda x: x.mT),
    "cat": (_draw_dim, lambda x, dim: torch.cat([x, torch.relu(x)], dim)),
    "cat_fixed": (_draw_dim, lambda x, dim: torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x], dim)),
    "stack": (lambda d, s: (d.randint(1, len(s)),) if len(s) < 5 else None, lambda x, dim: torch.stack([x, x.sin()], dim)),
    "split": (_draw_sizes, lambda x, dim, sizes, form: _combined(x.split(list(sizes), dim), (dim, form))),
    "chunk": (_draw_chunks, lambda x, dim, n, form: _combined(x.chunk(n, dim), (dim, form))),
    "tensor_split": (_draw_chunks, lambda x, dim, n, form: _combined(x.tensor_split(n, dim), (dim, form))),
    "unbind": (_draw_dim, lambda x, dim: torch.stack(x.unbind(dim)[::-1], dim)),
    "select": (lambda d, s: (_dim(d, s), d.choice([0, -1])) if len(s) > 2 else None, lambda x, dim, i: x.select(dim, i)),
    "pick": (lambda d, s: (_dim(d, s), d.choice([0, -1])), lambda x, dim, i: x * x.select(dim, i).unsqueeze(dim)),
    "slice": (_draw_slice, _indexed),
    "narrow": (lambda d, s: (_dim(d, s),), lambda x, dim: x.narrow(dim, x.size(dim) // 2, x.size(dim) - x.size(dim) // 2)),
    "narrow_all": (lambda d, s: (1, s[1]), lambda x, dim, size: x.narrow(dim, 0, size)),
    "index": (_draw_index, _indexed),
    "index_select": (_draw_look_up, lambda x, dim, i: x.index_select(dim, i)),
    "gather": (_draw_gather, lambda x, dim, i: x.gather(dim, i)),
    "roll": (_draw_dim, lambda x, dim: x.roll(1, dim)),
    "flip": (_draw_dim, lambda x, dim: x.flip(dim)),
    "rot90": (_draw_pair, lambda x, i, j: x.rot90(1, (i, j))),
    "diagonal": (_draw_pair, lambda x, i, j: x.diagonal(0, i, j)),
    "expand": (lambda d, s: (d.randint(1, len(s)), d.randint(2, 3)) if len(s) < 5 else None,
               lambda x, dim, n: x.unsqueeze(dim).expand(*x.shape[:dim], n, *x.shape[dim:])),
    "expand_as": (_draw_dim, lambda x, dim: x.narrow(dim, 0, 1).expand_as(x)),
    "repeat": (lambda d, s: ((1, *(d.choice([1, 1, 2]) for _ in s[1:])),), lambda x, times: x.repeat(*times)),
    "tile": (lambda d, s: ((d.choice([1, 2]),),), torch.tile),
    "repeat_interleave": (_draw_dim, lambda x, dim: x.repeat_interleave(2, dim)),
    "squeeze": (_draw_dim, lambda x, dim: x.unsqueeze(dim).squeeze(dim)),
    "keep": (lambda d, s: () if 1 in s[1:] and len(s) > 2 else None, lambda x: x.squeeze(list(x.shape).index(1))),
    "pad": (_draw_pad, lambda x, pads: F.pad(x, pads)),
    "shuffle": (_draw_groups, _shuffle),
    "channel_shuffle": (lambda d, s: (2,) if len(s) == 4 and s[1] % 2 == 0 else None, F.channel_shuffle),
    "pixel_shuffle": (lambda d, s: () if len(s) == 4 and s[1] % 4 == 0 else None, lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": (lambda d, s: () if len(s) == 4 and s[2] % 2 == s[3] % 2 == 0 else None,
                        lambda x: F.pixel_unshuffle(x, 2)),
    "unfold": (_draw_dim, lambda x, dim: x.unfold(dim, 1, 1).squeeze(-1)),
    "contiguous": (lambda d, s: (), lambda x: x.contiguous().clone()),
    "ravel": (lambda d, s: (), lambda x: x.flatten(1).view(x.shape)),
}


@st.composite
def chains(draw, most: int = 4):
    """A chain of one to four ops behind a linear layer or a convolution."""
    d = random.Random(draw(st.integers(0, 2 ** 30), label="seed"))
    width = d.choice([4, 6, 8, 12])
    producer = nn.Linear(3, width) if d.random() < 0.4 else nn.Conv2d(3, width, 1)
    shape, steps = (2, width) if isinstance(producer, nn.Linear) else (2, width, 2, 2), []
    for name in draw(st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=most), label="ops"):
        args = OPS[name][0](d, shape)
        if args is None or None in args[:1]:
            continue
        step = Step(name, tuple(args))
        after = tuple(step(torch.zeros(shape)).shape)
        if 0 < prod(after) <= 600 and len(after) <= 6 and len(after) > 1 and after[0] == 2:
            shape, steps = after, [*steps, step]
    torch.manual_seed(0)
    return Chain(producer, steps)


# --- one op at a time: what must not be frozen, and what must -----------------------------------------------------------

FLAT, IMAGE = (2, 12), (2, 12, 2, 2)
LAYOUTS = {
    "reshape": (FLAT, ("reshape", (2, 3, 4)), [3, 4]),
    "view": (IMAGE, ("view", (2, 4, 12)), [4, 3]),
    "view through space": (IMAGE, ("reshape", (2, 48)), [12]),
    "view across channels and space": (IMAGE, ("reshape", (2, 3, 16)), [3, 4]),
    "unflatten": (FLAT, ("unflatten", 1, (2, 6), None), [2, 6]),
    "permute": (IMAGE, ("permute", (0, 2, 3, 1)), [12]),
    "transpose": (IMAGE, ("transpose", 1, 2), [12]),
    "swapaxes": (IMAGE, ("swapaxes", 3, 1), [12]),
    "movedim": (IMAGE, ("movedim", 1, 3), [12]),
    "mT": (IMAGE, ("mT",), [12]),
    "cat": (IMAGE, ("cat", 1), [12]),
    "cat with a constant": (IMAGE, ("cat_fixed", 1), [11]),
    "cat in space": (IMAGE, ("cat", 2), [12]),
    "stack": (IMAGE, ("stack", 1), [12]),
    "split": (FLAT, ("split", 1, (4, 8), "cat"), [4, 8]),
    "split off one": (FLAT, ("split", 1, (1, 11), "cat"), [11]),
    "split evenly": (FLAT, ("split", 1, (4, 4, 4), "cat"), [4]),
    "chunk and add": (FLAT, ("chunk", 1, 2, "add"), [6]),
    "chunk and multiply": (FLAT, ("chunk", 1, 3, "mul"), [4]),
    "tensor_split": (FLAT, ("tensor_split", 1, 5, "cat"), [3, 3, 2, 2]),
    "unbind": (FLAT, ("unbind", 1), []),
    "unbind space": (IMAGE, ("unbind", 2), [12]),
    "select": (IMAGE, ("select", 1, -1), [11]),
    "one position of all": (FLAT, ("pick", 1, 2), [9]),
    "select in space": (IMAGE, ("select", 2, 0), [12]),
    "slice to the end": (FLAT, ("slice", 1, slice(5, None)), [5, 7]),
    "slice from the start": (FLAT, ("slice", 1, slice(None, 5)), [5, 7]),
    "slice to before the end": (FLAT, ("slice", 1, slice(2, -3)), [2, 7, 3]),
    "slice of half": (FLAT, ("slice", 1, slice(6, None)), [6]),
    "slice of all": (FLAT, ("slice", 1, slice(0, 12)), [12]),
    "narrow to all": (FLAT, ("narrow_all", 1, 12), [12]),
    "slice with a step": (FLAT, ("slice", 1, slice(None, None, 2)), [6]),
    "slice with an uneven step": (FLAT, ("slice", 1, slice(None, None, 5)), []),
    "narrow": (FLAT, ("narrow", 1), [6]),
    "index": (FLAT, ("index", 1, [3, 0, 0]), []),
    "index in space": (IMAGE, ("index", 3, [1, 1, 0]), [12]),
    "index_select": (IMAGE, ("index_select", 1, torch.tensor([2, 1])), []),
    "index_select in space": (IMAGE, ("index_select", 2, torch.tensor([1, 1, 0])), [12]),
    "gather": (FLAT, ("gather", 1, torch.tensor([[1, 0], [3, 3]])), []),
    "roll": (IMAGE, ("roll", 1), []),
    "roll in space": (IMAGE, ("roll", 2), [12]),
    "flip": (IMAGE, ("flip", 1), []),
    "flip in space": (IMAGE, ("flip", 3), [12]),
    "rot90": (IMAGE, ("rot90", 2, 3), []),
    "rot90 of channels": (IMAGE, ("rot90", 1, 3), []),
    "expand": (FLAT, ("expand", 1, 3), [12]),
    "repeat": (FLAT, ("repeat", (1, 2)), [12]),
    "repeat in space": (IMAGE, ("repeat", (1, 1, 2, 3)), [12]),
    "tile": (FLAT, ("tile", (2,)), [12]),
    "repeat_interleave": (FLAT, ("repeat_interleave", 1), [12]),
    "squeeze": (IMAGE, ("squeeze", 2), [12]),
    "pad": (FLAT, ("pad", [1, 2]), [12]),
    "pad in space": (IMAGE, ("pad", [1, 0, 1, 2]), [12]),
    "shuffle by views": (IMAGE, ("shuffle", 1, 3), [3, 4]),
    "channel_shuffle": (IMAGE, ("channel_shuffle", 3), [4]),
    "pixel_shuffle": (IMAGE, ("pixel_shuffle",), [3]),
    "pixel_unshuffle": (IMAGE, ("pixel_unshuffle",), [12]),
    "windows": (IMAGE, ("unfold", 2), [12]),
}


def chain(shape, *steps) -> Chain:
    torch.manual_seed(0)
    producer = nn.Linear(3, shape[1]) if len(shape) == 2 else nn.Conv2d(3, shape[1], 1)
    return Chain(producer, [Step(name, args) for name, *args in steps])


@pytest.mark.thinned(2)
@pytest.mark.parametrize("case", LAYOUTS)
def test_each_op_frees_what_it_can_and_no_more(case):
    """The classes that grow under one op, and where they are afterwards."""
    shape, step, free = LAYOUTS[case]
    model = chain(shape, step)
    assert survivors(model, model.input()) == sorted(free)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("case", [c for c in LAYOUTS if LAYOUTS[c][2]])
def test_each_op_grows_exactly(case, method):
    """What is free grows twofold by each method, and the network stays the same function."""
    shape, step, _ = LAYOUTS[case]
    model = chain(shape, step)
    grown = exact(model, model.input(), method)
    assert grown is not None and grown.model.producer.weight.shape[0] > shape[1]


class Apply(nn.Module):
    """linear or convolution -> a function -> flatten -> linear."""

    def __init__(self, shape, function):
        super().__init__()
        torch.manual_seed(0)
        self.producer = nn.Linear(3, shape[1]) if len(shape) == 2 else nn.Conv2d(3, shape[1], 1)
        self.function, self.shape = function, shape
        self.consumer = nn.Linear(function(torch.zeros(shape)).flatten(1).shape[1], 3)

    def input(self):
        return torch.randn(self.shape[0], 3, *self.shape[2:])

    def forward(self, x):
        return self.consumer(self.function(self.producer(x)).flatten(1))


def _zeroed(x, dim=1):
    y = x.clone()
    y.narrow(dim, 0, 2).zero_()
    return y


def _half_relu(x):
    y = x.clone()
    left, right = y.chunk(2, 1)
    left.relu_()
    return y + torch.cat([right, left], 1)


def _set(x):
    y = x.clone()
    y[:, 1] = y[:, 0]
    return y


def _written(x):
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 8:]
    y[:, 4:8] += x[:, :4]
    return y + x


def _shifted(x):
    y = torch.zeros_like(x)
    y[:, :3, 1:] = x[:, :3, :-1]
    y[:, 3:] = x[:, 3:]
    return y


def _filled(x):
    y = x.new_empty(x.shape)
    y[:, :, 0] = x[:, :, 1]
    y[:, :, 1:] = x[:, :, :1].relu()
    return y


def _through_a_reshape(x):
    y = x.clone()
    y.view(2, 3, 4).relu_()
    return y


def _read_after(x):
    y = x.clone()
    z = y.unsqueeze(1)
    y.add_(x).relu_()
    return z * 2


def _rows(x):
    return torch.tensor([1, 1]).view(1, 1, 2, 1).expand_as(x)


def _masked(x, wide, source):
    x = x.permute(0, 2, 3, 1)
    mask = torch.tensor([[True, False], [True, True]])[None, :, :, None].expand(2, 2, 2, 1)
    return x.masked_scatter(mask.expand_as(x) if wide else mask, source(x)).permute(0, 3, 1, 2)


FUNCTIONS = {
    "another view of the same memory": ((2, 4), lambda x: x.as_strided((2, 4), (1, 2)), []),
    "the transposed view of the same memory": ((2, 4), lambda x: x.as_strided((x.size(0), x.size(1)), (1, x.size(0))), []),
    "the same view of the same memory": ((2, 4), lambda x: torch.as_strided(x, (2, 4), (4, 1)), []),  # strides are literal
    "a part of the memory": (FLAT, lambda x: x.as_strided((2, 6), (12, 1), 3), []),
    "two lists of numbers side by side": (IMAGE, lambda x: x[:, :, [0, 1, 1], [1, 0, 0]], [12]),
    "two lists of numbers apart": (IMAGE, lambda x: x[:, [0, 5], :, [1, 0]], []),
    "every second and those between": (FLAT, lambda x: x[:, ::2] * x[:, 1::2].sigmoid(), [6]),
    "written by number": (IMAGE, lambda x: x.index_put((torch.tensor([1]),), x[:1].sin()), [12]),
    "numbers in the batch": (IMAGE, lambda x: x[[1, 0]], [12]),
    "a number and a slice": (IMAGE, lambda x: x[:, 3:, 0], [3, 9]),
    "an ellipsis": (IMAGE, lambda x: x.permute(0, 2, 3, 1)[..., 4:], [4, 8]),
    "a new dimension behind": (FLAT, lambda x: x[:, :8, None], [4, 8]),
    "slices of slices": (FLAT, lambda x: torch.cat([x[:, :6], x[:, 6:][:, 2:], x[:, 3:6]], 1), [2, 3, 3, 4]),
    "overlapping slices": (FLAT, lambda x: torch.cat([x[:, :8], x[:, 4:]], 1), [4, 4]),
    "a half, and halves of the rest": (FLAT, lambda x: torch.cat([x[:, :6], x[..., 6:9] * x[:, 9:]], 1), [3, 6]),
    "zeros written to a part": (FLAT, _zeroed, [2, 10]),
    "a part written in place": (FLAT, _half_relu, [6]),
    "one position written over another": (FLAT, _set, [10]),
    "one position, and the rest": (FLAT, lambda x: x[:, 1:] * x[:, :1] + x[:, 0, None], [11]),
    "one position, and others cut off": (FLAT, lambda x: x[:, 2:] * x[:, 4, None] - x[:, -1, None], [6]),
    "a part in the middle": (FLAT, lambda x: x[:, 3:4], [3, 8]),
    "a narrow part": (FLAT, lambda x: x.narrow(1, 3, 1), [3, 8]),
    "a new dimension before": (FLAT, lambda x: x[:, None, :8], [4, 8]),
    "a number before": (IMAGE, lambda x: x.transpose(1, 3)[:, 0, :, :8], [4, 8]),
    "all forms at once": (IMAGE, lambda x: x[None, ..., 2:9, 0, 1:, None], [2, 3, 7]),
    "a constant made in forward": (FLAT, lambda x: x * torch.arange(12.0), [12]),
    "looked up over another dimension": (IMAGE, lambda x: x.gather(2, x.argsort(2)[:, :, :2]), [12]),
    "numbers of another, expanded": (IMAGE, lambda x: x.gather(
        3, torch.ones(2, 1, 2, 1, dtype=torch.long).expand(2, x.size(1), 2, 1)), [12]),
    "rows added by number": (IMAGE, lambda x: x.index_add(2, torch.tensor([1, 1]), x.sin()), [12]),
    "rows copied by number": (IMAGE, lambda x: x.index_copy(3, torch.tensor([1]), x[..., :1].sin()), [12]),
    "nothing behind the last": (FLAT, lambda x: torch.cat([x[:, :12].sin(), x[:, 12:]], 1), [12]),
    "nothing before the first": (FLAT, lambda x: torch.cat([x[:, :0], x.sin()], 1), [12]),
    "an uneven reshape beside another": (IMAGE, lambda x: x.unflatten(1, (4, 3)).reshape(2, 4, 2, 3, 2).flatten(1), [4]),
    "a relative shift": (IMAGE, lambda x: F.pad(x, (1, 0)).view(*x.shape[:2], 3, 2)[:, :, 1:].reshape(x.shape), [12]),
    "a relative shift behind zeros": (IMAGE, lambda x: torch.cat([x.new_zeros(*x.shape[:3], 1), x], -1)
                                      .view(*x.shape[:2], 3, 2)[:, :, 1:].view_as(x), [12]),
    "rows scattered": (IMAGE, lambda x: x.scatter_add(2, _rows(x), x.sin()), [12]),
    "rows scattered in place": (IMAGE, lambda x: x.new_zeros(x.shape).scatter_add_(2, _rows(x), x.sin()), [12]),
    "means of rows": (IMAGE, lambda x: x.scatter_reduce(2, _rows(x), x.sin(), "mean", include_self=False), [12]),
    "maxima of rows": (IMAGE, lambda x: x.scatter_reduce(2, _rows(x), x.sin(), "amax"), [12]),
    "rows written over": (IMAGE, lambda x: x.scatter(2, _rows(x), x.sin()), [12]),
    "a number written to rows": (IMAGE, lambda x: x.scatter(2, _rows(x), 3.0), [12]),
    "rows scattered by their own numbers": (IMAGE, lambda x: x.scatter_add(2, x.argsort(2), x), [12]),
    "some columns scattered": (IMAGE, lambda x: x.scatter_add(2, _rows(x)[:, :8], x), []),
    "columns scattered": (FLAT, lambda x: x.scatter_add(1, torch.tensor([[1, 0], [2, 2]]), x), []),
    "rows written where a mask says so": (IMAGE, lambda x: _masked(x, True, lambda y: y.flatten(0, 2).sin()), [12]),
    "rows written where a mask of one column says so": (IMAGE, lambda x: _masked(x, False, torch.sin), [12]),
    "numbers written where a mask says so": (IMAGE, lambda x: _masked(x, True, lambda y: y.flatten().sin()), []),
    "written where a mask of its own says so": (IMAGE, lambda x: x.masked_scatter(x > 0, x.sin()), []),
    "maxima of rows by number": (IMAGE, lambda x: x.index_reduce(2, torch.tensor([1, 1]), x.sin(), "amax"), [12]),
    "columns added by number": (FLAT, lambda x: x.index_add(1, torch.tensor([1, 0]), x[:, :2]), []),
    "unflattened by name": (FLAT, lambda x: x.unflatten(dim=1, sizes=(3, -1)).transpose(1, 2).flatten(1), [3, 4]),
    "numbers and pairs": (FLAT, lambda x: torch.view_as_real(torch.view_as_complex(x.view(2, 3, 2, 2))), [2, 3]),
    "written to an empty tensor": (IMAGE, _filled, [12]),
    "a part written by another": (FLAT, _written, [4]),
    "shifted over another dimension": (IMAGE, _shifted, [3, 9]),
    "written through a reshape": (FLAT, _through_a_reshape, []),
    "a view of what is written": (FLAT, _read_after, [12]),
    "unbound heads": (FLAT, lambda x: sum(x.unflatten(1, (3, 4)).unbind(1)), [4]),
    "a diagonal": (IMAGE, lambda x: x.diagonal(0, 1, 2), []),
    "a triangle": (IMAGE, lambda x: x.transpose(1, 3).tril(), []),
    "squeezed space": (IMAGE, lambda x: x[..., :1, :1].squeeze(), [12]),
    "a size read off the tensor": (FLAT, lambda x: x.view(x.size(0), 3, x.size(1) // 3).transpose(1, 2).flatten(1), [3, 4]),
    "a broadcast": (FLAT, lambda x: x.unsqueeze(2).broadcast_to(2, 12, 3) + x[:, :, None], [12]),
    "the like of another": (FLAT, lambda x: x[:, :, None].expand_as(torch.stack([x, x], 2)), [12]),
    "an outer product": (FLAT, lambda x: (x[:, :, None] * x[:, None, :4]).flatten(1), [8]),
    "two sums in one": (FLAT, lambda x: torch.cat([x, x], 1).unflatten(1, (2, 12)).sum(1), [12]),
    "what cannot be tied": (FLAT, lambda x: torch.cat([x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1), x], 1)
                            .unflatten(1, (2, 12)).mul(2), [1]),
}


@pytest.mark.thinned(8)
@pytest.mark.parametrize("case", FUNCTIONS)
def test_forms_of_indexing_writing_and_reading_memory(case):
    """As above, for what takes more than one call."""
    shape, function, free = FUNCTIONS[case]
    model = Apply(shape, function)
    assert survivors(model, model.input()) == sorted(free)
    for method in ("r2r", "net2net", "netmorph"):
        assert (exact(model, model.input(), method) is not None) == bool(free)


class Whole(nn.Module):
    """Kept whole, as it reads the mode: nothing in it is rewritten."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) if self.training or x.ndim else x


INSIDE = {
    "halves": (lambda x: torch.cat([x[:, :6].relu(), x[:, 6:]], 1), "slice gives .* inside"),
    "a place": (lambda x: x * x[:, 2:3], "slice is given .* inside|slice gives .* inside"),
    "a scale": (lambda x: x * x.shape[1] ** -0.5, "mul is given .* inside"),
    "a size filled in": (lambda x: x + torch.full_like(x, x.shape[1]), "full_like is given .* inside"),
    "a size as a condition": (lambda x: x.sin() if x.shape[1] > 12 else x.relu(), "it does other things at another size"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_what_a_layer_that_is_kept_whole_says_of_sizes(case):
    """Ops inside are compared one by one: no literal size or number may mean something else once the class has grown."""
    function, reason = INSIDE[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), Whole(function), nn.Linear(12, 2))
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(model, torch.randn(2, 3), Widen(factor=2))


class Meet(Apply):
    """Two producers, of `shape[1]` and of `width` positions, whose outputs meet in the function."""

    def __init__(self, shape, width, function):
        super().__init__(shape, lambda x: function(x, x.new_zeros(shape[0], width, *shape[2:])))
        self.second = nn.Linear(3, width) if len(shape) == 2 else nn.Conv2d(3, width, 1)
        self.both = function

    def forward(self, x):
        return self.consumer(self.both(self.producer(x), self.second(x)).flatten(1))


def _cut_at(x, size):
    return torch.cat([x[:, :size], x[:, size:].sin()], 1)


MEETINGS = {
    "concatenated": (FLAT, 5, lambda x, y: torch.cat([x, y], 1), [5, 12]),
    "concatenated in space": (IMAGE, 12, lambda x, y: torch.cat([x, y], 2), [12]),
    "stacked": (FLAT, 12, lambda x, y: torch.stack([x, y], 1), [12]),
    "cut as another is joined": (FLAT, 12, lambda x, y: torch.cat([x[:, :5], x[:, 5:].relu()], 1) + y, [5, 7]),
    "cut in two ways": (FLAT, 12, lambda x, y: _cut_at(x, 4) + _cut_at(y, 5), [4, 7]),
    "a sum that meets a product": (FLAT, 6, lambda x, y: torch.cat([y, y], 1) + x.unflatten(1, (2, 6)).relu().flatten(1),
                                   [6]),
    "expanded to meet a class": (FLAT, 4, lambda x, y: x[:, None] * y[:, :, None].expand(2, 4, 12), [4, 12]),
    "repeated to meet a class": (FLAT, 6, lambda x, y: x + y.repeat(1, 2), [6]),
    "each repeated to meet a class": (FLAT, 6, lambda x, y: x + y.repeat_interleave(2, 1), [6]),
    "shuffled and straight": (FLAT, 12, lambda x, y: _shuffle(x, 1, 3) + y, [3, 4]),
    "two shuffles": (FLAT, 12, lambda x, y: _shuffle(x, 1, 3) + _shuffle(y, 1, 2), []),
    "a class and itself shuffled": (FLAT, 12, lambda x, y: x + _shuffle(x, 1, 3) + y, []),
    "an outer product": (FLAT, 5, lambda x, y: torch.einsum("bi,bj->bij", x, y), [5, 12]),
    "padded to the size of another": (FLAT, 8, lambda x, y: x + F.pad(y, (1, 3)), [8]),
    "a part of it": (FLAT, 5, lambda x, y: torch.cat([x[:, :7], x[:, 7:] + y], 1), [5, 7]),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("case", MEETINGS)
def test_classes_that_meet(case):
    """Axes of different producers become one, whole or in parts."""
    shape, width, function, free = MEETINGS[case]
    model = Meet(shape, width, function)
    assert survivors(model, model.input()) == sorted(free)
    for method in ("r2r", "net2net", "netmorph"):
        assert (exact(model, model.input(), method) is not None) == bool(free)


@proves(150)
@given(chains(), st.integers(0, 2 ** 16))
def test_old_numbers_are_where_the_axes_say(model, seed):
    """Every class grown by any number of arbitrary positions: no op moves an old number elsewhere than claimed."""
    grown = survivors(model, model.input(), seed, most=0.8)
    event("grown" if grown else "frozen")


@proves(60)
@given(chains(), st.sampled_from(["r2r", "net2net", "netmorph"]), st.sampled_from([{"factor": 2}, {"factor": 1.5}]))
def test_growing_is_exact(model, method, how):
    """Where something can grow, the grown network computes the same in both modes."""
    grown = exact(model, model.input(), method, **how)
    event("grown" if grown else "frozen")
