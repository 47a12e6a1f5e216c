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
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fxgrow.aten import CONTRACTIONS, JOIN, NORMS, REARRANGED, ZERO_PRESERVING
from fxgrow.common import Refusal
from fxgrow.identity.layers import layer_norm
from fxgrow.identity.values import Val, in_the_way, is_dead, keeps_zero, leaves_alone

GROUPED = "_grouped_mm"  # rows of each expert times its weight
SINGULAR = ("rsqrt", "sqrt", "reciprocal", "log", "_weight_norm_interface", "_weight_norm")  # or their slope is, at zero
SPREADS = ("linalg_vector_norm", "norm", "var", "std", "amax", "max")  # zero of zeros
SUMS = ("add", "sub", "cat", "stack", JOIN, "where")  # zero where all that they take is zero


@dataclass
class Start:
    """Demands on the parameters of a block by which it computes the identity.

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
        """Ask for what `other` asks for, too."""
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

    def __post_init__(self) -> None:
        self._carriers = {self.x: True}  # whether the input comes to a value
        self._divisors: set[Val] = set()  # of parameters, in what is to be zero: what must not be

    def identity(self, out: Val) -> Start:
        """Return the start by which `out` is `x`, or raise a Refusal that names the op in the way."""
        start = Start()
        self._asked = {self.x: self._labels}  # of each value that is to hold the input's numbers, their positions
        labels = self._same(out, start)
        if labels is not self._labels and not torch.equal(labels, self._labels):
            raise Refusal(f"{out.place} gives the positions of its input in another order")
        return start

    def zero(self, out: Val) -> Start:
        """Return the start by which `out` is zero everywhere."""
        start = Start()
        self._zero(out, start)
        return start

    @cached_property
    def _labels(self) -> Tensor:
        """A number for each position of x."""
        return torch.arange(self.x.tensor.numel()).view(self.x.tensor.shape)

    def _carries(self, v: Val) -> bool:
        """Return whether the input comes here by rearrangements, sums and activations alone."""
        waiting = [v]
        while waiting:
            op = waiting.pop()
            ins = op.ins if op not in self._carriers and self._is_behind(op) and self._passes(op) else []
            unknown = [i for i in ins if i not in self._carriers]
            if unknown and not any(self._carriers.get(i) for i in ins):
                waiting += [op, unknown[0]]
            else:
                self._carriers.setdefault(op, any(self._carriers.get(i) for i in ins))
        return self._carriers[v]

    def _is_behind(self, v: Val) -> bool:
        """Return whether an op ran after the input was there; all others cannot depend on it."""
        return v.serial > self.x.serial

    def _passes(self, v: Val) -> bool:
        """Return whether an op hands on an input that it is given."""
        return v.name in REARRANGED or v.name in ("add", JOIN, "constant_pad_nd") or leaves_alone(v, self.x.range) or \
            self._normalises(v)

    def _normalises(self, v: Val) -> bool:
        """Return whether `v` is a LayerNorm of the block's own over the last axis, which leaves a normal `x` alone."""
        names = layer_norm(v)
        return self.normal and names is not None and all(map(self.own, names)) and \
            v.tensor.shape[-1:] == self.x.tensor.shape[-1:]

    def _obstacle(self, v: Val) -> str:
        """Say what keeps the input from coming to `v`: the op on the way that is no layer with weights, if there is one."""
        ops, queue = {v: None}, [v]
        for later in queue:
            for op in later.ins:
                if op not in ops and op.ins and not op.param_only and self._is_behind(op):
                    ops[op] = None
                    queue += [op] if op.name not in CONTRACTIONS else []
        blocking = [op for op in ops if op.name not in REARRANGED and op.name != "add" and any(map(self._carries, op.ins))]
        return in_the_way(next((op for op in blocking if op.name not in CONTRACTIONS), blocking[0] if blocking else v))

    def _same(self, v: Val, start: Start) -> Tensor:
        """Ask `v` to hold x's numbers, rearranged; return for each of them its position in x."""
        way: list[tuple[Val, list[Val]]] = []  # back to x, or to what is asked already: each op, and its other operands
        while v not in self._asked:
            if not self._carries(v):
                raise Refusal(self._obstacle(v))
            carrier, *others = self._skip_and_branch(v) if v.name == "add" else v.ins
            way.append((v, others))
            v = carrier
        for op, others in reversed(way):
            self._asked[op] = self._through(op, others, self._asked[v], start)
            v = op
        return self._asked[v]

    def _through(self, v: Val, others: list[Val], labels: Tensor, start: Start) -> Tensor:
        """Ask an op to hand on x's numbers, which its operand beside the others holds; return their positions behind it."""
        if v.name == "add":
            if labels.shape != v.tensor.shape:
                raise Refusal(f"{v.place} adds values of another shape to its input")
            self._zero(others[0], start)
        elif v.name == JOIN and not torch.equal(labels, self._same(others[0], start)):
            raise Refusal(f"{v.place} differs between train and eval mode")
        elif v.name in REARRANGED or v.name == "constant_pad_nd":
            return _rearranged(v, labels)
        elif self._normalises(v):
            weight, bias = layer_norm(v)  # type: ignore[misc]
            start.ones.add(weight)
            start.zeros.add(bias)
        return labels  # an activation that leaves x's range alone

    def _skip_and_branch(self, v: Val) -> list[Val]:
        """Return the operand of a sum that is to hold x's numbers, and the one that is to be zero."""
        if len(v.ins) != 2 or (v.alpha != 1 and not self._carries(v.ins[0])):
            raise Refusal(in_the_way(v))
        skip, branch = v.ins if self._carries(v.ins[0]) else v.ins[::-1]
        if self._carries(branch):
            raise Refusal(f"{v.place} adds its input to itself")
        return [skip, branch]

    def _zero(self, v: Val, start: Start) -> None:
        """Ask `v` to be zero everywhere."""
        if v.param_only:
            self._divisors |= _divisors(v)
        if v.source is not None:
            self._zero_parameter(v.source, start)
        elif v.name in CONTRACTIONS:
            self._zero_product(v, start)
        elif v.name == "baddbmm":
            self._zero(v.ins[0], start)
            self._zero_factor(v, v.ins[1:], start)
        elif v.name in NORMS and v.at == 0:
            self._zero_norm(v, start)
        elif v.name == GROUPED and v.ins[1].param_only:
            self._zero(v.ins[1], start)
            start.paths.append(f"{v.place} starts at zero")
        elif factors := _factors(v):
            self._zero_factor(v, factors, start)
        else:
            for operand in _zero_together(v):
                self._zero(operand, start)

    def _zero_parameter(self, name: str, start: Start) -> None:
        if not self.own(name):
            raise Refusal(f"{name} is used elsewhere too, and cannot be zero")
        if any(_vanishes(divisor, start.zeros | {name}) for divisor in self._divisors):
            raise Refusal(f"{name} is divided by its own length or spread, and cannot be zero")
        start.zeros.add(name)

    def _zero_product(self, v: Val, start: Start) -> None:
        weight, bias = map(v.operand, CONTRACTIONS[v.name])
        if bias is not None:
            self._zero(bias, start)
        if weight is None or not weight.param_only:
            self._zero_factor(v, [i for i in v.ins if i is not bias], start)
            return
        name = v.parameter(CONTRACTIONS[v.name][0])
        if name and self.own(name) and self.paired is not None and self.paired(name):
            start.pairs.add(name)
            start.paths.append(f"{v.place} takes pairs with opposite signs")
        else:
            self._zero(weight, start)
            start.paths.append(f"{v.place} starts at zero")

    def _zero_norm(self, v: Val, start: Start) -> None:
        """Ask a norm to give zeros: by its weight, or in R2R by its input if that can come in pairs."""
        weight, *positions, eps = NORMS[v.name]
        bias, mean = map(v.operand, positions)
        if bias is not None:
            self._zero(bias, start)
        scale = v.parameter(weight)
        owned = scale is not None and self.own(scale)
        deeper = Start()
        if not owned or self.paired is not None:
            with suppress(Refusal):
                deeper = self.zero(v.ins[0])
                deeper.zeros.update([mean.source] if mean is not None and mean.source is not None else [])
        if scale is not None and owned and not deeper.pairs:
            start.zeros.add(scale)
            start.paths.append(f"the weight of {v.place} starts at zero")
            return
        if not deeper.zeros and not deeper.pairs:
            raise Refusal(f"{v.place} has no weight of its own that could be zero")
        if scale is not None:  # its slope at variance zero is weight / sqrt(eps): one
            start.slopes[scale] = math.sqrt(float(v.arg(eps) or torch.finfo(v.tensor.dtype).eps))
        start.take(deeper)

    def _zero_factor(self, v: Val, factors: list[Val], start: Start) -> None:
        """Ask one factor to be zero: what is computed from data before a parameter."""
        reasons = []
        for factor in sorted(factors, key=lambda f: f.param_only):
            try:
                start.take(self.zero(factor))
                return
            except Refusal as why:
                reasons.append(str(why))
        raise Refusal(reasons[0] if reasons else in_the_way(v))


def _factors(v: Val) -> list[Val]:
    """Return the operands of which a single one that is zero makes a product zero; none of other ops."""
    if v.name.startswith("_scaled_dot_product"):
        return v.ins[2:3]  # the values that attention weighs
    if v.name == "div":
        return v.ins[:1]
    if v.name in ("_weight_norm_interface", "_weight_norm"):
        return v.ins[1:]  # the length, not what it is divided by
    return v.ins if v.name in ("mul", "bmm") else []


def _divisors(v: Val) -> set[Val]:
    """Return what must not be zero in the computing of a value from parameters, for it and its slopes to be finite."""
    found, seen, waiting = set(), {v}, [v]
    for op in waiting:
        if op.name == "div":
            found.update(op.ins[1:])
        elif op.name in SINGULAR or (op.name == "pow" and not isinstance(op.arg(1), Tensor) and float(op.arg(1)) < 1):
            found.update(op.ins[:1])
        new = [i for i in op.ins if i not in seen]
        seen.update(new)
        waiting += new
    return found


def _vanishes(v: Val, zeros: set[str]) -> bool:
    """Tell whether a value that is made of parameters is zero where these are."""
    if v.source is not None or not v.ins:
        return v.source in zeros
    if factors := _factors(v):
        return any(_vanishes(f, zeros) for f in factors)
    if v.name in SPREADS:
        return _vanishes(v.ins[0], zeros)
    try:
        return all(_vanishes(i, zeros) for i in _zero_together(v, dead=True))
    except Refusal:
        return False


def _zero_together(v: Val, dead: bool = False) -> list[Val]:
    """Return the operands that must all be zero for the result to be; a refusal if that isn't enough.

    dead: whether the result may have no slope there.
    """
    shifts = v.name in ("add", "sub") and len(v.ins) != 2 and v.arg(1) != 0  # by a plain number
    if v.name in SUMS and not shifts:
        return v.ins[1:] if v.name == "where" else v.ins
    if keeps_zero(v) and is_dead(v) and not dead:
        raise Refusal(f"{v.place} has no slope at zero, so a {v.name} of zeros would never learn")
    if v.name not in ZERO_PRESERVING or not keeps_zero(v):
        raise Refusal(in_the_way(v))
    return v.ins[:1]


def _rearranged(v: Val, labels: Tensor) -> Tensor:
    """Return what a rearranging op makes of labels."""
    if v.name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        return labels.reshape(v.tensor.shape)
    if v.name in ("clone", "alias", "detach", "lift_fresh", "contiguous"):
        return labels
    if v.name == "constant_pad_nd":
        return torch.nn.functional.pad(labels, list(v.args[1]), value=-1)
    out = v.func(labels, *v.args[1:])
    return out[v.at] if isinstance(out, (tuple, list)) else out
