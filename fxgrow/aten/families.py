"""Families of ATen ops by name: what each promises of its results. Rules and proofs ask here rather than list names.

What lives here: properties of ops. What does not: what follows from them for axes, contents, ranges or FLOPs.
"""
from math import inf

from fxgrow.layers import by_mode

JOIN = by_mode.__name__  # no ATen op: the name under which analyses keep the value of a `by_mode` node

# Make a tensor from sizes: what fills it. What is in an empty one before it is written may be taken for zeros.
CREATED = {"zeros": "zeros", "new_zeros": "zeros", "empty": "zeros", "new_empty": "zeros", "ones": "equal",
           "full": "equal", "new_ones": "equal", "new_full": "equal"}
# Fill a tensor of another one's shape, or that tensor itself.
FILLED = {"zeros_like": "zeros", "empty_like": "zeros", "zero": "zeros", "ones_like": "equal", "full_like": "equal",
          "fill": "equal"}
# Read at most the shape of their input.
SHAPE_ONLY = {*CREATED, *FILLED, "new_empty_strided"}
# Take sizes as numbers, all of which change with the size of an axis.
SIZED = {*CREATED, "view", "_unsafe_view", "expand", "repeat", "split", "split_with_sizes", "unsafe_split", "as_strided",
         "as_strided_", "unsafe_split_with_sizes", "native_layer_norm", "native_group_norm", "_fused_rms_norm",
         "new_empty_strided"} - {"full", "new_full"}

# Views in which each dimension of the base is itself, a part of itself, or gone.
DIMENSION_VIEWS = {"slice", "select", "unsqueeze", "squeeze", "transpose", "permute", "t", "alias", "split",
                   "split_with_sizes", "unbind", "narrow"}
# Move numbers, or give the same ones.
REARRANGED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze",
              "slice", "select", "split", "split_with_sizes", "unbind", "roll", "flip", "clone", "alias", "detach",
              "lift_fresh", "contiguous", "expand", "unfold"}
# Give the same numbers in the same shape, perhaps in another type.
COPIES = ("_to_copy", "alias", "clone")

# f(x + y) = f(x) + f(y), the other operands (a number, a mask) left alone.
LINEAR = ("add", "sub", "rsub", "neg", "clone", "_to_copy", "alias", "lift_fresh", "contiguous", "copy", "lift", "positive",
          "real", "masked_fill", "where", "complex", "_conj", "_conj_physical", "conj_physical", "_neg_view", "resolve_conj")
# f(-x) = -f(x), hence f(0) = 0.
ODD = ("tanh", "erf", "sin", "sign", "hardshrink", "softshrink", "asinh", "atan", "sgn", "trunc", "round", "sinh", "tan")
# f(0) = 0, for some arguments at least (clamp and pow: it depends on their numbers).
ZERO_AT_ZERO = ("relu", "gelu", "silu", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish", "abs", "sqrt", "relu6",
                "square", "_prelu_kernel", "prelu", "expm1", "log1p", "rrelu_with_noise", "floor", "ceil", "hardtanh",
                "clamp", "pow", "nan_to_num")
# Equal inputs give equal results; nothing else is known.
OTHER_POINTWISE = (
    "sigmoid", "hardsigmoid", "exp", "log", "rsqrt", "reciprocal", "softplus", "log_sigmoid_forward", "logit", "cos",
    "maximum", "minimum", "eq", "ne", "gt", "lt", "ge", "le", "logical_and", "logical_or", "logical_not", "threshold",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "logical_xor", "isnan", "isinf", "remainder", "fmod",
    "floor_divide", "clamp_min", "clamp_max", "atan2", "log2", "log10", "exp2", "erfc", "acos", "acosh", "cosh",
    "asin", "atanh", "erfinv", "addcdiv", "addcmul", "lerp", "fmin", "fmax", "xlogy", "hypot", "copysign", "logaddexp",
    "float_power", "polar", "angle")
# Keep numbers between two bounds, and leave those between them alone.
CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
# Bounds of the result, whatever the input.
RANGES = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "_softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "abs": (0.0, inf),
          "square": (0.0, inf), "exp": (0.0, inf), "softplus": (0.0, inf), "sqrt": (0.0, inf)}
# f(a x) = a^p f(x) for a > 0, by p (None: the op's second argument).
POWERS = {"rsqrt": -0.5, "sqrt": 0.5, "square": 2, "reciprocal": -1, "pow": None}

# Each number of the result is a weighted sum, or the maximum, of numbers of one channel (or a zero at the border).
POOLED = {"mean", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
          "adaptive_avg_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_nearest2d",
          "upsample_bilinear2d", "upsample_bicubic2d", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
# f(a x, y) = f(x, a y) = a f(x, y).
BILINEAR = ("mul", "bmm", "mm", "matmul", "dot", "mv", "_grouped_mm")
# Sum over products with a weight: the positions of weight and bias among the arguments.
CONTRACTIONS = {"convolution": (1, 2), "addmm": (2, 0), "mm": (1, None), "linear": (1, 2)}
# Normalise: the positions of weight, bias, running mean and eps among the arguments.
NORMS = {"native_batch_norm": (1, 2, 3, 7), "native_layer_norm": (2, 3, None, 4), "native_group_norm": (1, 2, None, 7),
         "_fused_rms_norm": (2, None, None, 3)}

# Give zeros where they are given zeros alone.
ZERO_PRESERVING = {*REARRANGED, *POOLED, *ODD, *ZERO_AT_ZERO, "native_dropout", "neg", "_to_copy", "index", "index_select",
                   "gather"}
# f(a x) = a f(x) for a > 0, of all tensors given together.
HOMOGENEOUS = {*REARRANGED, *POOLED, "cat", "stack", "neg", "native_dropout", "_to_copy", "relu", "leaky_relu", "index",
               "index_select", "where", JOIN, "prelu", "_prelu_kernel", "amax", "amin", "abs", "copy", "empty_like"}
# Only move, create or reinterpret numbers: no arithmetic.
FREE = {*SHAPE_ONLY, *REARRANGED, *"""
    chunk narrow lift_fresh_copy as_strided diagonal view_as_real view_as_complex real imag copy _to_copy to cat stack
    repeat constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle embedding index index_select gather take
    masked_select index_put _index_put_impl scatter masked_fill where empty_strided scalar_tensor arange linspace eye
    rand randn randint randperm rand_like randn_like bernoulli uniform normal tril triu tril_indices triu_indices nonzero
    _local_scalar_dense item upsample_nearest1d upsample_nearest2d upsample_nearest3d im2col alias_copy _unsafe_index
    split_copy unsafe_split unsafe_split_with_sizes select_scatter slice_scatter one_hot resize set is_same_size sym_size
    sym_numel sym_stride unsqueeze_copy expand_copy permute_copy
    """.split()}
