"""Norms that `F.normalize` writes out as several ops, found on the tape and made into one."""
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Map, Normalise, Op, Reduce

KEPT = ("clamp_min", "expand", "expand_as", "unsqueeze", "view")  # what is done to a length before it divides
TINY = 1e-6  # a larger least length is followed as what it is


def fuse(tape: Tape) -> None:
    """Make one norm, to unit length, of what divides a value by its own vector norm in one graph node (`F.normalize`).

    Other ops of the node stay: of a layer, say, that normalises its weight before it uses it.
    """
    for fx, ops in tape.by_node.items():
        for length in [op for op in ops if isinstance(op, Reduce) and op.how == "norm"]:
            chain = _chain(length, ops, tape.node_values.get(fx))
            if chain:
                last = chain[-1]
                fused = Normalise("normalize", last.node, fx, last.ins[:1], last.outs, last.dmaps[:1], length.reduced,
                                  how="unit")
                last.outs[0].op = fused
                gone = {id(op) for op in chain[:-1]}
                for held in (tape.ops, ops):
                    held[held.index(last)] = fused
                    held[:] = [op for op in held if id(op) not in gone]


def _chain(length: Op, ops: list[Op], given) -> list[Op]:
    """Return the ops from a length to the division by it, which read nothing else of each other; none if it is no norm."""
    chain, value = [length], length.outs[0]
    while value is not given:
        readers = [op for op in ops if value in op.ins]
        reader = readers[0] if len(readers) == 1 else None
        if not isinstance(reader, Map):
            return []
        chain.append(reader)
        if reader.fn == "div":
            return chain if len(reader.ins) == 2 and reader.ins[0] is length.ins[0] and reader.ins[1] is value else []
        value, made = reader.outs[0], reader.outs[0].made
        floor = max(made.numbers, default=0) if made is not None and reader.name == "clamp_min" else 0
        if reader.name not in KEPT or len(reader.ins) != 1 or floor > TINY:
            return []
    return []
