"""Norms that `F.normalize` writes out as several ops, found on the tape and made into one."""
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Map, Normalise, Op, Reduce, Value


def fuse(tape: Tape) -> None:
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
