"""Ops that move positions without computing: views, permutations, cuts, concatenations, look-ups."""
from collections.abc import Sequence
from itertools import pairwise

from fxgrow.aten import CREATED, bound, is_mask, tensors_in
from fxgrow.axis.expressions import Atom, Fixed, concat, is_fixed, product, resolve
from fxgrow.axis.tape import rule
from fxgrow.axis.values import Map, Value


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten")
def view(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    axes = tape.view(x.axes, list(out.shape), f"reshape {list(args[0].shape)} to {list(out.shape)}")
    tape.map(name, [x], out, axes, [None])


@rule("permute", "transpose", "t", "numpy_T", "swapaxes", "adjoint")
def permute(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    order = list(range(len(x.axes)))
    if name == "permute":
        order = [d % len(order) for d in args[1]]
    elif name == "t" or len(args) < 3:
        order.reverse()
    else:
        a, b = (d % len(order) for d in args[1:3])
        order[a], order[b] = order[b], order[a]
    tape.map(name, [x], out, [x.axes[i] for i in order], [{i: j for j, i in enumerate(order)}])


def _behind(dim: int, ndim: int) -> dict[int, int]:
    """Map dimensions to where they are once a new one stands at `dim`."""
    return {i: i if i < dim else i + 1 for i in range(ndim)}


@rule("unsqueeze")
def unsqueeze(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = args[1] % out.ndim
    tape.map(name, [x], out, [*x.axes[:dim], Fixed(1), *x.axes[dim:]], [_behind(dim, len(x.axes))])


@rule("squeeze")
def squeeze(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dims = args[1] if len(args) > 1 else range(len(x.axes))
    if isinstance(dims, int):
        dims = [dims]
    gone = {d % len(x.axes) for d in dims if x.axes[d].size == 1}
    kept = [i for i in range(len(x.axes)) if i not in gone]
    tape.map(name, [x], out, [x.axes[i] for i in kept], [{i: j for j, i in enumerate(kept)}])


@rule("expand", "repeat")
def repeat(tape, name, args, kwargs, out):
    """Give a dimension of one any size, as an atom of its own that is equal at every position; put copies side by side."""
    x = tape.of(args[0])
    shift = out.ndim - len(x.axes)
    axes = []
    for axis, size in zip([*map(Fixed, [1] * shift), *x.axes], out.shape):
        if axis.size == size:
            axes.append(axis)
        else:
            axes.append(Atom(size) if axis.size == 1 else product((Fixed(size // axis.size), axis)))
    tape.map(name, [x], out, axes, [{i: i + shift for i in range(len(x.axes))}])


@rule("cat")
def cat(tape, name, args, kwargs, out):
    ins = [tape.of(t) for t in args[0] if t.ndim == out.ndim]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    for v in ins[1:]:
        for i in range(out.ndim):
            if i != dim:
                tape.unify(ins[0].axes[i], v.axes[i], "concatenation")
    axes = [concat(v.axes[dim] for v in ins) if i == dim else a for i, a in enumerate(ins[0].axes)]
    tape.map(name, ins, out, axes, joined=True)


@rule("stack")
def stack(tape, name, args, kwargs, out):
    ins = [tape.of(t) for t in args[0]]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    for v in ins[1:]:
        for a, b in zip(ins[0].axes, v.axes):
            tape.unify(a, b, "stack")
    axes = [*ins[0].axes[:dim], Fixed(len(ins)), *ins[0].axes[dim:]]
    tape.map(name, ins, out, axes, [_behind(dim, len(ins[0].axes))] * len(ins), joined=True)


def _pick(axis, count: int, index: int) -> tuple[Atom, list[int]] | None:
    """Return the atom whose positions are the `count` equal pieces of a cut, if there is one, and which piece is taken."""
    axis = resolve(axis)
    first = axis if isinstance(axis, Atom) else getattr(axis, "parts", [None])[0]
    return (first, [index]) if isinstance(first, Atom) and first.size == count else None


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "unsafe_split_with_sizes", "tensor_split")
def split(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(x.axes)
    pieces = tape.cut(x.axes[dim], [o.shape[dim] for o in out], name)
    for k, (o, piece) in enumerate(zip(out, pieces)):
        pick = _pick(x.axes[dim], len(pieces), k) if len(pieces) > 1 else None
        tape.map(name, [x], o, [piece if i == dim else a for i, a in enumerate(x.axes)], pick=pick)


@rule("select", "unbind")
def select(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = (args[1] if len(args) > 1 else 0) % len(x.axes)
    for index, o in enumerate(out) if name == "unbind" else [(args[2], out)]:
        _one_of(tape, name, x, dim, index, o)


def _one_of(tape, name, x: Value, dim: int, index: int, out) -> None:
    """Take one position of a dimension, which is gone then."""
    axis, kept = resolve(x.axes[dim]), [i for i in range(len(x.axes)) if i != dim]
    tape.map(name, [x], out, [x.axes[i] for i in kept], [{i: j for j, i in enumerate(kept)}],
             pick=(axis, [index % axis.size]) if isinstance(axis, Atom) else None)
    at = index if name == "select" else None  # of all positions one by one: their number is written down
    tape.chosen[tape.peek(out)] = axis, at, f"its positions are told apart (one is selected) in {tape.node}"


@rule("slice")
def slice_(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim, start, _, step = list(args[1:]) + [0, None, None, 1][len(args) - 1:]
    dim %= len(x.axes)
    size, new = x.axes[dim].size, out.shape[dim]
    axis, pick, taken = resolve(x.axes[dim]), None, None
    if new == size:  # its bounds may be literal: they grow with it
        piece, taken = axis, None if is_fixed(axis) else (dim, [axis], 0)
    elif step > 1 and size == new * step and not is_fixed(axis):
        _every(tape, name, x, dim, bound(start, size), out)
        return
    elif new == 0 and step == 1 and bound(start, size) in (0, size):  # what is behind the last position, or before the first
        piece, taken = Fixed(0), (dim, *(([Fixed(0), axis], 0) if bound(start, size) == 0 else ([axis, Fixed(0)], 1)))
    elif is_fixed(axis) or step != 1 or new == 0:
        tape.freeze(axis, "only some of its positions are used")
        piece = Fixed(new)
    else:
        start = bound(start, size)
        _cut_elsewhere_too(tape, axis, dim)
        pieces = tape.cut(axis, [n for n in (start, new, size - start - new) if n], "slice")
        at = 1 if start else 0
        piece, pick, taken = pieces[at], _pick(axis, len(pieces), at), (dim, pieces, at)
    tape.map(name, [x], out, [piece if i == dim else a for i, a in enumerate(x.axes)], pick=pick, cut=taken)


def _cut_elsewhere_too(tape, axis, dim: int) -> None:
    """Cut a class at all bounds at which it is sliced, where they are unevenly apart: two halves would be tied else."""
    points = sorted({0, axis.size, *(bound(at, axis.size) for at in tape.bounds.get(dim, ()))})
    sizes = [b - a for a, b in pairwise(points)]
    if isinstance(axis, Atom) and len(set(sizes)) > 1:
        tape.cut(axis, sizes, "slice")


def _every(tape, name, x: Value, dim: int, start: int, out) -> None:
    """Take every n-th position, as a reshape to `[size / n, n]` and a selection do."""
    new, axes = out.shape[dim], list(x.axes)
    axes[dim:dim + 1] = tape.view([axes[dim]], [new, axes[dim].size // new], "every second position, or third, is taken")
    parted = Value(axes)
    tape.record(Map, "view", [x], [parted], dmaps=[None], fn="linear")
    _one_of(tape, name, parted, dim + 1, start, out)


@rule("narrow")
def narrow(tape, name, args, kwargs, out):
    slice_(tape, name, (args[0], args[1], args[2], args[2] + args[3]), kwargs, out)


def looked_up(indices: Sequence) -> list[int]:
    """Return the dimensions that the operands of an indexing take the place of; a mask has as many as it says."""
    places: list[int] = []
    dim = 0
    for index in indices:
        width = index.ndim if is_mask(index) else 1
        places += range(dim, dim + width) if index is not None else ()
        dim += width
    return places


@rule("nonzero", "masked_select", "_unique2", "unique_consecutive")
def chosen(tape, name, args, kwargs, out):
    """Take as many positions as there are, wherever they are."""
    for x in tensors_in(args):
        tape.freeze_all(tape.of(x).axes, f"which of its positions are taken depends on data ({name})")
    for o in tensors_in((out,)):
        tape.set(o, [Fixed(s) for s in o.shape])


@rule("index", "index_select", "_unsafe_index")
def index(tape, name, args, kwargs, out):
    """Look positions up by number: their dimension keeps its size, the others are mapped."""
    x = tape.of(args[0])
    indices = [None] * (args[1] % len(x.axes)) + [args[2]] if name == "index_select" else args[1]
    places = looked_up(indices)
    tape.freeze_all((x.axes[i] for i in places), "its positions are looked up by number")
    if not places or places != list(range(places[0], places[-1] + 1)):
        tape.freeze_all(x.axes, f"positions are looked up by number ({name})")
        tape.set(out, [Fixed(s) for s in out.shape])
        return
    shift = out.ndim - len(x.axes)
    axes = [*x.axes[:places[0]], *map(Fixed, out.shape[places[0]:places[-1] + 1 + shift]), *x.axes[places[-1] + 1:]]
    tape.map(name, [x], out, axes, [{i: i if i < places[0] else i + shift for i in range(len(x.axes)) if i not in places}])


@rule("view_as_complex", "view_as_real")
def pairs_of_numbers(tape, name, args, kwargs, out):
    """Read `[*, 2]` as complex `[*]`, or back."""
    x = tape.of(args[0])
    same = {i: i for i in range(min(out.ndim, len(x.axes)))}
    if name == "view_as_complex":
        tape.freeze(x.axes[-1], "it holds real and imaginary parts")
    tape.map(name, [x], out, x.axes[:-1] if name == "view_as_complex" else [*x.axes, Fixed(2)], [same])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tape, name, args, kwargs, out):
    """Turn `[N, g*c, ...]` to `[N, c*g, ...]`."""
    x, groups = tape.of(args[0]), args[1]
    outer, inner = tape.view([x.axes[1]], [groups, x.axes[1].size // groups], "the groups")
    tape.freeze(outer, "it is the number of groups of a channel shuffle")
    tape.map(name, [x], out, [x.axes[0], product((inner, outer)), *x.axes[2:]])


@rule(*CREATED, "new_empty_strided")
def creation(tape, name, args, kwargs, out):
    """Make a tensor that takes only dtype and device from the old one: it is the same at every position."""
    open_ = name in CREATED and (out.is_floating_point() or out.is_complex())
    axes = [Atom(s) if s > 1 and open_ else Fixed(s) for s in out.shape]
    tape.set(out, axes).constant = CREATED.get(name)


@rule("gather")
def gather(tape, name, args, kwargs, out):
    """Compute `out[i, j] = x[index[i, j], j]`: the dimension looked up keeps its size, the others are mapped."""
    x, numbers = tape.of(args[0]), tape.of(args[2])
    dim = args[1] % len(x.axes)
    for i, (a, b) in enumerate(zip(x.axes, numbers.axes)):
        if i == dim:
            tape.freeze(a, "its positions are looked up by number")
        elif a.size == b.size:
            tape.unify(a, b, name)
        else:
            tape.freeze(a, "only some of its positions are used")
    same = {i: i for i in range(out.ndim)}
    tape.map(name, [x, numbers], out, numbers.axes, [{i: i for i in same if i != dim}, same], "any")


@rule("as_strided")
def as_strided(tape, name, args, kwargs, out):
    """Follow the same view again, and nothing else."""
    x, same = tape.of(args[0]), args[0]
    if (out.shape, out.stride(), out.storage_offset()) == (same.shape, same.stride(), same.storage_offset()):
        tape.map(name, [x], out, x.axes)
    else:
        tape.freeze_all(x.axes, "its memory is re-read with other strides")
        tape.set(out, [Fixed(s) for s in out.shape])
