"""Sums of products: matrix products, convolutions, embeddings."""
from collections.abc import Sequence

from torch import Tensor

from fxgrow.aten import Recorded
from fxgrow.axis.expressions import LOOKUP, Fixed, is_fixed, product, to_number
from fxgrow.axis.tape import Tape, rule
from fxgrow.axis.values import Contract, Near, Value


def _finish(tape: Tape, name: str, value: Value, out: Tensor, bias: Tensor | None, dims: dict[int, int]) -> None:
    """Give the result its value; a bias is added by an op of its own, its dimensions to those that `dims` says."""
    if bias is None:
        tape.values[id(out)] = value
        tape.alive.append(out)
        return
    added = tape.of(bias)
    for i, j in dims.items():
        if added.axes[i].size > 1:
            tape.unify(value.axes[j], added.axes[i], name)
    tape.map(name, [value, added], out, value.axes, [{i: i for i in range(len(value.axes))}, dims])
    tape.of(out).made = Recorded("add", tape.node, tape.fx, args=(out, bias), ins=[value, added])


def _sum_products(tape: Tape, name: str, ins: list[Value], dims: tuple[int, int], out: Value, dmaps: list) -> Value:
    """Sum the products of two values over a dimension of each."""
    (a, b), (i, j) = ins, dims
    tape.unify(a.axes[i], b.axes[j], name)
    tape.record(Contract, name, ins, [out], dmaps=dmaps, reduced=[(0, i, a.axes[i]), (1, j, b.axes[j])])
    return out


def _matmul(tape: Tape, name: str, first: Tensor, second: Tensor) -> Value:
    """Compute `a [*batch, n, k] @ b [*batch, k, m]`."""
    a, b, batch = tape.of(first), tape.of(second), first.ndim - 2
    for i in range(batch):
        tape.unify(a.axes[i], b.axes[i], name)
    same = {i: i for i in range(batch)}
    return _sum_products(tape, name, [a, b], (batch + 1, batch), Value([*a.axes[:batch + 1], b.axes[batch + 1]]),
                         [{**same, batch: batch}, {**same, batch + 1: batch + 1}])


@rule("mm", "bmm")
def mm(tape, name, args, kwargs, out):
    _finish(tape, name, _matmul(tape, name, *args[:2]), out, None, {})


@rule("addmm", "baddbmm")
def addmm(tape, name, args, kwargs, out):
    bias, a, b = args[:3]
    used = kwargs.get("beta", 1) != 0
    if not used:
        tape.ignore(bias)
    _finish(tape, name, _matmul(tape, name, a, b), out, bias if used else None,
            {i: i + out.ndim - bias.ndim for i in range(bias.ndim)})


@rule("mv", "dot", "vdot")
def mv(tape, name, args, kwargs, out):
    a, b = tape.of(args[0]), tape.of(args[1])
    last = len(a.axes) - 1
    _sum_products(tape, name, [a, b], (last, 0), tape.set(out, a.axes[:last]), [{i: i for i in range(last)}, {}])


@rule("_trilinear")
def trilinear(tape, name, args, kwargs, out):
    """Compute `out[n, o] = sum_ij x[n, i] weight[o, i, j] y[n, j]`, as torch takes a bilinear layer apart."""
    if list(map(list, args[3:7])) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("another expansion")
    x, w, y = (tape.of(t) for t in args[:3])
    half = Value([x.axes[0], w.axes[0], w.axes[2]])
    _sum_products(tape, name, [x, w], (1, 1), half, [{0: 0}, {0: 1, 2: 2}])
    tape.unify(half.axes[0], y.axes[0], name)
    _sum_products(tape, name, [half, y], (2, 1), tape.set(out, half.axes[:2]), [{0: 0, 1: 1}, {0: 0}])


@rule("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_mm(tape, name, args, kwargs, out):
    """Compute `rows [n, k] @ matrices [e, k, m]`, where counts say which of the matrices each row meets."""
    rows, matrices = tape.of(args[0]), tape.of(args[1])
    if len(rows.axes) != 2 or len(matrices.axes) != 3:
        raise ValueError("groups along another axis")
    tape.freeze(matrices.axes[0], "which of its matrices a row meets depends on data")
    tape.ignore(args[2])
    _sum_products(tape, name, [rows, matrices], (1, 1), tape.set(out, [rows.axes[0], matrices.axes[2]]), [{0: 0}, {2: 1}])


@rule("linear")
def linear(tape, name, args, kwargs, out):
    """Compute `x [*, k] @ weight [m, k].T + bias [m]`."""
    x, w = tape.of(args[0]), tape.of(args[1])
    last = len(x.axes) - 1
    value = _sum_products(tape, name, [x, w], (last, 1), Value([*x.axes[:last], w.axes[0]]),
                          [{i: i for i in range(last)}, {0: last}])
    _finish(tape, name, value, out, args[2] if len(args) > 2 else kwargs.get("bias"), {0: last})


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(tape, name, args, kwargs, out):
    """Convolve `x [N, I, *space]` with `weight [O, I/g, *kernel]` (transposed: `[I, O/g, *kernel]`), `bias [O]`.

    Channels may stand where space does, of which each result is made of its neighbours (ECA).
    """
    plain = not args[6] and all(step == 1 for step in args[3])
    _convolve(tape, name, args[:3], args[8], out, args[6], plain)


@rule("torchvision::deform_conv2d")
def deformed(tape, name, args, kwargs, out):
    """Convolve at shifted places: `offset` and `mask` have channels of their own, for each of equal parts of `x`."""
    x, weight, offset, mask, bias = args[:5]
    groups, parts = args[11:13]
    tape.freeze_all((*tape.of(offset).axes, *tape.of(mask).axes), "it shifts the places of a deformable convolution")
    tape.ignore(offset)
    tape.ignore(mask)
    if parts > 1:
        axis = tape.of(x).axes[1]
        tape.freeze(tape.view([axis], [parts, axis.size // parts], "the parts")[0], "each part has offsets of its own")
    _convolve(tape, name, (x, weight, bias), groups, out)


def _convolve(tape: Tape, name: str, operands: Sequence, groups: int, out: Tensor, transposed: bool = False,
              near: bool = False) -> None:
    image, weight, bias = operands
    x, w = tape.of(image), tape.of(weight)
    channels = 1 if out.ndim == weight.ndim else 0
    x, space = _along_space(tape, name, x, list(out.shape), [axis.size for axis in w.axes[2:]], near)
    for axis in w.axes[2:]:
        to_number(axis)
    outer_in, inner_in = tape.view([x.axes[channels]], [groups, x.axes[channels].size // groups], "the groups")
    outer_w, inner_w = tape.view([w.axes[0]], [groups, w.axes[0].size // groups], "the groups")
    tape.unify(outer_in, outer_w, name)
    consumed, produced = (inner_w, w.axes[1]) if transposed else (w.axes[1], inner_w)
    tape.unify(inner_in, consumed, name)
    value = Value([*x.axes[:channels], product((outer_w, produced)), *space])
    tape.record(Contract, name, [x, w], [value], dmaps=[{i: i for i in range(len(x.axes))}, {0: channels, 1: channels}],
                reduced=[(0, channels, inner_in), (1, 0 if transposed else 1, consumed)], groups=outer_w)
    _finish(tape, name, value, out, bias, {0: channels})


def _along_space(tape: Tape, name: str, x: Value, shape: list[int], kernel: list[int], near: bool) -> tuple[Value, list]:
    """Return what a convolution sums over, and the axes of space of its result.

    near: a class along space keeps its positions, each made of its neighbours too, or (a kernel of one) of itself alone.
    """
    space = []
    for d, width in enumerate(kernel, len(shape) - len(kernel)):
        axis = x.axes[d]
        if not near or axis.size != shape[d] or is_fixed(axis):
            tape.freeze(axis, "it is spatial")
            axis = Fixed(shape[d])
        elif width > 1:
            around = Value(x.axes)
            tape.record(Near, name, [x], [around], dmaps=[{i: i for i in range(len(x.axes))}], dim=d)
            x = around
        space.append(axis)
    return x, space


@rule("embedding")
def embedding(tape, name, args, kwargs, out):
    w, index = tape.of(args[0]), tape.of(args[1])
    tape.freeze_all(index.axes, LOOKUP)
    tape.looked_up(w.axes[0])
    tape.map(name, [w], out, [*index.axes, w.axes[1]], [{1: len(index.axes)}])


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(tape, name, args, kwargs, out):
    """Take sums, means (modes 0 and 1) or maxima (mode 2) of rows that are looked up by number."""
    w, mode = tape.of(args[0]), args[4] if len(args) > 4 else 0
    tape.looked_up(w.axes[0])
    tape.map("embedding", [w], out[0], [Fixed(out[0].shape[0]), w.axes[1]], [{1: 1}], "any" if mode == 2 else "linear")
