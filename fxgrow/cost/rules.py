"""FLOP rules: the cost of each ATen op, forward and backward. One function an op or family, added by `flop_rule`.

Conventions. A multiply-add is two FLOPs. A rule states the definition's cost for dense operands, whatever kernel runs:
products with padding zeros count (as in torch), an attention mask saves nothing, and what a fused kernel computes again in
its backward pass does not count. Adding a bias is free where a product is counted (`matmul`), as in torch.
Rules in the group `all` count each arithmetic operation, comparison and special function (exp, log, sqrt, tanh, erf, sin)
as one FLOP. Operations that only move, create or reinterpret numbers cost nothing. meter.py says which gradients are needed.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from torch import Tensor

from fxgrow.aten import FREE

Gradient = tuple[Any, int]  # a tensor, or several; the FLOPs that are due if (one of) it needs a gradient


@dataclass(frozen=True)
class Flops:
    """Cost of one call of an op.

    forward: FLOPs of the call.
    backward: for each part of the backward pass the tensor that it is the gradient of (or several, if it is needed for the
        gradients of any of them) and its FLOPs. Tensors that need no gradient cost nothing; None may stand for a tensor.
    macs: multiply-adds of the call.
    """
    forward: int
    backward: Sequence[Gradient] = ()
    macs: int = 0


Rule = Callable[[tuple, dict, Any], Flops]
RULES: dict[str, tuple[str, Rule]] = {}
GROUPS = ("matmul", "all")


def flop_rule(*names: str, ops: str = "matmul") -> Callable[[Rule], Rule]:
    """Register a function as the FLOP rule of ATen ops: `rule(args, kwargs, out) -> Flops`.

    Args:
        names: `"mm"` for every overload of `aten.mm` and its in-place form; `"namespace::name"` for other libraries' ops.
        ops: "matmul" if `count_flops` counts it always, "all" if only with `ops="all"`.

    Raises:
        ValueError: `ops` is neither.
    """
    if ops not in GROUPS:
        raise ValueError(f"ops={ops!r}: a FLOP rule belongs to 'matmul' (always counted) or 'all'")

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, (ops, fn)))
        return fn
    return register


def _product(macs: int, *operands) -> Flops:
    """Count a sum of products of two operands: the gradient of each is a sum of as many products."""
    return Flops(2 * macs, [(x, 2 * macs) for x in operands], macs)


@flop_rule("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution", "_slow_conv2d_forward",
           "torchvision::deform_conv2d")
def convolution(args, kwargs, out) -> Flops:
    """Count each weight `[C_out, C_in/groups, k...]` for each position of the output, or of a transposed one's input.

    The interpolation of a deformable convolution's inputs is not counted.
    """
    x, weight = args[:2]
    transposed = len(args) > 6 and args[6] is True
    return _product(x.shape[0] * prod((x if transposed else out).shape[2:]) * prod(weight.shape), x, weight)


@flop_rule("mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")
def matrix_product(args, kwargs, out) -> Flops:
    """Count m*k*n multiply-adds for each `[m, k] x [k, n]`, or m*k for a vector `[k]`; additions to it are not counted."""
    a, b = [x for x in args if isinstance(x, Tensor)][-2:]
    return _product(a.numel() * (b.shape[-1] if b.ndim > 1 else 1), a, b)


@flop_rule("addr", "outer", "ger")
def outer_product(args, kwargs, out) -> Flops:
    """Count one multiply-add for each number of the result."""
    return _product(prod(out.shape), *args[-2:])


@flop_rule("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
           "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
           "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math_for_mps")
def attention(args, kwargs, out) -> Flops:
    """Count the N*H*L*S*(E + V) multiply-adds of `softmax(q k^T) v`, also where a mask hides them.

    Shapes are `q [N, H, L, E]`, `k [N, H_kv, S, E]`, `v [N, H_kv, S, V]`. Backward there are two products for each: the
    gradients of v and of the weights, and from these those of q and k. Scores computed again (N*H*L*S*E) are not counted.
    """
    q, k, v = args[:3]
    scores = prod(q.shape[:-1]) * k.shape[-2]
    first, second = scores * q.shape[-1], scores * v.shape[-1]
    mask = next((a for a in (*args[3:4], kwargs.get("attn_mask"), kwargs.get("attn_bias")) if isinstance(a, Tensor)), None)
    return Flops(2 * (first + second), [(q, 2 * first), (k, 2 * first), (v, 2 * second), ((q, k, mask), 2 * second)],
                 first + second)


@flop_rule("mkldnn_rnn_layer")
def recurrent_layer(args, kwargs, out) -> Flops:
    """Count the matrices `[4H, I]` and `[4H, H]` of an LSTM run eagerly on a CPU for each step and member, not the gates."""
    x, of_input, of_state = args[:3]
    steps = prod(x.shape[:2])  # [T, N]
    first, second = steps * of_input.numel(), steps * of_state.numel()
    start = second // x.shape[0]  # the gradient of the first state
    return Flops(2 * (first + second), [(x, 2 * first), (of_input, 2 * first), (of_state, 2 * second), (args[5], 2 * start),
                                        ((*args[:3], *args[5:7]), 2 * (second - start))], first + second)


NOTHING = Flops(0)
flop_rule(*FREE)(lambda args, kwargs, out: NOTHING)  # moving, creating or reinterpreting numbers

# FLOPs for each element of the result, and backward for each element, for each operand that needs a gradient.
PER_ELEMENT: dict[str, tuple[int, int]] = {
    **dict.fromkeys("add sub rsub neg".split(), (1, 0)),
    **dict.fromkeys("mul relu relu6 leaky_relu threshold hardtanh clamp clamp_min clamp_max maximum minimum abs sign square "
                    "remainder".split(), (1, 1)),
    **dict.fromkeys("floor ceil round trunc eq ne lt le gt ge logical_not logical_and logical_or bitwise_and bitwise_or "
                    "bitwise_not isnan isinf".split(), (1, 0)),
    **dict.fromkeys("div exp log sqrt sin cos reciprocal".split(), (1, 2)),
    **dict.fromkeys("pow rsqrt tanh erf log1p expm1 log2 atan2 floor_divide prelu _prelu_kernel".split(), (1, 3)),
    "sigmoid": (4, 3),  # 1 / (1 + exp(-x)); g s (1 - s)
    "log_sigmoid_forward": (4, 4),
    "silu": (5, 8),  # x sigmoid(x); s (1 + x (1 - s)) g
    "gelu": (5, 9),  # x/2 (1 + erf(x / sqrt 2)); the density and the distribution of a normal variable
    "mish": (6, 12), "softplus": (3, 4), "elu": (3, 3), "celu": (3, 3), "selu": (3, 3),
    "hardswish": (5, 3), "hardsigmoid": (4, 2),
    "addcmul": (3, 2), "addcdiv": (3, 3), "lerp": (3, 1), "native_dropout": (2, 1), "rrelu_with_noise": (1, 1),
}
# The same for each element of the first operand.
PER_INPUT: dict[str, tuple[int, int]] = {
    **dict.fromkeys("sum amax amin max min argmax argmin any all cumsum".split(), (1, 0)),
    **dict.fromkeys("mean nansum".split(), (1, 1)), "prod": (1, 2), "cumprod": (1, 3),
    **dict.fromkeys("var std var_mean std_mean".split(), (4, 3)), "linalg_vector_norm": (2, 2), "norm": (2, 2),
    **dict.fromkeys(("_softmax", "_safe_softmax"), (5, 4)),  # largest, difference, exp, sum, quotient; y (g - sum g y)
    "_log_softmax": (5, 3), "logsumexp": (4, 2), "logcumsumexp": (4, 4),
    "native_layer_norm": (7, 9), "native_group_norm": (7, 9),  # mean, difference, square, sum, scale; weight and bias
    "_fused_rms_norm": (4, 7), "topk": (1, 0), "sort": (1, 0),
    **dict.fromkeys("adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d "
                    "adaptive_max_pool3d".split(), (1, 1)),
}


def per_element(args, kwargs, out, rates: tuple[int, int]) -> Flops:
    """Count FLOPs for each element of the result, at the rates of `PER_ELEMENT`."""
    size = (out if isinstance(out, Tensor) else out[0]).numel()
    return Flops(rates[0] * size, [(x, rates[1] * size) for x in args if isinstance(x, Tensor)])


def per_input(args, kwargs, out, rates: tuple[int, int]) -> Flops:
    """Count FLOPs for each element of the first operand, at the rates of `PER_INPUT`; weights and biases are in them."""
    size = args[0].numel()
    return Flops(rates[0] * size, [(args[0], rates[1] * size)])


for _fn, _table in ((per_element, PER_ELEMENT), (per_input, PER_INPUT)):
    RULES.update({name: ("all", partial(_fn, rates=rates)) for name, rates in _table.items()})


@flop_rule("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", ops="all")
def batch_norm(args, kwargs, out) -> Flops:
    """Count 2 FLOPs an element (scale and shift) with stored statistics, 7 with those of the batch; backward 4 or 9."""
    x, weight, bias = args[:3]
    training = args[5] if len(args) > 5 and isinstance(args[5], bool) else True
    size = x.numel()
    return Flops((7 if training else 2) * size, [(x, (6 if training else 1) * size), ((weight, bias), 3 * size)])


@flop_rule("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", ops="all")
def pool(args, kwargs, out) -> Flops:
    """Count one FLOP for each element in a window; backward for the largest one, or in a mean for all again."""
    x, kernel = args[:2]
    window = prod(kernel) if len(kernel) > 1 else kernel[0] ** max(x.ndim - 2, 1)
    if isinstance(out, Tensor):  # a mean
        return Flops(window * out.numel(), [(x, window * out.numel())])
    return Flops(window * out[0].numel(), [(x, out[0].numel())])


def _upsample(args, kwargs, out, side: int) -> Flops:
    """Count a multiply-add for each of a position's `side` neighbours along each axis: 2 to 8 of linear, 16 of bicubic."""
    flops = 2 * side ** (out.ndim - 2) * out.numel()
    return Flops(flops, [(args[0], flops)])


for _name, _side in {"linear1d": 2, "bilinear2d": 2, "trilinear3d": 2, "bicubic2d": 4}.items():
    RULES[f"upsample_{_name}"] = "all", partial(_upsample, side=_side)
