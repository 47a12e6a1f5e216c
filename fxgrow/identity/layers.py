"""Layers that can be set to the identity: linear ones, convolutions and norms."""
from __future__ import annotations

from dataclasses import dataclass, field

from fxgrow.aten import CONTRACTIONS, REARRANGED
from fxgrow.common import Refusal
from fxgrow.identity.ranges import leaves_alone
from fxgrow.identity.reading import in_the_way, plain_source
from fxgrow.identity.values import Val


@dataclass
class Layer:
    """What the tensors of a layer, its norm and its activation must be for them to give back what they are given.

    units: weights that are an identity kernel. zeros: biases, norm biases and running means. slopes: norm weights that are
    the square root of a running variance (and of eps), or variances themselves where there are none.
    """
    units: list[str] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    slopes: list[tuple[str | None, str, float]] = field(default_factory=list)  # weight, variance, eps


def identity_layer(x: Val, out: Val) -> Layer:
    """The layer between `x` and `out`, as an identity layer (Chen 2015, eq. 4 and section 2.4).

    Raises:
        Refusal: it cannot be one; the reason.
    """
    layer, v = Layer(), out
    while v is not x:
        if v.name in REARRANGED or leaves_alone(v, x.range):
            v = v.ins[0]
        elif v.name == "native_batch_norm" and v.at == 0 and v.of[4] is not None and not layer.units:
            names = [None if each is None else plain_source(each) for each in v.of[1:5]]
            layer.slopes.append((names[0], names[3] or "", float(v.arg(7))))
            layer.zeros += [n for n in names[1:3] if n]
            v = v.ins[0]
        elif v.name in CONTRACTIONS and not layer.units:
            weight, bias = (None if i is None or len(v.of) <= i else v.of[i] for i in CONTRACTIONS[v.name])
            name = None if weight is None else plain_source(weight)
            given = next(i for i in v.ins if i is not weight and i is not bias)
            if name is None or v.name == "convolution" and not _keeps_places(v):
                raise Refusal(in_the_way(v))
            layer.units.append(name)
            layer.zeros += [bias.source] if bias is not None and bias.source else []
            v = given
        else:
            raise Refusal(in_the_way(v))
    if not layer.units or out.tensor.shape != x.tensor.shape:
        raise Refusal(f"{out.place} is no layer that gives what it is given")
    return layer


def _keeps_places(v: Val) -> bool:
    """A convolution whose middle tap sees the position that it gives."""
    weight, (stride, padding, dilation, transposed, _, groups) = v.ins[1].tensor, v.args[3:9]
    taps = weight.shape[2:]
    return not transposed and set(stride) == {1} and all(t % 2 for t in taps) and \
        all(p == d * (t // 2) for p, d, t in zip(padding, dilation, taps)) and weight.shape[0] == weight.shape[1] * groups


def layer_norm(v: Val) -> tuple[str, str] | None:
    """The weight and bias of the LayerNorm over the last axis that gave a value."""
    if v.name != "native_layer_norm" or v.at or len(v.args[1]) != 1 or any(v.of[i] is None for i in (2, 3)):
        return None
    weight, bias = (plain_source(v.of[i]) for i in (2, 3))  # type: ignore[arg-type]
    return None if weight is None or bias is None else (weight, bias)
