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

    def take_norm(self, v: Val) -> Val:
        """Note what the batch norm that gave `v` must be, and return its input."""
        weight, bias, mean, variance = (None if tensor is None else tensor.plain_source for tensor in v.of[1:5])
        self.slopes.append((weight, variance or "", float(v.arg(7))))
        self.zeros += [name for name in (bias, mean) if name]
        return v.ins[0]

    def take_product(self, v: Val) -> Val:
        """Note what the linear layer or convolution that gave `v` must be, and return its input."""
        weight, bias = map(v.operand, CONTRACTIONS[v.name])
        name = None if weight is None else weight.plain_source
        if not name or (v.name == "convolution" and not _keeps_places(v)):
            raise Refusal(in_the_way(v))
        self.units.append(name)
        self.zeros += [bias.source] if bias and bias.source else []
        return next(i for i in v.ins if i is not weight and i is not bias)


def identity_layer(x: Val, out: Val) -> Layer:
    """Return the layer between `x` and `out`, as an identity layer (Chen 2015, eq. 4 and section 2.4).

    Raises:
        Refusal: it cannot be one; the reason.
    """
    layer, v = Layer(), out
    while v is not x:
        if v.name in REARRANGED or leaves_alone(v, x.range):
            v = v.ins[0]
        elif v.name == "native_batch_norm" and v.at == 0 and v.of[4] is not None and not layer.units:
            v = layer.take_norm(v)
        elif v.name in CONTRACTIONS and not layer.units:
            v = layer.take_product(v)
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
    weight, bias = (None if tensor is None else tensor.plain_source for tensor in v.of[2:4])
    return (weight, bias) if weight and bias else None
