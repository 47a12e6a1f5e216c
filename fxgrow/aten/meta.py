"""Shapes of common ATen ops on meta tensors, without the slow decompositions behind torch's own meta kernels.

Capture, analysis and the check of a rewritten graph each run the model once on meta tensors. A shortcut gives the same
shape, type and layout as the op, or None where it is not sure: then the op itself runs, and raises what it raises.
"""
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import tree_map  # noqa: PLC2701
from torch.utils.weak import WeakTensorKeyDictionary

from fxgrow.aten.counts import COUNTED
from fxgrow.aten.schema import effects, tensors_in

aten = torch.ops.aten


def _like(x: Tensor) -> Tensor:
    """Do as `torch.empty_like`, whose meta kernel is a hundred times slower."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _new(x: Tensor, shape) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _pointwise(args, kwargs) -> Tensor | None:
    x, y = args[0], args[1] if len(args) > 1 else None
    if not (isinstance(x, Tensor) and x.is_meta and x.is_floating_point()):
        return None
    if not isinstance(y, Tensor):
        return None if isinstance(y, complex) else _together(x)
    return _together(x, y) if y.dtype is x.dtype and y.is_meta else None


def _where(args, kwargs) -> Tensor | None:
    condition, x, y = args
    return _together(condition, x, y, of=x) if x.dtype is y.dtype and condition.is_meta and x.is_meta and y.is_meta else None


def _together(*operands: Tensor, of: Tensor | None = None) -> Tensor | None:
    """Return what a pointwise op makes of tensors that are broadcast together, with the type of one of them."""
    first, like = operands[0].shape, operands[0] if of is None else of
    if all(t.shape == first and t.is_contiguous() for t in operands):
        return _new(like, first)
    found = _laid_out(tuple((tuple(t.shape), t.stride()) for t in operands))
    return found and torch.empty_strided(*found, dtype=like.dtype, device="meta")


@functools.lru_cache(4096)
def _laid_out(operands: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> tuple[list[int], list[int]] | None:
    """Return shape and strides of what a pointwise op gives for operands of these, None where they do not fit together.

    Its dimensions lie in the order of the strides of the first operand that tells any two of them apart (TensorIterator).
    """
    ndim = max(len(shape) for shape, _ in operands)
    shapes = [(1,) * (ndim - len(shape)) + shape for shape, _ in operands]
    out = [next((s for s in sizes if s != 1), 1) for sizes in zip(*shapes)]
    if any(s not in (1, o) for shape in shapes for s, o in zip(shape, out)):
        return None
    strides = [[0 if s == 1 != o else stride for s, o, stride in zip(shape, out, (0,) * (ndim - len(given)) + given)]
               for shape, (_, given) in zip(shapes, operands)]

    def swapped(inner: int, outer: int) -> int:
        for stride in strides:
            a, b = stride[inner], stride[outer]
            if a and b and (a != b or out[inner] > out[outer]):
                return 1 if a >= b else -1
        return 0

    order = list(range(ndim))[::-1]
    for i in range(1, ndim):
        at = i
        for j in reversed(range(i)):
            sign = swapped(order[j], order[at])
            if sign < 0:
                break
            if sign > 0:
                order[j], order[at], at = order[at], order[j], j
    result, step = [0] * ndim, 1
    for dim in order:
        result[dim], step = step, step * max(out[dim], 1)
    return out, result


def _in_place(args, kwargs) -> Tensor | None:
    out = _pointwise(args, kwargs)
    return args[0] if out is not None and out.shape == args[0].shape else None


def _alike(args, kwargs) -> Tensor | None:
    return _like(args[0]) if args[0].is_meta else None


def _empty_like(args, kwargs) -> Tensor | None:
    return _like(args[0]) if args[0].is_meta and args[0].is_contiguous() and not any(kwargs.values()) else None


def _addmm(args, kwargs) -> Tensor | None:
    bias, a, b = args[:3]
    fits = bias.is_meta and a.shape[1] == b.shape[0] and bias.shape == b.shape[1:]
    return _new(a, (a.shape[0], b.shape[1])) if fits else None


def _mm(args, kwargs) -> Tensor | None:
    a, b = args
    fits = a.is_meta and b.is_meta and a.dtype is b.dtype and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]
    return _new(a, (a.shape[0], b.shape[1])) if fits else None


def _bmm(args, kwargs) -> Tensor | None:
    a, b = args
    fits = a.is_meta and b.is_meta and a.dtype is b.dtype and a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]
    return _new(a, (*a.shape[:2], b.shape[2])) if fits and a.shape[2] == b.shape[1] else None


def _clone(args, kwargs) -> Tensor | None:
    x = args[0]
    plain = kwargs.get("memory_format") is torch.contiguous_format or (not kwargs and x.is_contiguous())
    return _new(x, x.shape) if x.is_meta and plain else None


def _scalar_tensor(args, kwargs) -> Tensor | None:
    dtype, device = kwargs.get("dtype"), kwargs.get("device")
    return torch.empty((), dtype=dtype, device=device) if dtype and device is not None and device.type == "meta" else None


def _grouped_mm(args, kwargs) -> Tensor | None:
    a, b = args[:2]
    fits = a.is_meta and b.is_meta and a.ndim == 2 and b.ndim == 3 and a.shape[1] == b.shape[1]
    if any(max(t.stride()[-2:]) * t.element_size() % 16 for t in (a, b)):  # as its kernels ask
        raise RuntimeError(f"its rows take a multiple of 16 bytes, {a.dtype} of {a.shape[-1]} and {b.shape[-1]} do not")
    return _new(a, (a.shape[0], b.shape[2])) if fits else None


def _unsafe_view(args, kwargs) -> Tensor | None:
    x, shape = args
    return _new(x, shape) if x.is_meta and min(shape, default=0) > 0 and math.prod(shape) == x.numel() else None


def _batch_norm(args, kwargs) -> tuple | None:
    x, *vectors = args[:5]
    channels = x.shape[1:2]
    if not x.is_meta or {v.shape for v in vectors if v is not None} - {channels}:
        return None
    kept = channels[0] if args[5] else 0  # the statistics of the batch, for the backward pass
    return _like(x), _new(x, kept), _new(x, kept)


def _layer_norm(args, kwargs) -> tuple | None:
    x, shape, *affine = args[:4]
    if not x.is_meta or any(tuple(w.shape) != tuple(shape) for w in affine if w is not None) or \
            tuple(x.shape[x.ndim - len(shape):]) != tuple(shape):
        return None
    kept = [*x.shape[:x.ndim - len(shape)], *[1] * len(shape)]  # means and deviations, for the backward pass
    return _new(x, x.shape), _new(x, kept), _new(x, kept)


def _convolution(args, kwargs) -> Tensor | None:
    x, w, bias, stride, padding, dilation, transposed, _, groups = args
    if transposed and x.ndim == w.ndim and x.shape[1] != w.shape[0]:  # which torch's own run on meta tensors lets pass
        raise RuntimeError(f"a transposed convolution of {w.shape[0]} channels is given {x.shape[1]}")
    if transposed or not x.is_meta or x.ndim != w.ndim or not x.is_contiguous() or x.shape[1] != w.shape[1] * groups or \
            w.shape[0] % groups or (bias is not None and bias.shape != w.shape[:1]):
        return None
    each = [v * (x.ndim - 2) if len(v) == 1 else v for v in (stride, padding, dilation)]
    space = [(s + 2 * p - d * (k - 1) - 1) // st + 1 for s, k, st, p, d in zip(x.shape[2:], w.shape[2:], *each)]
    return _new(x, [x.shape[0], w.shape[0], *space]) if min(space) > 0 else None


def _mean(args, kwargs) -> Tensor | None:
    x, dims = args[0], args[1] if len(args) > 1 else None
    if not x.is_meta or not dims or kwargs:
        return None
    gone = {d % x.ndim for d in dims}
    keep = len(args) > 2 and args[2]
    return _new(x, [1 if i in gone else s for i, s in enumerate(x.shape) if keep or i not in gone])


def _cat(args, kwargs) -> Tensor | None:
    first, *rest = args[0]
    dim = args[1] if len(args) > 1 else 0
    if not all(t.is_meta and t.dtype is first.dtype and t.ndim == first.ndim for t in args[0]) or first.ndim == 0 or kwargs:
        return None
    if first.ndim in (4, 5) and not any(t.stride(1) > t.stride(-1) for t in args[0]):
        return None  # the channels may come last in the result
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in args[0])
    fits = all(t.shape[i] == s for t in rest for i, s in enumerate(shape) if i != dim % first.ndim)
    return _new(first, shape) if fits else None


_LEAST = WeakTensorKeyDictionary()  # the least numbers of tensors, and what tells whether one is next to zero, as keys


def _min(args, kwargs) -> Tensor | None:
    if not args[0].is_meta:
        return None
    _LEAST[out := _new(args[0], ())] = True
    return out


def _less(args, kwargs) -> Tensor | None:
    if args[0] not in _LEAST or not 0 < args[1] <= 1e-11:
        return None
    _LEAST[out := torch.empty((), dtype=torch.bool, device="meta")] = True
    return out


def _equal(args, kwargs) -> bool | None:
    """Let the sums of its windows be nowhere zero, of which `istft` makes sure: where there are data, it does."""
    return False if args[0].dtype is torch.bool and args[0] in _LEAST else None


SHORTCUTS: dict[object, Callable] = {
    **COUNTED,
    aten.min.default: _min, aten.lt.Scalar: _less, aten.equal.default: _equal,
    aten.convolution.default: _convolution, aten.addmm.default: _addmm, aten.mm.default: _mm,
    aten.bmm.default: _bmm, aten.clone.default: _clone, aten.scalar_tensor.default: _scalar_tensor,
    aten._unsafe_view.default: _unsafe_view, aten.where.self: _where,
    aten.native_batch_norm.default: _batch_norm, aten.native_layer_norm.default: _layer_norm,
    aten.mean.dim: _mean, aten.cat.default: _cat, aten._softmax.default: _alike, aten._safe_softmax.default: _alike,
    aten.roll.default: _alike, aten.empty_like.default: _empty_like,
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.rsqrt.default,
                     aten.pow.Tensor_Scalar, aten.mul.Scalar, aten._prelu_kernel.default), _pointwise),
    **dict.fromkeys((aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor, aten.div_.Scalar,
                     aten.bernoulli_.float), _in_place),
}
if hasattr(aten, "_grouped_mm"):
    SHORTCUTS[aten._grouped_mm.default] = _grouped_mm
for _name in ("relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "mish",
              "neg", "exp", "clamp"):
    for _suffix, _rule in (("", _pointwise), ("_", _in_place)):
        if hasattr(aten, _name + _suffix):
            SHORTCUTS[getattr(aten, _name + _suffix).default] = _rule


def compute(func, args, kwargs):
    """Return `func(*args, **kwargs)` of an ATen op, by a shortcut where there is one."""
    shortcut = SHORTCUTS.get(func)
    out = None if shortcut is None else shortcut(args, kwargs)
    try:
        return func(*args, **kwargs) if out is None else out
    except RuntimeError:  # perhaps since code made a tensor without saying on which device
        if not _is_mixed(func, args, kwargs):
            raise
        args, kwargs = tree_map(lambda v: v.to("meta") if isinstance(v, Tensor) else v, (args, kwargs))
        return func(*args, **kwargs)


def _is_mixed(func, args, kwargs) -> bool:
    """Tell whether an op is given tensors with data beside some without, and writes to none of these with data."""
    kinds = {t.is_meta for t in tensors_in((*args, *kwargs.values()))}
    written = [kwargs.get(w) if isinstance(w, str) else args[w] for w in effects(func)[2]]
    return len(kinds) == 2 and all(t.is_meta for t in tensors_in(written))


class Watching(TorchDispatchMode):
    """See ATen ops on meta tensors; nothing in this mode is ever compiled, which costs half the time to guard."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Shapes(Watching):
    """Give meta tensors their shapes by shortcuts."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Make tensors of plain numbers (`torch.tensor(n, device=x.device)`) off the meta device first: an op then sees them.

    Zeros, to which others may be written, are on it wherever the code has them.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.zeros, torch.empty):
            return func(*args, **{**kwargs, "device": "meta"})
        if func is Tensor.new_tensor and not any(isinstance(a, Tensor) for a in args[1:]):
            func, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
        if func not in (torch.tensor, torch.as_tensor, torch.asarray):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        return func(*args, **kwargs).to(device)
