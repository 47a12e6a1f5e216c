"""Parameters whose rows are normalised before they are used: what new columns have to hold in front of the norm.

Columns that are spread about the mean of their row as its old numbers are leave mean and variance alone, and are v and -v
behind the norm. Others change the row by a known factor, which the norm's gain takes: copies make a norm sqrt(m/n) times as
large, and what is to be shares behind it is copies in front.
"""
from fxgrow.axis import Map, Normalise, Reduce, Sum, atoms, resolve, rows_of
from fxgrow.common import Refusal
from fxgrow.contents.bindings import Bindings, Norm, Rows
from fxgrow.contents.kinds import COPIES, COPY, FREE, MEAN, SHARE, SIGNED, SPREAD, ZERO, Content, Var


def behind_norm(held: Bindings, op: Normalise, var: Var) -> Var:
    """Return what stands for the content behind a norm of the rows of a parameter.

    Raises:
        Refusal: it is not known which numbers make a row.
    """
    if not held.exact:
        return var
    if var.norm is not None or not op.outs[0].param_only:
        raise Refusal(f"{op.node} normalises a parameter over it")
    _note_rows(held, op, var, op.how == "layer", op.correction)
    return Var(var.source, var.dim, op)


def measure(held: Bindings, op: Reduce, var: Var) -> bool:
    """Tell whether an op takes mean or variance of the rows of a parameter, and note that its content must keep it."""
    if not op.outs[0].param_only or op.how not in ("mean", "sample variance") or rows_of(op.ins[0], set()) is None:
        return False
    correction = None if op.name == "mean" else int(op.how != "mean")
    _note_rows(held, op, var, True, correction)
    held.measured[var.source, var.dim] = op
    return True


def insist_on_measures(held: Bindings) -> None:
    """Refuse contents that change a mean or variance which is taken of the rows of a parameter."""
    for (source, dim), op in held.measured.items():
        content = held.out.contents[source, dim]
        if set(getattr(content, "contents", [content])) != {SPREAD}:
            raise Refusal(f"{op.node} takes the {op.how} of a parameter over it")


def _note_rows(held: Bindings, op: Normalise | Reduce, var: Var, centred: bool, correction: int | None) -> None:
    found = rows_of(op.ins[0], {d for _, d, _ in op.reduced})
    if found is None or var.dim not in found[1]:
        raise Refusal(f"{op.node} normalises a parameter over it by rows that are not known")
    kept = tuple(d for d in range(len(held.tape.params[var.source].axes)) if d not in found[1])
    before = held.out.rows.get((var.source, var.dim), Rows(kept, centred, correction))
    corrections = {before.correction, correction} - {None}
    if before != Rows(kept, centred, before.correction) or len(corrections) > 1:
        raise Refusal(f"{op.node} normalises a parameter over it that is normalised in another way too")
    held.out.rows[var.source, var.dim] = Rows(kept, centred, next(iter(corrections), None))


def in_front(held: Bindings, var: Var, op: Normalise, wanted: Content) -> tuple[Content, Content]:
    """Return what a parameter holds in front of a norm so that `wanted` is behind it, and what is behind it then.

    Raises:
        Refusal: nothing does, or the norm has no gain to take the factor that is left.
    """
    centred = op.how == "layer"
    if wanted == SIGNED and not centred:
        return ZERO, ZERO
    if wanted in (SIGNED, FREE):
        if not centred:
            _give_gain(held, op, -0.5)
        return SPREAD, wanted
    if wanted == ZERO:
        if centred:
            _give_gain(held, op, 0.5)
            held.out.norms.append(Norm(op, _alone(held, var), -0.5, False))
        return MEAN if centred else ZERO, ZERO
    if wanted in COPIES and not centred and held.is_covered(op.ins[0].axes[var.dim]):
        _rescale(held, op, -0.5 if wanted == COPY else 0.5)
        held.out.uniform = op.node
        return COPY, wanted  # equal shares, whatever shares the method draws
    if wanted == SHARE and centred and all(held.is_covered(a) for _, _, a in op.reduced if held.atom in atoms(a)):
        held.out.uniform = op.node
        _give_gain(held, op, 1.0)
        return COPY, SHARE
    raise Refusal(f"{op.node} normalises a parameter over it")


def _give_gain(held: Bindings, op: Normalise, power: float) -> None:
    """Note that the gain of a norm takes the factor (n/m) ** power, for n positions that become m."""
    axes = [resolve(a) for _, _, a in op.reduced if held.atom in atoms(a)]
    if len(axes) > 1 or isinstance(axes[0], Sum) or any(isinstance(p, Sum) for p in getattr(axes[0], "parts", ())):
        raise Refusal(f"{op.node} normalises a parameter over it together with other axes")
    _rescale(held, op, power)


def _rescale(held: Bindings, op: Normalise, power: float) -> None:
    """Note that the gain of a norm takes the factor (n/m) ** power, once for each axis of the rows."""
    norm = Norm(op, _gain(held, op), power, False)
    if norm in held.out.norms:
        raise Refusal(f"{op.node} normalises a parameter over it on two axes that would hold the same")
    held.out.norms.append(norm)


def _alone(held: Bindings, var: Var) -> str:
    """Return a parameter that is read once, and so may be multiplied: its rows keep their variance, and the eps its part."""
    if sum(op.ins.count(held.tape.params[var.source]) for op in held.tape.ops) > 1:
        raise Refusal(f"{var.source} is used elsewhere too, and cannot be rescaled")
    return var.source


def has_gain(held: Bindings, op: Normalise) -> bool:
    """Tell whether a norm has a gain of its own."""
    try:
        return bool(_gain(held, op))
    except Refusal:
        return False


def _gain(held: Bindings, op: Normalise) -> str:
    """Return the parameter that everything behind a norm is multiplied by."""
    value = op.ins[1] if len(op.ins) == 2 else None
    readers = [o for o in held.tape.ops if op.outs[0] in o.ins]
    if len(op.ins) == 1 and len(readers) == 1 and isinstance(readers[0], Map) and readers[0].fn == "mul":
        value = next((v for v in readers[0].ins if v is not op.outs[0]), None)
    while value is not None and sum(o.ins.count(value) for o in held.tape.ops) == 1:
        if value.source is not None:
            return value.source
        by = value.op
        value = by.ins[0] if isinstance(by, Map) and by.fn == "linear" and not by.const and len(by.ins) == 1 else None
    raise Refusal(f"{op.node} normalises a parameter over it, and has no gain of its own to take the factor that new "
                  "positions leave")
