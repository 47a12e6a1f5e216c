"""Layers that can be set to the identity: linear ones, convolutions and norms."""
from dataclasses import dataclass, field

from fxgrow.aten import CONTRACTIONS, REARRANGED
from fxgrow.common import Refusal
from fxgrow.identity.values import Val, in_the_way, leaves_alone


@dataclass
class Layer:
    """Demands on a layer, its norm and its activation by which they give back what they are given.

    units: weights that are an identity kernel. zeros: biases, norm biases and running means. slopes: norm weights that are
    the square root of a running variance (and of eps), or variances themselves where there are none.
    """
    units: list[str] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    slopes: list[tuple[str | None, str, float]] = field(default_factory=list)  # weight, variance, eps


def identity_layer(x: Val, out: Val) -> Layer:
    """Return the layer from `x` to `out` as an identity layer (Chen 2015, eq. 4 and section 2.4), or raise a Refusal."""
    layer, v = Layer(), out
    while v is not x:
        if v.name in REARRANGED or leaves_alone(v, x.range):
            v = v.ins[0]
        elif v.name == "native_batch_norm" and v.at == 0 and v.of[4] is not None and not layer.units:
            slope, shift, mean, variance = map(v.parameter, range(1, 5))
            layer.slopes.append((slope, variance or "", float(v.arg(7))))
            layer.zeros += filter(None, (shift, mean))
            v = v.ins[0]
        elif v.name in CONTRACTIONS and not layer.units:
            weight, bias = map(v.operand, CONTRACTIONS[v.name])
            name = v.parameter(CONTRACTIONS[v.name][0])
            if not name or (v.name == "convolution" and not _keeps_places(v)):
                raise Refusal(in_the_way(v))
            layer.units.append(name)
            layer.zeros += [bias.source] if bias and bias.source else []
            v = next(i for i in v.ins if i is not weight and i is not bias)
        else:
            raise Refusal(in_the_way(v))
    if not layer.units or out.tensor.shape != x.tensor.shape:
        raise Refusal(f"{out.place} is no layer that gives what it is given")
    return layer


def _keeps_places(v: Val) -> bool:
    """Return whether the middle tap of a convolution sees the position that it gives."""
    weight, (stride, padding, dilation, transposed, _, groups) = v.ins[1].tensor, v.args[3:9]
    taps = weight.shape[2:]
    return not transposed and set(stride) == {1} and all(t % 2 for t in taps) and \
        all(p == d * (t // 2) for p, d, t in zip(padding, dilation, taps)) and weight.shape[0] == weight.shape[1] * groups


def layer_norm(v: Val) -> tuple[str, str] | None:
    """Return the weight and bias of the LayerNorm over the last axis that gave a value."""
    if v.name != "native_layer_norm" or v.at or len(v.args[1]) != 1:
        return None
    weight, bias = map(v.parameter, (2, 3))
    return (weight, bias) if weight and bias else None
