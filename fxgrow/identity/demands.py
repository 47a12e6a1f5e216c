"""Which start makes a block compute the identity: a walk back from its output, over the ATen ops of a captured graph.

The output is to be the block's input. An addition asks one operand to be the input and the others to be zero, a
rearrangement asks what it rearranges, an activation that leaves the input's range alone asks its argument; a product asks
one factor to be zero, a norm that its weight and bias are, a convolution or matrix product the same of its parameters, or
(R2R) that its inputs come in pairs. What is asked of parameters is the start; a demand that no op can pass on is the
reason why there is none. Nothing here touches numbers.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxgrow.aten import CONTRACTIONS, JOIN, NORMS, REARRANGED, ZERO_PRESERVING
from fxgrow.common import Refusal
from fxgrow.identity.layers import layer_norm
from fxgrow.identity.ranges import leaves_alone
from fxgrow.identity.reading import in_the_way, is_dead, keeps_zero, only_tensors, plain_source, rearranged
from fxgrow.identity.values import Val


@dataclass
class Start:
    """What the parameters of a block must be for it to compute the identity.

    zeros: parameters (and running means) that are zero. slopes: norm weights, and the number that each is set to.
    ones: weights of norms that normalise what is normal already. pairs: weights whose inputs come in pairs with opposite
    signs. paths: what was decided, in words.
    """
    zeros: set[str] = field(default_factory=set)
    slopes: dict[str, float] = field(default_factory=dict)
    ones: set[str] = field(default_factory=set)
    pairs: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)

    def take(self, other: Start) -> None:
        self.zeros |= other.zeros
        self.slopes |= other.slopes
        self.ones |= other.ones
        self.pairs |= other.pairs
        self.paths += [p for p in other.paths if p not in self.paths]


@dataclass
class Demand:
    """The walk back through a block from its output to its input `x`.

    own: whether a parameter belongs to the block (others are in use elsewhere and stay as they are).
    paired: says whether the inputs of a weight may come in pairs (R2R); None: zeros are asked for instead.
    normal: `x` comes out of a LayerNorm without weight and bias, so that another one gives it back (but for eps).
    """
    x: Val
    own: Callable[[str], bool]
    paired: Callable[[str], bool] | None = None
    normal: bool = False

    def identity(self, out: Val) -> Start:
        """The start by which `out` is `x`.

        Raises:
            Refusal: with the op that is in the way.
        """
        self._carriers: dict[Val, bool] = {}
        start = Start()
        labels = self._same(out, start)
        if labels is not None and not (labels.shape == self.x.tensor.shape and torch.equal(labels, self._labels())):
            raise Refusal(f"{out.place} gives the positions of its input in another order")
        return start

    def zero(self, out: Val) -> Start:
        """The start by which `out` is zero everywhere."""
        start = Start()
        self._zero(out, start)
        return start

    def _carries(self, v: Val) -> bool:
        """Whether the input comes here by rearrangements, sums and activations alone."""
        if v is self.x:
            return True
        if v not in self._carriers:
            passes = v.name in REARRANGED or v.name in ("add", JOIN, "constant_pad_nd") or \
                leaves_alone(v, self.x.range) or self._normalises(v)
            self._carriers[v] = passes and any(self._carries(i) for i in v.ins)
        return self._carriers[v]

    def _normalises(self, v: Val) -> bool:
        """Whether `v` is a LayerNorm of the block's own over the last axis, which leaves a normal `x` alone."""
        names = layer_norm(v)
        return self.normal and names is not None and all(map(self.own, names)) and \
            v.tensor.shape[-1:] == self.x.tensor.shape[-1:]

    def _obstacle(self, v: Val) -> str:
        """What keeps the input from coming to `v`: the op on the way that is no layer with weights, if there is one."""
        found, queue, seen = [v], [v], {v}
        while queue:
            for each in queue.pop(0).ins:
                if each not in seen and each.ins and not each.param_only:
                    seen.add(each)
                    found.append(each)
                    queue += [each] * (each.name not in CONTRACTIONS)
        blocking = [f for f in found if f.name not in REARRANGED and f.name != "add" and any(map(self._carries, f.ins))]
        return in_the_way(next((f for f in blocking if f.name not in CONTRACTIONS), blocking[0] if blocking else v))

    def _labels(self) -> Tensor:
        """A number for each position of x."""
        return torch.arange(self.x.tensor.numel()).view(self.x.tensor.shape)

    def _same(self, v: Val, start: Start) -> Tensor | None:
        """Asks `v` to hold x's numbers, rearranged; gives for each of them its position in x (None: they are as in x)."""
        if v is self.x:
            return None
        if not self._carries(v):
            raise Refusal(self._obstacle(v))
        if v.name == JOIN:
            both = [self._same(i, start) for i in v.ins]
            if not torch.equal(*(self._labels() if b is None else b for b in both)):
                raise Refusal(f"{v.place} differs between train and eval mode")
            return both[0]
        if v.name == "add":
            if len(v.ins) != 2 or v.alpha != 1 and not self._carries(v.ins[0]):
                raise Refusal(in_the_way(v))
            skip, branch = v.ins if self._carries(v.ins[0]) else reversed(v.ins)
            if self._carries(branch):
                raise Refusal(f"{v.place} adds its input to itself")
            labels = self._same(skip, start)
            if (self.x.tensor if labels is None else labels).shape != v.tensor.shape:
                raise Refusal(f"{v.place} adds values of another shape to its input")
            self._zero(branch, start)
            return labels
        labels = self._same(v.ins[0], start)
        if v.name in REARRANGED or v.name == "constant_pad_nd":
            return rearranged(v, self._labels() if labels is None else labels)
        if self._normalises(v):
            weight, bias = layer_norm(v)  # type: ignore[misc]
            start.ones.add(weight)
            start.zeros.add(bias)
        return labels  # an activation that leaves x's range alone

    def _zero(self, v: Val, start: Start) -> None:
        """Asks `v` to be zero everywhere."""
        if v.source is not None:
            if not self.own(v.source):
                raise Refusal(f"{v.source} is used elsewhere too, and cannot be zero")
            start.zeros.add(v.source)
        elif v.param_only and len(v.ins) == 1 and v.name in REARRANGED:
            self._zero(v.ins[0], start)
        elif v.name in CONTRACTIONS:
            self._zero_product(v, start)
        elif v.name in NORMS and v.at == 0:
            self._zero_norm(v, start)
        elif v.name in ("mul", "bmm", "baddbmm", "div") or v.name.startswith("_scaled_dot_product"):
            self._one_of(v, v.ins[:1] if v.name == "div" else v.ins[2:3] if "dot_product" in v.name else v.ins, start)
        elif v.name in ("add", "sub", "cat", "stack", JOIN, "where") and only_tensors(v):
            for each in v.ins[v.name == "where":]:
                self._zero(each, start)
        elif keeps_zero(v) and is_dead(v):
            raise Refusal(f"{v.place} has no slope at zero, so a {v.name} of zeros would never learn")
        elif v.name in ZERO_PRESERVING and keeps_zero(v):
            if v.name == "constant_pad_nd" and v.arg(2, 0) != 0:
                raise Refusal(in_the_way(v))
            self._zero(v.ins[0], start)
        else:
            raise Refusal(in_the_way(v))

    def _zero_product(self, v: Val, start: Start) -> None:
        weight, bias = (None if i is None or len(v.of) <= i else v.of[i] for i in CONTRACTIONS[v.name])
        if weight is None or not weight.param_only:
            return self._one_of(v, [i for i in v.ins if i is not bias], start)
        if bias is not None:
            self._zero(bias, start)
        name = plain_source(weight)
        if name and self.own(name) and self.paired is not None and self.paired(name):
            start.pairs.add(name)
            start.paths.append(f"{v.place} takes pairs with opposite signs")
        else:
            self._zero(weight, start)
            start.paths.append(f"{v.place} starts at zero")

    def _zero_norm(self, v: Val, start: Start) -> None:
        weight, bias, mean, at = NORMS[v.name]
        weights, biases, means = (None if i is None or len(v.of) <= i else v.of[i] for i in (weight, bias, mean))
        if biases is not None:
            self._zero(biases, start)
        scale = plain_source(weights) if weights is not None else None
        if self.paired is None and scale is not None and self.own(scale):
            start.zeros.add(scale)
            start.paths.append(f"the weight of {v.place} starts at zero")
            return
        deeper = Start()
        try:
            self._zero(v.ins[0], deeper)
            if means is not None and means.source is not None:
                deeper.zeros.add(means.source)
        except Refusal:
            deeper = Start()
        if deeper.pairs or scale is None or not self.own(scale):
            if not deeper.zeros and not deeper.pairs:
                raise Refusal(f"{v.place} has no weight of its own that could be zero")
            if scale is not None:  # its slope at variance zero is weight / sqrt(eps): one
                start.slopes[scale] = math.sqrt(float(v.arg(at) or torch.finfo(v.tensor.dtype).eps))
            start.take(deeper)
        else:
            start.zeros.add(scale)
            start.paths.append(f"the weight of {v.place} starts at zero")

    def _one_of(self, v: Val, candidates: list[Val], start: Start) -> None:
        """Asks one factor to be zero: what is computed from data before a parameter."""
        reasons = []
        for factor in sorted(candidates, key=lambda f: f.param_only):
            attempt = Start()
            try:
                self._zero(factor, attempt)
            except Refusal as why:
                reasons.append(str(why))
                continue
            return start.take(attempt)
        raise Refusal(reasons[0] if reasons else in_the_way(v))
