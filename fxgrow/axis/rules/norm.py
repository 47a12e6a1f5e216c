"""Normalisations: batch (per channel), layer, group and root mean square (over channels)."""
from torch import Tensor

from fxgrow.aten import tensors_in
from fxgrow.axis.tape import rule
from fxgrow.axis.values import Normalise, Value


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm", "batch_norm")
def batch_norm(tape, name, args, kwargs, out):
    """Normalise `x [N, C, ...]` with weight, bias, running mean and variance `[C]`: each channel on its own."""
    x, *stats = map(tape.of, tensors_in(args[:5]))
    for s in stats:
        tape.unify(x.axes[1], s.axes[0], "batch norm")
    result, dmaps = tensors_in((out,))[0], [{i: i for i in range(len(x.axes))}] + [{0: 1}] * len(stats)
    if x.param_only and not any(isinstance(a, Tensor) for a in args[2:5]):  # rows of a parameter, with a gain perhaps
        tape.record(Normalise, "standardise", [x, *stats], [tape.set(result, x.axes)], how="layer", dmaps=dmaps,
                    reduced=[(0, i, a) for i, a in enumerate(x.axes) if i != 1])
        return
    tape.freeze_all((*x.axes[:1], *x.axes[2:]), "batch statistics are taken over it")
    tape.map("batch_norm", [x, *stats], result, x.axes, dmaps, "any")


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(tape, name, args, kwargs, out):
    """Normalise over the last dimensions: `x [*, *normalized]`, weight and bias `[*normalized]`."""
    x, width = tape.of(args[0]), len(args[1])
    affine = [tape.of(t) for t in tensors_in(args[2:4])]
    start = len(x.axes) - width
    for w in affine:
        for i, axis in enumerate(w.axes):
            tape.unify(x.axes[start + i], axis, name)
    value = tape.set(tensors_in((out,))[0], x.axes)
    tape.record(Normalise, name, [x, *affine], [value], how="rms" if "rms" in name else "layer",
                dmaps=[{i: i for i in range(len(x.axes))}] + [{i: start + i for i in range(width)}] * len(affine),
                reduced=[(0, i, x.axes[i]) for i in range(start, len(x.axes))])


@rule("native_group_norm", "group_norm")
def group_norm(tape, name, args, kwargs, out):
    """Normalise `x [N, C, ...]`, weight and bias `[C]`, with statistics over each of `groups` equal parts of C."""
    x = tape.of(args[0])
    affine, groups = [tape.of(t) for t in tensors_in(args[1:3])], args[6]
    outer, inner = tape.view([x.axes[1]], [groups, x.axes[1].size // groups], "the groups")
    for w in affine:
        tape.unify(x.axes[1], w.axes[0], name)
    value = tape.set(out[0], x.axes)
    tape.record(Normalise, name, [x, *affine], [value], how="layer",
                dmaps=[{i: i for i in range(len(x.axes))}] + [{0: 1}] * len(affine),
                reduced=[(0, 1, inner), *((0, i, x.axes[i]) for i in range(2, len(x.axes)))], groups=outer)


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(tape, name, args, kwargs, out):
    """Compute `g v / |v|`, the norm over all dimensions of v but one: new positions of these must be zero to keep it."""
    v, g = tape.of(args[0]), tape.of(args[1])
    kept = (args[2] if len(args) > 2 else 0) % len(v.axes)
    if g.axes[kept].size > 1:
        tape.unify(v.axes[kept], g.axes[kept], name)
    same = {i: i for i in range(len(v.axes))}
    unit = Value(v.axes)
    tape.record(Normalise, "weight norm", [v], [unit], how="unit", dmaps=[same],
                reduced=[(0, i, a) for i, a in enumerate(v.axes) if i != kept])
    tape.map(name, [unit, g], tensors_in((out,))[0], v.axes, [same, {kept: kept}], "mul")
