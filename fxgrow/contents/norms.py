"""Proofs for norms over a class: copies keep the statistics, averages and zeros change them by a known factor."""
from fxgrow.axis import Normalise, Value, atoms
from fxgrow.common import Refusal
from fxgrow.contents.bindings import Bindings, Norm, Power
from fxgrow.contents.kinds import AVERAGE, COPY, FREE, ZERO, ByPart, Content, Tag, Var
from fxgrow.contents.rows import behind_norm, has_gain


def normalised(held: Bindings, op: Normalise, dim: int, axis) -> Tag:
    """Return the content behind a norm over the class, and settle those of its weight and bias.

    Raises:
        Refusal: the statistics would change in a way that no weight makes up for.
    """
    x, *affine = op.ins
    tag = held.tag(x, dim)
    along = [d for v, dmap in zip(affine, op.dmaps[1:]) for d in held.dims(v) if dmap is None or dmap.get(d) == dim]
    if isinstance(tag, Var) and not along and not (op.how == "unit" and held.base == COPY and not has_gain(held, op)):
        return behind_norm(held, op, tag)
    if isinstance(tag, Var):  # latents that are learned, rows without a gain that may all be copied
        tag = held.bind(tag)
    if op.how == "unit" and tag == ZERO:
        return ZERO
    if tag == COPY and held.is_covered(axis):  # copies of every position, equally many of each, keep mean and variance
        held.out.uniform = op.node
        for parameter in affine:
            held.bind_all(parameter, COPY)
        if op.how == "unit":  # the length grows by the root of how many copies there are
            held.powers.update(dict.fromkeys(op.outs, Power(-0.5)))
        return COPY
    if not held.exact:
        for parameter in affine:
            held.bind_all(parameter, FREE)
        return FREE
    if tag != (AVERAGE if op.how == "layer" else ZERO):
        raise Refusal(f"{op.node} normalises over it")
    return _rescaled(held, op, axis, affine)


def refuse_division_by_zero(held: Bindings, op: Normalise) -> None:
    """Refuse new positions of zeros that a weight norm takes the norm of, each by itself."""
    if op.name != "weight norm":
        return
    for dim in set(held.dims(op.ins[0])) - {d for _, d, _ in op.reduced}:
        tag = held.tag(op.ins[0], dim)
        if tag == ZERO or (isinstance(tag, ByPart) and ZERO in tag.contents):
            raise Refusal(f"{op.node} divides by the norm of each position, and new ones would be zero")


def _rescaled(held: Bindings, op: Normalise, axis, affine: list[Value]) -> Content:
    """Prove that weight * sqrt(n/m) and eps * n/m undo what averages (zeros) do to the statistics of n positions."""
    held_here = [a for _, _, a in op.reduced if held.atom in atoms(a)]
    larger = [a for _, _, a in op.reduced if a.size > 1]
    if not held.is_alone(axis) or len(held_here) > 1 or len(larger) != 1:
        raise Refusal(f"{op.node} normalises over it together with other axes")
    if not affine:
        raise Refusal(f"{op.node} normalises over it and has no weight to rescale")
    weight, *biases = affine
    if weight.source is None:
        raise Refusal(f"the weight of {op.node} is computed")
    if not held.dims(weight):
        raise Refusal(f"the weight of {op.node} has other positions, and cannot rescale these")
    for other in held.tape.ops_of[held.atom]:
        if weight in other.ins and not (isinstance(other, Normalise) and held.atom in other.reduced_atoms()):
            raise Refusal(f"the weight of {op.node} is used elsewhere too, and cannot be rescaled")
    held.bind_all(weight, FREE)
    for bias in biases:
        held.bind_all(bias, ZERO)
    held.out.norms.append(Norm(op, weight.source))
    return ZERO
