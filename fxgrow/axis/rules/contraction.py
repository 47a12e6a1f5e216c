"""Sums of products: matrix products, convolutions, embeddings."""
from torch import Tensor

from fxgrow.axis.expressions import Fixed, product, to_number
from fxgrow.axis.registry import rule
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Contract, Map, Value


def _add_bias(tape: Tape, name: str, value: Value, bias: Value, dim_of_bias: dict[int, int], out: Tensor) -> None:
    """Add a bias to the contraction's value, as an op of its own."""
    for i, j in dim_of_bias.items():
        if bias.axes[i].size > 1:
            tape.unify(value.axes[j], bias.axes[i], name)
    total = tape.set(out, value.axes)
    tape.record(Map, name, [value, bias], [total], fn="linear",
                dmaps=[{i: i for i in range(len(value.axes))}, dim_of_bias])


def _matmul(tape: Tape, name: str, a: Value, b: Value, batch: int) -> Value:
    """Compute `a [*batch, n, k] @ b [*batch, k, m]`."""
    for i in range(batch):
        tape.unify(a.axes[i], b.axes[i], name)
    tape.unify(a.axes[batch + 1], b.axes[batch], name)
    out = Value([*a.axes[:batch + 1], b.axes[batch + 1]])
    same = {i: i for i in range(batch)}
    tape.record(Contract, name, [a, b], [out], dmaps=[{**same, batch: batch}, {**same, batch + 1: batch + 1}],
                reduced=[(0, batch + 1, a.axes[batch + 1]), (1, batch, b.axes[batch])])
    return out


def _keep(tape: Tape, out: Tensor, value: Value) -> None:
    tape.values[id(out)] = value
    tape.alive.append(out)


@rule("mm")
def mm(tape, name, args, kwargs, out):
    _keep(tape, out, _matmul(tape, name, tape.of(args[0]), tape.of(args[1]), 0))


@rule("bmm")
def bmm(tape, name, args, kwargs, out):
    _keep(tape, out, _matmul(tape, name, tape.of(args[0]), tape.of(args[1]), 1))


@rule("addmm", "baddbmm")
def addmm(tape, name, args, kwargs, out):
    bias, a, b = (tape.of(t) for t in args[:3])
    value = _matmul(tape, name, a, b, len(a.axes) - 2)
    if kwargs.get("beta", 1) == 0:
        tape.ignore(args[0])
        _keep(tape, out, value)
    else:
        shift = len(value.axes) - len(bias.axes)
        _add_bias(tape, name, value, bias, {i: i + shift for i in range(len(bias.axes))}, out)


@rule("mv", "dot", "vdot")
def mv(tape, name, args, kwargs, out):
    a, b = tape.of(args[0]), tape.of(args[1])
    last = len(a.axes) - 1
    tape.unify(a.axes[last], b.axes[0], name)
    value = tape.set(out, a.axes[:last])
    tape.record(Contract, name, [a, b], [value], dmaps=[{i: i for i in range(last)}, {}],
                reduced=[(0, last, a.axes[last]), (1, 0, b.axes[0])])


@rule("_trilinear")
def trilinear(tape, name, args, kwargs, out):
    """Compute `out[n, o] = sum_ij x[n, i] weight[o, i, j] y[n, j]`, as torch takes a bilinear layer apart."""
    if list(map(list, args[3:7])) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("another expansion")
    x, w, y = (tape.of(t) for t in args[:3])
    tape.unify(x.axes[1], w.axes[1], name)
    half = Value([x.axes[0], w.axes[0], w.axes[2]])
    tape.record(Contract, name, [x, w], [half], dmaps=[{0: 0}, {0: 1, 2: 2}],
                reduced=[(0, 1, x.axes[1]), (1, 1, w.axes[1])])
    tape.unify(half.axes[0], y.axes[0], name)
    tape.unify(half.axes[2], y.axes[1], name)
    tape.record(Contract, name, [half, y], [tape.set(out, half.axes[:2])], dmaps=[{0: 0, 1: 1}, {0: 0}],
                reduced=[(0, 2, half.axes[2]), (1, 1, y.axes[1])])


@rule("linear")
def linear(tape, name, args, kwargs, out):
    """Compute `x [*, k] @ weight [m, k].T + bias [m]`."""
    x, w = tape.of(args[0]), tape.of(args[1])
    last = len(x.axes) - 1
    tape.unify(x.axes[last], w.axes[1], name)
    value = Value([*x.axes[:last], w.axes[0]])
    tape.record(Contract, name, [x, w], [value], dmaps=[{i: i for i in range(last)}, {0: last}],
                reduced=[(0, last, x.axes[last]), (1, 1, w.axes[1])])
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if bias is None:
        _keep(tape, out, value)
    else:
        _add_bias(tape, name, value, tape.of(bias), {0: last}, out)


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(tape, name, args, kwargs, out):
    """Convolve `x [N, I, *space]` with `weight [O, I/g, *kernel]` (transposed: `[I, O/g, *kernel]`), `bias [O]`."""
    x, w = tape.of(args[0]), tape.of(args[1])
    bias, transposed, groups = args[2], args[6], args[8]
    channels = 1 if out.ndim == args[1].ndim else 0
    space = [Fixed(s) for s in out.shape[channels + 1:]]
    for axis in x.axes[channels + 1:]:
        tape.freeze(axis, "it is spatial")
    for axis in w.axes[2:]:
        to_number(axis)
    outer_in, inner_in = tape.view([x.axes[channels]], [groups, x.axes[channels].size // groups], "the groups")
    outer_w, inner_w = tape.view([w.axes[0]], [groups, w.axes[0].size // groups], "the groups")
    tape.unify(outer_in, outer_w, name)
    consumed, produced = (inner_w, w.axes[1]) if transposed else (w.axes[1], inner_w)
    tape.unify(inner_in, consumed, name)
    value = Value([*x.axes[:channels], product((outer_w, produced)), *space])
    dim = 0 if transposed else 1
    tape.record(Contract, name, [x, w], [value],
                dmaps=[{i: i for i in range(channels + 1)}, {0: channels, 1: channels}],
                reduced=[(0, channels, inner_in), (1, dim, consumed)], groups=outer_w)
    if bias is None:
        _keep(tape, out, value)
    else:
        _add_bias(tape, name, value, tape.of(bias), {0: channels}, out)


@rule("embedding")
def embedding(tape, name, args, kwargs, out):
    w, index = tape.of(args[0]), tape.of(args[1])
    for axis in (w.axes[0], *index.axes):
        tape.freeze(axis, "its positions are looked up by number (embedding)")
    value = tape.set(out, [*index.axes, w.axes[1]])
    tape.record(Map, name, [w], [value], fn="linear", dmaps=[{1: len(index.axes)}])


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(tape, name, args, kwargs, out):
    """Take sums, means (modes 0 and 1) or maxima (mode 2) of rows that are looked up by number."""
    w, mode = tape.of(args[0]), args[4] if len(args) > 4 else 0
    tape.freeze(w.axes[0], "its positions are looked up by number (embedding)")
    value = tape.set(out[0], [Fixed(out[0].shape[0]), w.axes[1]])
    tape.record(Map, "embedding", [w], [value], fn="any" if mode == 2 else "linear", dmaps=[{1: 1}])
