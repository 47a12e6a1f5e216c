"""Which start makes a block compute the identity: a walk back from its output, over the ATen ops of a captured graph.

The output is to be the block's input. An addition asks one operand to be the input and the others to be zero, a
rearrangement asks what it rearranges, an activation that leaves the input's range alone asks its argument; a product asks
one factor to be zero, a norm that its weight and bias are, a convolution or matrix product the same of its parameters, or
(R2R) that its inputs come in pairs. What is asked of parameters is the start; a demand that no op can pass on is the
reason why there is none. Nothing here touches numbers.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow._analysis import _place, path_of, prefixes, run_meta
from fxgrow._capture import meta_twin
from fxgrow._memory import effects
from fxgrow._shapes import Watching, compute
from fxgrow.layers import by_mode
from fxgrow.rules.elementwise import ODD, ZERO_AT_ZERO

INF = math.inf
Range = tuple[float, float]
REARRANGED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze",
              "slice", "select", "split", "split_with_sizes", "unbind", "roll", "flip", "clone", "alias", "detach",
              "lift_fresh", "contiguous", "expand", "unfold"}
SUMMED = {"mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
          "adaptive_avg_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_nearest2d",
          "upsample_bilinear2d", "upsample_bicubic2d", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
CONTRACTIONS = {"convolution": (1, 2), "addmm": (2, 0), "mm": (1, None), "linear": (1, 2)}  # where weight and bias stand
NORMS = {"native_batch_norm": (1, 2, 3, 7), "native_layer_norm": (2, 3, None, 4), "native_group_norm": (1, 2, None, 7),
         "_fused_rms_norm": (2, None, None, 3)}  # weight, bias, running mean, eps
KEEPING = {*REARRANGED, *SUMMED, *ODD, *ZERO_AT_ZERO, "native_dropout", "neg", "_to_copy"}  # f(0) = 0


class NoIdentity(Exception):
    """There is no start; the message says which op is in the way."""


@dataclass(eq=False)
class Val:
    """What one ATen op gave: the op, where in the model it is, and what it was given (of tensors, their Vals)."""
    tensor: Tensor
    name: str = ""
    place: str = ""
    func: Any = None
    args: tuple = ()
    ins: list[Val] = field(default_factory=list)
    of: list[Val | None] = field(default_factory=list)  # for each positional argument that is one tensor, its Val
    at: int = 0  # which of several results
    alpha: Any = 1  # of a sum: the factor on its second operand
    source: str | None = None
    param_only: bool = False
    range: Range = (-INF, INF)

    def arg(self, position: int, default=None):
        return self.args[position] if len(self.args) > position else default


class Trace(Watching):
    """Runs a captured graph on meta tensors and keeps, for every node, what its value is made of."""

    def __init__(self, gm: GraphModule, ranges: dict[str, Range] | None = None):
        super().__init__()
        self.known: dict[int, Val] = {}
        self.memory: dict[int, list[int]] = {}  # storage: the tensors that look at it
        self.alive: list[Tensor] = []
        self.values: dict[str, Any] = {}  # node name: its value on meta tensors
        self.reads: dict[tuple[str, str], Val] = {}  # (node, an input of it): the input when the node ran
        self.gives: dict[str, Val] = {}  # node name: its value when it ran
        self.below: dict[str, list[Node]] = {}  # every path: the nodes that call, read or are code of what is below it
        self.made: dict[str, list[Val]] = {}  # node name: the results of the ATen ops in it, in order
        self.inside: list[Val] = []
        self.place = ""
        twin = meta_twin(gm).eval()
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            self._keep(tensor, Val(tensor, source=name, param_only=True))

        def before(node: Node) -> None:
            self.place, self.inside = _place(node), self.made.setdefault(node.name, [])
            for path in prefixes(path_of(node)) if node.op not in ("placeholder", "output") else ():
                self.below.setdefault(path, []).append(node)
            for given in node.all_input_nodes:
                if isinstance(tensor := self.values.get(given.name), Tensor):
                    self.reads[node.name, given.name] = self.val(tensor)

        def visit(node: Node, value, env: dict) -> None:
            if node.target is by_mode and isinstance(value, Tensor):
                train = env.get(node.args[1], node.args[1]) if isinstance(node.args[1], Node) else node.args[1]
                if isinstance(train, Tensor):
                    ins = [self.val(train), self.val(value)]
                    value = env[node] = torch.empty_like(value)
                    self._keep(value, Val(value, "by_mode", self.place, ins=ins, range=_union(ins)))
            self.values[node.name] = value
            if isinstance(value, Tensor):
                if node.op == "placeholder":
                    self._keep(value, Val(value, "input", range=(ranges or {}).get(node.name, (-INF, INF))))
                self.gives[node.name] = self.val(value)

        with self:
            run_meta(gm, visit, before, twin)

    def val(self, tensor: Tensor) -> Val:
        """What a tensor is now."""
        found = self.known.get(id(tensor))
        return found if found is not None else self._keep(tensor, Val(tensor, "unknown", self.place))

    def _keep(self, tensor: Tensor, val: Val) -> Val:
        if id(tensor) not in self.known:
            self.alive.append(tensor)
            self.memory.setdefault(tensor.untyped_storage()._cdata, []).append(id(tensor))
        self.known[id(tensor)] = val
        return val

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        of = [self.val(a) if isinstance(a, Tensor) else None for a in args]
        ins = [v for v in of if v is not None]
        ins += [self.val(t) for a in (*args, *kwargs.values()) if isinstance(a, (list, tuple)) for t in a
                if isinstance(t, Tensor)]
        ins += [self.val(t) for t in kwargs.values() if isinstance(t, Tensor)]
        out = compute(func, args, kwargs)
        name, _, written = effects(func)
        for w in written:
            target = kwargs.get(w) if isinstance(w, str) else args[w]
            if isinstance(target, Tensor):
                for other in self.memory.get(target.untyped_storage()._cdata, ()):
                    if other != id(target):
                        self.known[other] = Val(target, "written through another view", self.place)
        name = name.rstrip("_") if written else name
        for at, tensor in enumerate(out if isinstance(out, (tuple, list)) else (out,)):
            if isinstance(tensor, Tensor):
                params = bool(ins) and all(v.param_only for v in ins)
                self.inside.append(self._keep(tensor, Val(tensor, name, self.place, func, args, ins, of, at, kwargs.get(
                    "alpha", 1), param_only=params, range=_range(name, args, kwargs, ins))))
        return out


# --- ranges ---------------------------------------------------------------------------------------------------------


def _union(vals: Iterable[Val]) -> Range:
    ranges = [v.range for v in vals]
    return min((r[0] for r in ranges), default=-INF), max((r[1] for r in ranges), default=INF)


def _bounds(name: str, args: tuple, kwargs: dict) -> Range:
    """Of a clamping op, the interval that it clamps to."""
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else INF
    low, high = (kwargs.get(k, args[i] if len(args) > i else d) for k, i, d in (
        ("min_val" if name == "hardtanh" else "min", 1, -1.0 if name == "hardtanh" else None),
        ("max_val" if name == "hardtanh" else "max", 2, 1.0 if name == "hardtanh" else None)))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return INF, -INF
    return -INF if low is None else float(low), INF if high is None else float(high)


CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
ABOVE = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "_softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "abs": (0.0, INF),
         "square": (0.0, INF), "exp": (0.0, INF), "softplus": (0.0, INF), "sqrt": (0.0, INF)}


def _range(name: str, args: tuple, kwargs: dict, ins: list[Val]) -> Range:
    """An interval that holds every number of the result (sound; whole line where nothing is known)."""
    if name in ABOVE:
        return ABOVE[name]
    if not ins:
        return -INF, INF
    low, high = ins[0].range
    if name in CLAMPS:
        least, most = _bounds(name, args, kwargs)
        return (max(low, least), min(max(high, least), most)) if least <= most else (-INF, INF)
    if name in REARRANGED or name in ("cat", "stack"):
        return _union(ins)
    if name in SUMMED and name != "sum" or name == "native_dropout":
        zero = 0.0 if name != "constant_pad_nd" else float(args[2]) if len(args) > 2 else 0.0
        return min(low, zero), max(high, zero)
    if name == "add" and len(ins) == 2 and kwargs.get("alpha", 1) == 1:
        return low + ins[1].range[0], high + ins[1].range[1]
    if name == "mul" and len(ins) == 2 and low >= 0 and ins[1].range[0] >= 0:
        return 0.0, INF
    return -INF, INF


def leaves_alone(v: Val, x: Range) -> bool:
    """Whether an activation gives back every number of the interval `x`."""
    if v.name in CLAMPS:
        least, most = _bounds(v.name, v.args, {})
        return least <= x[0] and x[1] <= most
    if v.name in ("leaky_relu", "prelu", "_prelu_kernel", "abs", "rrelu_with_noise"):
        return x[0] >= 0
    if v.name in ("elu", "celu"):
        return x[0] >= 0 and v.arg(2, 1) in (1, 1.0) and v.name == "elu" or v.name == "celu" and x[0] >= 0
    return False


# --- demands --------------------------------------------------------------------------------------------------------


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
            NoIdentity: with the op that is in the way.
        """
        self._carriers: dict[Val, bool] = {}
        start = Start()
        labels = self._same(out, start)
        if labels is not None and not (labels.shape == self.x.tensor.shape and torch.equal(labels, self._labels())):
            raise NoIdentity(f"{out.place} gives the positions of its input in another order")
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
            passes = v.name in REARRANGED or v.name in ("add", "by_mode", "constant_pad_nd") or \
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
        return _in_the_way(next((f for f in blocking if f.name not in CONTRACTIONS), blocking[0] if blocking else v))

    def _labels(self) -> Tensor:
        """A number for each position of x."""
        return torch.arange(self.x.tensor.numel()).view(self.x.tensor.shape)

    def _same(self, v: Val, start: Start) -> Tensor | None:
        """Asks `v` to hold x's numbers, rearranged; gives for each of them its position in x (None: they are as in x)."""
        if v is self.x:
            return None
        if not self._carries(v):
            raise NoIdentity(self._obstacle(v))
        if v.name == "by_mode":
            both = [self._same(i, start) for i in v.ins]
            if not torch.equal(*(self._labels() if b is None else b for b in both)):
                raise NoIdentity(f"{v.place} differs between train and eval mode")
            return both[0]
        if v.name == "add":
            if len(v.ins) != 2 or v.alpha != 1 and not self._carries(v.ins[0]):
                raise NoIdentity(_in_the_way(v))
            skip, branch = v.ins if self._carries(v.ins[0]) else reversed(v.ins)
            if self._carries(branch):
                raise NoIdentity(f"{v.place} adds its input to itself")
            labels = self._same(skip, start)
            if (self.x.tensor if labels is None else labels).shape != v.tensor.shape:
                raise NoIdentity(f"{v.place} adds values of another shape to its input")
            self._zero(branch, start)
            return labels
        labels = self._same(v.ins[0], start)
        if v.name in REARRANGED or v.name == "constant_pad_nd":
            return _rearrange(v, self._labels() if labels is None else labels)
        if self._normalises(v):
            weight, bias = layer_norm(v)  # type: ignore[misc]
            start.ones.add(weight)
            start.zeros.add(bias)
        return labels  # an activation that leaves x's range alone

    def _zero(self, v: Val, start: Start) -> None:
        """Asks `v` to be zero everywhere."""
        if v.source is not None:
            if not self.own(v.source):
                raise NoIdentity(f"{v.source} is used elsewhere too, and cannot be zero")
            start.zeros.add(v.source)
        elif v.param_only and len(v.ins) == 1 and v.name in REARRANGED:
            self._zero(v.ins[0], start)
        elif v.name in CONTRACTIONS:
            self._zero_product(v, start)
        elif v.name in NORMS and v.at == 0:
            self._zero_norm(v, start)
        elif v.name in ("mul", "bmm", "baddbmm", "div") or v.name.startswith("_scaled_dot_product"):
            self._one_of(v, v.ins[:1] if v.name == "div" else v.ins[2:3] if "dot_product" in v.name else v.ins, start)
        elif v.name in ("add", "sub", "cat", "stack", "by_mode", "where") and _only_tensors(v):
            for each in v.ins[v.name == "where":]:
                self._zero(each, start)
        elif _keeps_zero(v) and _dead(v):
            raise NoIdentity(f"{v.place} has no slope at zero, so a {v.name} of zeros would never learn")
        elif v.name in KEEPING and _keeps_zero(v):
            if v.name == "constant_pad_nd" and v.arg(2, 0) != 0:
                raise NoIdentity(_in_the_way(v))
            self._zero(v.ins[0], start)
        else:
            raise NoIdentity(_in_the_way(v))

    def _zero_product(self, v: Val, start: Start) -> None:
        weight, bias = (None if i is None or len(v.of) <= i else v.of[i] for i in CONTRACTIONS[v.name])
        if weight is None or not weight.param_only:
            return self._one_of(v, [i for i in v.ins if i is not bias], start)
        if bias is not None:
            self._zero(bias, start)
        name = _plain_source(weight)
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
        scale = _plain_source(weights) if weights is not None else None
        if self.paired is None and scale is not None and self.own(scale):
            start.zeros.add(scale)
            start.paths.append(f"the weight of {v.place} starts at zero")
            return
        deeper = Start()
        try:
            self._zero(v.ins[0], deeper)
            if means is not None and means.source is not None:
                deeper.zeros.add(means.source)
        except NoIdentity:
            deeper = Start()
        if deeper.pairs or scale is None or not self.own(scale):
            if not deeper.zeros and not deeper.pairs:
                raise NoIdentity(f"{v.place} has no weight of its own that could be zero")
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
            except NoIdentity as why:
                reasons.append(str(why))
                continue
            return start.take(attempt)
        raise NoIdentity(reasons[0] if reasons else _in_the_way(v))


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
        NoIdentity: it cannot be one; the reason.
    """
    layer, v = Layer(), out
    while v is not x:
        if v.name in REARRANGED or leaves_alone(v, x.range):
            v = v.ins[0]
        elif v.name == "native_batch_norm" and v.at == 0 and v.of[4] is not None and not layer.units:
            names = [None if each is None else _plain_source(each) for each in v.of[1:5]]
            layer.slopes.append((names[0], names[3] or "", float(v.arg(7))))
            layer.zeros += [n for n in names[1:3] if n]
            v = v.ins[0]
        elif v.name in CONTRACTIONS and not layer.units:
            weight, bias = (None if i is None or len(v.of) <= i else v.of[i] for i in CONTRACTIONS[v.name])
            name = None if weight is None else _plain_source(weight)
            given = next(i for i in v.ins if i is not weight and i is not bias)
            if name is None or v.name == "convolution" and not _keeps_places(v):
                raise NoIdentity(_in_the_way(v))
            layer.units.append(name)
            layer.zeros += [bias.source] if bias is not None and bias.source else []
            v = given
        else:
            raise NoIdentity(_in_the_way(v))
    if not layer.units or out.tensor.shape != x.tensor.shape:
        raise NoIdentity(f"{out.place} is no layer that gives what it is given")
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
    weight, bias = (_plain_source(v.of[i]) for i in (2, 3))  # type: ignore[arg-type]
    return None if weight is None or bias is None else (weight, bias)


def _in_the_way(v: Val) -> str:
    return f"{v.name.strip('_') or 'a value'} at {v.place or 'its input'} is in the way"


def _plain_source(v: Val) -> str | None:
    """The parameter that a value is a plain view of."""
    while v.source is None and v.param_only and len(v.ins) == 1 and v.name in REARRANGED:
        v = v.ins[0]
    return v.source


def _only_tensors(v: Val) -> bool:
    """No plain number is added (and nothing is scaled differently: zero stays zero)."""
    return v.name not in ("add", "sub") or len(v.ins) == 2 or v.arg(1) == 0


def _keeps_zero(v: Val) -> bool:
    """f(0) = 0 for the arguments at hand."""
    if v.name in CLAMPS:
        least, most = _bounds(v.name, v.args, {})
        return least <= 0 <= most
    return v.name != "pow" or isinstance(v.arg(1), (int, float)) and v.arg(1) > 0


def _dead(v: Val) -> bool:
    """The slope of an activation at zero is zero, or there is none."""
    return v.name in CLAMPS and 0 in _bounds(v.name, v.args, {}) or v.name in ("abs", "square", "sqrt") or \
        v.name == "pow" and v.arg(1) != 1


def _rearrange(v: Val, labels: Tensor) -> Tensor:
    """The op, done to labels."""
    if v.name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        return labels.reshape(v.tensor.shape)
    if v.name in ("clone", "alias", "detach", "lift_fresh", "contiguous"):
        return labels
    if v.name == "constant_pad_nd":
        return torch.nn.functional.pad(labels, list(v.args[1]), value=-1)
    out = v.func(labels, *v.args[1:])
    return out[v.at] if isinstance(out, (tuple, list)) else out
