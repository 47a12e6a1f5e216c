"""Norms that are written out as several ops, found on the tape and made into one."""
from fxgrow.aten import COPIES
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Map, Normalise, Op, Reduce, Value


def fuse(tape: Tape) -> None:
    """Make norms of `F.normalize` and of RMS norms that are written out (Llama's)."""
    _fuse_normalize(tape)
    for op in list(filter(_is_product, tape.ops)):
        for x, root in (op.ins, op.ins[::-1]):
            if (parts := _mean_square(tape, x, root)) is not None:
                _fuse_rms(tape, op, x, *parts)
                break


def _fuse_normalize(tape: Tape) -> None:
    """Make one norm, to unit length, of a graph node that divides a value by its own vector norm (`F.normalize`)."""
    for fx, ops in tape.by_node.items():
        value, lengths = tape.node_values.get(fx), [op for op in ops if isinstance(op, Reduce) and op.how == "norm"]
        if not isinstance(value, Value) or not isinstance(value.op, Map) or len(lengths) != 1:
            continue
        last = value.op
        if last in ops and last.fn == "div" and last.ins[0] is lengths[0].ins[0]:
            fused = Normalise("normalize", last.node, fx, last.ins[:1], last.outs, last.dmaps[:1], lengths[0].reduced,
                              how="unit")
            value.op = fused
            _replace(tape, last, fused, ops)
            tape.by_node[fx] = [fused]


def _replace(tape: Tape, last: Op, fused: Op, gone: list[Op]) -> None:
    """Put a norm in the place of the last of the ops that it is made of."""
    left_out = {id(op) for op in gone}
    tape.ops[tape.ops.index(last)] = fused
    tape.ops = [op for op in tape.ops if id(op) not in left_out]


def _mean_square(tape: Tape, x: Value, root: Value) -> tuple[Op, Op, str] | None:
    """Find the ops of `mean(x ** 2)` and the node that adds eps, if `root` is `rsqrt(mean(x ** 2) + eps)`."""
    chain, value = [], root
    for name in ("rsqrt", "add", "mean"):
        if value.made is None or value.made.name != name or len(value.made.ins) != 1 or len(_uses(tape, value)) != 1:
            return None  # or used elsewhere too
        chain.append(value.made)
        value = value.made.ins[0]
    means = (op for op in tape.ops if op.ins == [value] and isinstance(op, Reduce) and op.how == "mean")
    squares, mean = value.op, next(means, None)
    if mean is None or squares is None or set(squares.ins) != {x} or len(chain[1].numbers) != 1:
        return None
    squared = squares.name in ("square", "mul") or (squares.name == "pow" and (not value.made or value.made.numbers == [2]))
    once = len(_uses(tape, value)) == 1 and len(mean.reduced) == 1
    return (squares, mean, chain[1].node) if squared and once else None


def _uses(tape: Tape, value: Value) -> list[Value]:
    """Return the values that are made of one."""
    return [v for v in tape.values.values() if v.made is not None and value in v.made.ins]


def _fuse_rms(tape: Tape, last: Op, x: Value, squares: Op, mean: Op, eps: str) -> None:
    """Put one norm in the place of squares, their mean and the product, and the product with a weight that follows."""
    gone = [squares, mean, last]
    ins, dmaps, outs = [x], [last.dmaps[last.ins.index(x)] if last.dmaps else None], last.outs
    following = _readers(tape, outs[0])
    while len(following) == 1 and following[0].name in COPIES:
        gone.append(following[0])
        following = _readers(tape, following[0].outs[0])
    product = gone[-1].outs[0]
    if len(following) == 1 and _is_product(following[0]):
        weights = [v for v in following[0].ins if v is not product]  # none, where the value is squared
        if weights and weights[0].source is not None and len(weights[0].axes) == 1:
            gone.append(following[0])
            ins, outs, dmaps = [x, weights[0]], following[0].outs, [dmaps[0], None]
    if len(ins) == 1:
        gone, outs = gone[:3], last.outs
    fused = Normalise("rms_norm", last.node, last.fx, ins, outs, dmaps, [(0, d, e) for _, d, e in mean.reduced], how="rms",
                      eps=eps)
    outs[0].op = fused
    _replace(tape, gone[-1], fused, gone)
    for op in gone:
        tape.by_node[op.fx].remove(op)
    tape.by_node.setdefault(eps, []).append(fused)


def _is_product(op: Op) -> bool:
    return isinstance(op, Map) and op.fn == "mul" and len(op.ins) == 2


def _readers(tape: Tape, value: Value) -> list[Op]:
    return [op for op in tape.ops if value in op.ins]
