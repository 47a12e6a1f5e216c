"""Ops that move positions without computing: views, permutations, cuts, concatenations, look-ups."""
import torch
from torch import Tensor

from fxgrow.aten import CREATED, bound
from fxgrow.axis.expressions import Atom, Fixed, concat, is_fixed, product, resolve
from fxgrow.axis.registry import rule
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Map, Value


def move(tape: Tape, name: str, ins: list[Value], out: Tensor, axes, dmaps, **more) -> None:
    """Record an op that moves positions, and give its result its axes."""
    tape.record(Map, name, ins, [tape.set(out, axes)], fn="linear", dmaps=dmaps, **more)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten")
def view(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    move(tape, name, [x], out, tape.view(x.axes, list(out.shape), f"reshape {list(args[0].shape)} to {list(out.shape)}"),
         [None])


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
    move(tape, name, [x], out, [x.axes[i] for i in order], [{i: j for j, i in enumerate(order)}])


def _behind(dim: int, ndim: int) -> dict[int, int]:
    """Map dimensions to where they are once a new one stands at `dim`."""
    return {i: i if i < dim else i + 1 for i in range(ndim)}


@rule("unsqueeze")
def unsqueeze(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = args[1] % out.ndim
    move(tape, name, [x], out, [*x.axes[:dim], Fixed(1), *x.axes[dim:]], [_behind(dim, len(x.axes))])


@rule("squeeze")
def squeeze(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dims = args[1] if len(args) > 1 else range(len(x.axes))
    if isinstance(dims, int):
        dims = [dims]
    gone = {d % len(x.axes) for d in dims if x.axes[d].size == 1}
    kept = [i for i in range(len(x.axes)) if i not in gone]
    move(tape, name, [x], out, [x.axes[i] for i in kept], [{i: j for j, i in enumerate(kept)}])


@rule("expand")
def expand(tape, name, args, kwargs, out):
    """Give a dimension of one any size: the new axis is an atom of its own, equal at every position."""
    x = tape.of(args[0])
    shift = out.ndim - len(x.axes)
    axes = []
    for j, size in enumerate(out.shape):
        axis = x.axes[j - shift] if j >= shift else Fixed(1)
        axes.append(axis if axis.size == size else Atom(size))
    move(tape, name, [x], out, axes, [{i: i + shift for i in range(len(x.axes))}], const=False)


@rule("repeat")
def repeat(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    shift = out.ndim - len(x.axes)
    axes = []
    for j, times in enumerate(args[1]):
        axis = x.axes[j - shift] if j >= shift else Fixed(1)
        axes.append(Atom(times) if axis.size == 1 and times > 1 else product((Fixed(times), axis)))
    move(tape, name, [x], out, axes, [{i: i + shift for i in range(len(x.axes))}])


@rule("cat")
def cat(tape, name, args, kwargs, out):
    tensors = [t for t in args[0] if t.ndim == out.ndim]
    ins = [tape.of(t) for t in tensors]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    for v in ins[1:]:
        for i in range(out.ndim):
            if i != dim:
                tape.unify(ins[0].axes[i], v.axes[i], "concatenation")
    axes = [concat(v.axes[dim] for v in ins) if i == dim else a for i, a in enumerate(ins[0].axes)]
    same = {i: i for i in range(out.ndim)}
    move(tape, name, ins, out, axes, [same] * len(ins), joined=True)


@rule("stack")
def stack(tape, name, args, kwargs, out):
    ins = [tape.of(t) for t in args[0]]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    for v in ins[1:]:
        for a, b in zip(ins[0].axes, v.axes):
            tape.unify(a, b, "stack")
    axes = [*ins[0].axes[:dim], Fixed(len(ins)), *ins[0].axes[dim:]]
    move(tape, name, ins, out, axes, [_behind(dim, len(ins[0].axes))] * len(ins), joined=True)


def _told_apart(axis, count: int) -> Atom | None:
    """Return the atom whose positions are the `count` equal pieces of a cut, if there is one."""
    axis = resolve(axis)
    first = axis if isinstance(axis, Atom) else getattr(axis, "parts", [None])[0]
    return first if isinstance(first, Atom) and first.size == count else None


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "unsafe_split_with_sizes", "tensor_split")
def split(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % len(x.axes)
    pieces = tape.cut(x.axes[dim], [o.shape[dim] for o in out], name)
    _pieces(tape, name, x, dim, out, pieces)


def _pieces(tape: Tape, name: str, x: Value, dim: int, outs, pieces) -> None:
    atom = _told_apart(x.axes[dim], len(pieces)) if len(pieces) > 1 else None
    for k, (o, piece) in enumerate(zip(outs, pieces)):
        axes = [piece if i == dim else a for i, a in enumerate(x.axes)]
        move(tape, name, [x], o, axes, [{i: i for i in range(len(axes))}], pick=atom and (atom, [k]))


@rule("unbind")
def unbind(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = (args[1] if len(args) > 1 else 0) % len(x.axes)
    for k, o in enumerate(out):
        _select(tape, name, x, dim, k, o)


@rule("select")
def select(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    dim = args[1] % len(x.axes)
    _select(tape, name, x, dim, args[2] % args[0].shape[dim], out)


def _select(tape: Tape, name: str, x: Value, dim: int, index: int, out: Tensor) -> None:
    tape.freeze(x.axes[dim], "its positions are told apart (one is selected)")
    axis = resolve(x.axes[dim])
    move(tape, name, [x], out, [a for i, a in enumerate(x.axes) if i != dim],
         [{i: i - (i > dim) for i in range(len(x.axes)) if i != dim}],
         pick=(axis, [index]) if isinstance(axis, Atom) else None)


@rule("slice")
def slice_(tape, name, args, kwargs, out):
    x = tape.of(args[0])
    bounds = list(args[1:])
    dim, start, _, step = bounds + [0, None, None, 1][len(bounds):]
    dim %= len(x.axes)
    size, new = x.axes[dim].size, out.shape[dim]
    taken = None
    axis, pick, same = resolve(x.axes[dim]), None, {i: i for i in range(len(x.axes))}
    if new == size:  # its bounds may be literal: they grow with it
        piece, taken = axis, (dim, [axis], 0)
    elif is_fixed(axis) or step != 1 or new == 0:
        tape.freeze(axis, "only some of its positions are used")
        piece = Fixed(new)
    else:
        start = bound(start, size)
        pieces = tape.cut(axis, [n for n in (start, new, size - start - new) if n], "slice")
        at = 1 if start else 0
        piece = pieces[at]
        atom = _told_apart(axis, len(pieces))
        pick = atom and (atom, [at])
        taken = (dim, pieces, at)
    move(tape, name, [x], out, [piece if i == dim else a for i, a in enumerate(x.axes)], [same], pick=pick, cut=taken)


@rule("narrow")
def narrow(tape, name, args, kwargs, out):
    slice_(tape, name, (args[0], args[1], args[2], args[2] + args[3]), kwargs, out)


@rule("index", "index_select", "_unsafe_index")
def index(tape, name, args, kwargs, out):
    """Look positions up by number: their dimension keeps its size, the others are mapped."""
    x = tape.of(args[0])
    if name == "index_select":
        dim = args[1] % len(x.axes)
        tape.freeze(x.axes[dim], "its positions are looked up by number")
        move(tape, name, [x], out, [Fixed(out.shape[i]) if i == dim else a for i, a in enumerate(x.axes)],
             [{i: i for i in range(len(x.axes)) if i != dim}])
        return
    indices = args[1]
    places = [i for i, t in enumerate(indices) if t is not None]
    for i in places:
        tape.freeze(x.axes[i], "its positions are looked up by number")
    contiguous = places and places == list(range(places[0], places[-1] + 1)) and \
        all(indices[i].dtype is not torch.bool for i in places)
    if not contiguous:
        for axis in x.axes:
            tape.freeze(axis, f"positions are looked up by number ({name})")
        tape.set(out, [Fixed(s) for s in out.shape])
        return
    width = out.ndim - (len(x.axes) - len(places))
    axes = [*x.axes[:places[0]], *(Fixed(s) for s in out.shape[places[0]:places[0] + width]), *x.axes[places[-1] + 1:]]
    shift = width - len(places)
    move(tape, name, [x], out, axes, [{i: i if i < places[0] else i + shift for i in range(len(x.axes)) if i not in places}])


@rule("index_add", "index_copy")
def index_write(tape, name, args, kwargs, out):
    """Write rows by number: their dimension keeps its size, the others are mapped."""
    x, source = tape.of(args[0]), tape.of(args[3])
    dim = args[1] % len(x.axes)
    for i, (a, b) in enumerate(zip(x.axes, source.axes)):
        if i == dim:
            tape.freeze(a, "its positions are written by number")
            tape.freeze(b, "its positions are written by number")
        else:
            tape.unify(a, b, name)
    same = {i: i for i in range(out.ndim)}
    move(tape, name, [x, source], out, x.axes, [same, same], joined=True)


@rule("view_as_complex", "view_as_real")
def pairs_of_numbers(tape, name, args, kwargs, out):
    """Read `[*, 2]` as complex `[*]`, or back."""
    x = tape.of(args[0])
    if out.ndim < len(x.axes):
        tape.freeze(x.axes[-1], "it holds real and imaginary parts")
    axes = x.axes[:-1] if out.ndim < len(x.axes) else [*x.axes, Fixed(2)]
    move(tape, name, [x], out, axes, [{i: i for i in range(min(out.ndim, len(x.axes)))}])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tape, name, args, kwargs, out):
    """Turn `[N, g*c, ...]` to `[N, c*g, ...]`."""
    x, groups = tape.of(args[0]), args[1]
    outer, inner = tape.view([x.axes[1]], [groups, x.axes[1].size // groups], "the groups")
    tape.freeze(outer, "it is the number of groups of a channel shuffle")
    move(tape, name, [x], out, [x.axes[0], product((inner, outer)), *x.axes[2:]], [{i: i for i in range(len(x.axes))}])


@rule(*CREATED, "new_empty_strided")
def creation(tape, name, args, kwargs, out):
    """Make a tensor that takes only dtype and device from the old one: it is the same at every position."""
    axes = [Atom(s) if s > 1 and name in CREATED and out.is_floating_point() else Fixed(s) for s in out.shape]
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
    tape.record(Map, name, [x, numbers], [tape.set(out, numbers.axes)], fn="any",
                dmaps=[{i: i for i in range(out.ndim) if i != dim}, {i: i for i in range(out.ndim)}])


@rule("as_strided")
def as_strided(tape, name, args, kwargs, out):
    """Follow the same view again, and nothing else."""
    x, same = tape.of(args[0]), args[0]
    if (out.shape, out.stride(), out.storage_offset()) == (same.shape, same.stride(), same.storage_offset()):
        move(tape, name, [x], out, x.axes, [{i: i for i in range(len(x.axes))}])
        return
    for axis in x.axes:
        tape.freeze(axis, "its memory is re-read with other strides")
    tape.set(out, [Fixed(s) for s in out.shape])
