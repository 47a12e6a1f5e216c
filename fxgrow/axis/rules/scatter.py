"""Ops that add up or write rows by number: what graph networks gather their messages with."""
from torch import Tensor

from fxgrow.aten import is_mask
from fxgrow.axis.expressions import Fixed
from fxgrow.axis.rules.elementwise import pointwise
from fxgrow.axis.rules.shape import looked_up
from fxgrow.axis.tape import Tape, rule
from fxgrow.axis.values import Map, Value

SUMS = ("sum", "mean", "add")


def _spread(index: Value) -> list[bool]:
    """Tell of each dimension of a tensor whether its numbers are the same along it."""
    by = index.op
    while isinstance(by, Map) and by.name in ("clone", "alias", "contiguous"):
        by = by.ins[0].op
    before = by.ins[0].axes if isinstance(by, Map) and by.name == "expand" else ()
    return [(before if len(before) == len(index.axes) else index.axes)[d].size == 1 for d in range(len(index.axes))]


def _is_spread(index: Value, dim: int) -> bool:
    """Tell whether the numbers of a tensor are the same along all dimensions but one that may grow."""
    return all(d == dim or isinstance(axis, Fixed) or same for d, (axis, same) in enumerate(zip(index.axes, _spread(index))))


def _unify_but(tape: Tape, name: str, dim: int, x: Value, *others: Value) -> None:
    """Make all axes those of x, except along `dim`; where others have fewer positions there, x may not grow."""
    for d, axis in enumerate(x.axes):
        for other in others:
            if d == dim:
                tape.freeze_all((axis, other.axes[d]), "its positions are written by number")
            elif axis.size == other.axes[d].size:
                tape.unify(axis, other.axes[d], name)
            else:
                tape.freeze_all((axis, other.axes[d]), "only some of its positions are used")


@rule("scatter_add", "scatter", "scatter_reduce")
def scatter(tape, name, args, kwargs, out):
    """Add or write rows by number: `out[index[i, j], j] += source[i, j]`; the other dimensions are mapped."""
    x, index, source = tape.of(args[0]), tape.of(args[2]), args[3] if len(args) > 3 else kwargs["value"]
    dim, how = args[1] % len(x.axes), kwargs.get("reduce", args[4] if len(args) > 4 else "sum")
    ins = [x, *([tape.of(source)] if isinstance(source, Tensor) else [])]
    _unify_but(tape, name, dim, x, index, *ins[1:])
    fn = "linear" if how in SUMS else "any"
    if _is_spread(index, dim):
        tape.ignore(args[2])
    else:
        ins, fn = [*ins, index], "any"
    written = name == "scatter" and how == "sum"
    tape.map(name, ins, out, x.axes, fn=fn, joined=written and len(ins) == 2 and fn == "linear", const=len(ins) == 1)


@rule("index_add", "index_copy", "index_reduce")
def index_write(tape, name, args, kwargs, out):
    """Add or write rows by number: their dimension keeps its size, the others are mapped."""
    x, source = tape.of(args[0]), tape.of(args[3])
    _unify_but(tape, name, args[1] % len(x.axes), x, source)
    how = args[4] if name == "index_reduce" else "sum"
    tape.map(name, [x, source], out, x.axes, fn="linear" if how in SUMS else "any", joined=name == "index_copy")


@rule("index_put", "_unsafe_index_put")
def index_put(tape, name, args, kwargs, out):
    """Compute `x[indices] = values`: the dimensions that are looked up keep their size, the others are mapped."""
    x, indices, values = args[:3]
    if len(indices) == 1 and is_mask(indices[0]) and indices[0].shape == x.shape and values.numel() == 1:
        pointwise(tape, name, [x, indices[0]], out, "any", const=True)
        return
    value, new, places = tape.of(x), tape.of(values), looked_up(indices)
    if not places or places != list(range(places[0], places[-1] + 1)):
        raise ValueError("positions are written by number")
    tape.freeze_all((value.axes[i] for i in places), "its positions are written by number")
    behind = list(range(places[-1] + 1, x.ndim))
    dmap = dict(zip(range(values.ndim)[::-1], behind[::-1]))  # in front of these the values may be one for all
    for i, axis in enumerate(new.axes):
        if i not in dmap:
            tape.freeze(axis, "its positions are written by number")
        elif axis.size > 1:
            tape.unify(value.axes[dmap[i]], axis, name)
    if places[0] and len(new.axes) > len(behind) + 1:
        raise ValueError("positions are written by number")
    tape.map(name, [value, new], out, value.axes, [{i: i for i in range(x.ndim)}, dmap], joined=len(dmap) == len(behind))


@rule("masked_scatter")
def masked_scatter(tape, name, args, kwargs, out):
    """Write rows where a mask says so: the last dimensions, along which the mask is the same, are mapped."""
    x, mask, source = map(tape.of, args[:3])
    ndim, places, mapped = len(x.axes), _spread(mask), 0
    while mapped < min(len(places), len(source.axes) - 1) and places[-1 - mapped] \
            and x.axes[-1 - mapped].size == source.axes[-1 - mapped].size:
        mapped += 1
    for value in (x, mask, source):
        tape.freeze_all(value.axes[:len(value.axes) - mapped], "its positions are written by number")
        for d in range(1, mapped + 1):
            if value.axes[-d].size == x.axes[-d].size:
                tape.unify(x.axes[-d], value.axes[-d], name)
    tape.ignore(args[1])
    behind = {len(source.axes) - d: ndim - d for d in range(1, mapped + 1)}
    tape.map(name, [x, source], out, x.axes, [{i: i for i in range(ndim)}, behind], joined=True)
