"""ATen ops as torch defines them: their schemas, their families, and results on meta tensors without running them.

What lives here: facts about single ops, and the names that torch marks as internal and that fxgrow cannot do without.
What does not: rules that relate axes (axis/rules) or count FLOPs (cost/rules.py).
"""
# isort: skip_file
from torch.nn.modules.conv import _ConvNd as ConvNd  # noqa: PLC2701
from torch.utils._device import _device_constructors as device_constructors  # noqa: PLC2701
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import tree_any, tree_flatten, tree_leaves, tree_map, tree_unflatten  # noqa: PLC2701

from fxgrow.aten.families import (BILINEAR, CLAMPS, CONTRACTIONS, COPIES, CREATED, DIMENSION_VIEWS, FILLED, FREE,
                                  HOMOGENEOUS, JOIN, LINEAR, NORMS, ODD, OTHER_POINTWISE, POOLED, POWERS, RANGES, REARRANGED,
                                  SHAPE_ONLY, ZERO_AT_ZERO, ZERO_PRESERVING)
from fxgrow.aten.counts import is_mask, noted_counts, other_counts, with_some
from fxgrow.aten.half import HALF, cast, wide, wide_values
from fxgrow.aten.layers import call_layer
from fxgrow.aten.meta import Literals, Shapes, Watching, compute
from fxgrow.aten.schema import Recorded, all_numbers_in, bound, effects, numbers_in, storage_of, tensors_in
from fxgrow.aten.slopes import at_zero

__all__ = ["BILINEAR", "CLAMPS", "CONTRACTIONS", "COPIES", "CREATED", "ConvNd", "DIMENSION_VIEWS", "FILLED", "FREE",
           "HALF", "HOMOGENEOUS", "JOIN", "LINEAR", "Literals", "NORMS", "ODD", "OTHER_POINTWISE", "POOLED", "POWERS",
           "RANGES", "REARRANGED", "Recorded", "SHAPE_ONLY", "Shapes", "TorchDispatchMode", "Watching",
           "ZERO_AT_ZERO", "ZERO_PRESERVING", "all_numbers_in", "at_zero", "bound", "call_layer", "cast", "compute",
           "device_constructors", "effects", "is_mask", "noted_counts", "numbers_in", "other_counts", "storage_of",
           "tensors_in", "tree_any", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten", "wide",
           "wide_values", "with_some"]
