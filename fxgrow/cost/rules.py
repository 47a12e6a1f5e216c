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
from math import log2, prod
from typing import Any

import torch
from torch import Tensor

from fxgrow.aten import DIMENSION_VIEWS, FREE, LINEAR, ODD, OTHER_POINTWISE, POOLED, RANGES, ZERO_AT_ZERO

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

    def times(self, n: int) -> "Flops":
        """Return the cost of n such calls."""
        return Flops(n * self.forward, [(due_to, n * amount) for due_to, amount in self.backward], n * self.macs)


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


def stored(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor keeps: of a sparse one those that are not zero."""
    layout = tensor.layout
    if layout is torch.strided:
        return tensor
    return tensor._values() if layout is torch.sparse_coo else tensor.detach().values()


def _product(macs: int, *operands) -> Flops:
    """Count a sum of products of two operands: the gradient of each is a sum of as many products.

    One of complex numbers is four of real ones.
    """
    macs *= 4 if operands[0].is_complex() else 1
    return Flops(2 * macs, [(x, 2 * macs) for x in operands], macs)


@flop_rule("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution", "mkldnn_convolution",
           "_slow_conv2d_forward")
def convolution(args, kwargs, out) -> Flops:
    """Count each weight `[C_out, C_in/groups, k...]` for each position of the output, or of a transposed one's input."""
    x, weight = args[:2]
    transposed = len(args) > 6 and args[6] is True
    return _product(x.shape[0] * prod((x if transposed else out).shape[2:]) * weight.numel(), x, weight)


@flop_rule("convolution_backward")
def convolution_gradients(args, kwargs, out) -> Flops:
    """Count the gradients that a forward itself asks for: as many products for each, and their own gradients."""
    grad, x, weight = args[:3]
    once = 2 * x.shape[0] * prod((x if args[7] else grad).shape[2:]) * weight.numel()
    of_x, of_weight = (once * bool(w) for w in args[-1][:2])
    return Flops(of_x + of_weight, [(grad, of_x + of_weight), (weight, of_x), (x, of_weight)], (of_x + of_weight) // 2)


@flop_rule("torchvision::deform_conv2d")
def deformed_convolution(args, kwargs, out) -> Flops:
    """Count as for a convolution; offsets and masks take the gradient of what is read. Interpolation is not counted."""
    x, weight, offset, mask = args[:4]
    macs = prod(out.shape[2:]) * x.shape[0] * weight.numel()
    return Flops(2 * macs, [((x, offset, mask), 2 * macs), (weight, 2 * macs)], macs)


@flop_rule("conv_tbc")
def convolution_over_time(args, kwargs, out) -> Flops:
    """Count each weight `[k, C_in, C_out]` for each of the T x B positions of the result."""
    x, weight = args[:2]
    return _product(prod(out.shape[:2]) * weight.numel(), x, weight)


@flop_rule("mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation", "_int_mm",
           "_sparse_addmm", "_sparse_mm_reduce_impl")
def matrix_product(args, kwargs, out) -> Flops:
    """Count m*k*n multiply-adds for each `[m, k] x [k, n]`, or m*k for a vector `[k]`; additions to it are not counted.

    Of a sparse operand those of the numbers that it stores.
    """
    a, b = [x for x in args if isinstance(x, Tensor)][-2:]
    if b.layout is not torch.strided:
        return _product(stored(b).numel() * a.shape[-2], a, b)
    return _product(stored(a).numel() * (b.shape[-1] if b.ndim > 1 else 1), a, b)


@flop_rule("_scaled_mm")
def scaled_product(args, kwargs, out) -> Flops:
    """Count m*k*n multiply-adds of `[m, k] x [k, n]`, in 8 bits with scales."""
    return _product(args[0].numel() * args[1].shape[-1], *args[:2])


@flop_rule("sparse_sampled_addmm")
def sampled_product(args, kwargs, out) -> Flops:
    """Count k multiply-adds for each number that the sparse matrix stores."""
    sparse, a, b = args[:3]
    return _product(stored(sparse).numel() * a.shape[-1], a, b)


@flop_rule("_grouped_mm", "_scaled_grouped_mm")
def grouped_product(args, kwargs, out) -> Flops:
    """Count the products of groups of rows, of columns, or of positions that are summed over: each in one group alone.

    `[m, k] x [G, k, n]`, `[G, m, k] x [k, n]`, or `[m, k] x [k, n]` that gives `[G, m, n]`; if both have groups, G times.
    """
    a, b = args[:2]
    groups = a.shape[0] if a.ndim == b.ndim == 3 else 1
    return _product(groups * a.shape[-2] * a.shape[-1] * b.shape[-1], a, b)


@flop_rule("_euclidean_dist", "_cdist_forward")
def distances(args, kwargs, out) -> Flops:
    """Count a multiply-add for each coordinate of each pair of rows, as torch does them by one matrix product."""
    return _product(out.numel() * args[0].shape[-1], *args[:2])


@flop_rule("_trilinear")
def bilinear(args, kwargs, out) -> Flops:
    """Count `y_o = x1' A_o x2` for `x1 [N, I]`, `A [O, I, J]`, `x2 [N, J]`: N*O*I*J multiply-adds, and N*O*J with x2.

    Backward there are N*O*I*J for x1 and for A each, behind N*O*J for the gradient of their product; and N*O*J for x2.
    """
    x1, weight, x2 = args[:3]
    inner = weight.numel() * x1.shape[0]
    outer = out.numel() * x2.shape[-1]
    return Flops(2 * (inner + outer), [(x1, 2 * inner), (weight, 2 * inner), ((x1, weight), 2 * outer), (x2, 2 * outer)],
                 inner + outer)


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


@flop_rule("_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_flash_attention_for_cpu_backward",
           "_scaled_dot_product_efficient_attention_backward", "_scaled_dot_product_cudnn_attention_backward")
def attention_gradients(args, kwargs, out) -> Flops:
    """Count the four products of the backward pass, where a forward asks for it; they have no gradient of their own."""
    once = attention(args[1:4], {}, out)
    return Flops(2 * once.forward, (), 2 * once.macs)


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
    # Where a forward asks for a gradient, its op costs what it does backward; and twice that if differentiated once more.
    RULES.update({f"{name}_backward{data}": ("all", partial(_fn, rates=(back, 2 * back)))
                  for name, (_, back) in _table.items() for data in ("", "_data")})


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
    return Flops(flops, [(x, flops) for x in args[:2] if isinstance(x, Tensor)])  # of a grid, too


for _name, _side in {"linear1d": 2, "bilinear2d": 2, "trilinear3d": 2, "bicubic2d": 4}.items():
    RULES[f"upsample_{_name}"] = "all", partial(_upsample, side=_side)
for _name in ("grid_sampler_2d", "grid_sampler_3d"):
    RULES[_name] = "all", partial(_upsample, side=2)


@flop_rule("_fft_r2c", "_fft_c2r", "_fft_c2c", ops="all")
def fourier(args, kwargs, out) -> Flops:
    """Count 5 N log2 N for a transform of N complex numbers (Cooley and Tukey 1965), half of it where one side is real."""
    whole = max(args[0], out, key=Tensor.numel)
    size = prod(whole.shape[d] for d in args[1])
    flops = int((5 if args[0].dtype is out.dtype else 2.5) * whole.numel() * log2(max(size, 2)))
    return Flops(flops, [(args[0], flops)])


@flop_rule("index_add", "scatter_add", "scatter_reduce", ops="all")
def scattered(args, kwargs, out) -> Flops:
    """Count an addition (or comparison) for each number that is added to others; its gradient only moves numbers."""
    return Flops(args[3].numel())


# Sort, choose or look up numbers, or work number by number: they have no rule, and hold no product either.
NO_PRODUCTS = {*DIMENSION_VIEWS, *OTHER_POINTWISE, *ODD, *ZERO_AT_ZERO, *POOLED, *LINEAR, *RANGES, *"""
    index_copy index_fill index_reduce masked_scatter bincount histc searchsorted bucketize unique_consecutive _unique2
    unique_dim cummax cummin kthvalue median nanmedian mode msort argsort aminmax isin nll_loss_forward nll_loss2d_forward
    mse_loss smooth_l1_loss huber_loss binary_cross_entropy _pack_padded_sequence record_stream _assert_async
    _assert_scalar _functional_assert_async set_source_Tensor fmod exponential log_normal geometric random multinomial
    bitwise_left_shift bitwise_right_shift bitwise_xor logical_xor isfinite signbit nextafter heaviside frexp
    _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_dense _coalesce _sparse_coo_tensor_with_dims_and_tensors
    _sparse_compressed_tensor_unsafe _values _indices values indices crow_indices col_indices _linalg_check_errors
    torchvision::_cuda_version torchvision::nms torchvision::roi_align torchvision::roi_pool torchvision::ps_roi_align
    """.split()}


def may_multiply(name: str) -> bool:
    """Tell whether an op that is not counted may hold products: it has no rule, and is not known to be without."""
    base = name.removesuffix("_backward")
    return name not in RULES and base not in NO_PRODUCTS and (base == name or RULES.get(base, ("",))[0] != "all")
