"""Families of ATen ops: which ops are linear, odd, products, zero at zero, and what other analyses ask of an op."""
from __future__ import annotations

import math

WHOLE = {"slice", "select", "unsqueeze", "squeeze", "transpose", "permute", "t", "alias", "split", "split_with_sizes",
         "unbind", "narrow"}  # views in which every dimension of the base is itself, a part of itself, or gone


# Tensors made of one number. What is in an empty one before it is written may be taken for zeros.
CREATED = {"zeros": "zeros", "new_zeros": "zeros", "empty": "zeros", "new_empty": "zeros", "ones": "equal",
           "full": "equal", "new_ones": "equal", "new_full": "equal"}
SHAPE_ONLY = {*CREATED, "zero", "fill", "zeros_like", "ones_like", "full_like", "empty_like", "new_empty_strided"}


LINEAR = ("add", "sub", "rsub", "neg", "clone", "_to_copy", "alias", "lift_fresh", "contiguous", "copy", "lift", "positive",
          "real", "masked_fill", "where", "complex", "_conj", "_conj_physical", "conj_physical", "_neg_view", "resolve_conj")
PRODUCT = ("mul",)
QUOTIENT = ("div",)
ODD = ("tanh", "erf", "sin", "sign", "hardshrink", "softshrink", "asinh", "atan", "sgn", "trunc", "round", "sinh", "tan")
ZERO_AT_ZERO = ("relu", "gelu", "silu", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish", "abs", "sqrt", "relu6",
                "square", "_prelu_kernel", "prelu", "expm1", "log1p", "rrelu_with_noise", "floor", "ceil", "hardtanh",
                "clamp", "pow", "nan_to_num")
OTHER = ("sigmoid", "hardsigmoid", "exp", "log", "rsqrt", "reciprocal", "softplus", "log_sigmoid_forward", "logit", "cos",
         "maximum", "minimum", "eq", "ne", "gt", "lt", "ge", "le", "logical_and", "logical_or", "logical_not", "threshold",
         "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "logical_xor", "isnan", "isinf", "remainder", "fmod",
         "floor_divide", "clamp_min", "clamp_max", "atan2", "log2", "log10", "exp2", "erfc", "acos", "acosh", "cosh",
         "asin", "atanh", "erfinv", "addcdiv", "addcmul", "lerp", "fmin", "fmax", "xlogy", "hypot", "copysign", "logaddexp",
         "float_power", "polar", "angle")
CONSTANTS = {"zeros_like": "zeros", "empty_like": "zeros", "zero": "zeros", "ones_like": "equal", "full_like": "equal",
             "fill": "equal"}


INF = math.inf
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


CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
ABOVE = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "_softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "abs": (0.0, INF),
         "square": (0.0, INF), "exp": (0.0, INF), "softplus": (0.0, INF), "sqrt": (0.0, INF)}


HOMOGENEOUS = {*REARRANGED, *SUMMED, "cat", "stack", "neg", "native_dropout", "_to_copy", "relu", "leaky_relu", "index",
               "index_select", "where", "by_mode", "prelu", "_prelu_kernel", "amax", "amin", "abs", "copy", "empty_like"}
POWERS = {"rsqrt": -0.5, "sqrt": 0.5, "square": 2, "reciprocal": -1, "pow": None}
PRODUCTS = ("mul", "bmm", "mm", "matmul", "dot", "mv")
