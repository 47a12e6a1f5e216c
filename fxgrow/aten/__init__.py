"""ATen ops as torch defines them: their schemas, their families, and results on meta tensors without running them.

What lives here: facts about single ops. What does not: rules that relate axes (axis/rules) or count FLOPs (cost/rules.py).
"""
from fxgrow.aten.families import (
           ABOVE,
           CLAMPS,
           CONSTANTS,
           CONTRACTIONS,
           CREATED,
           HOMOGENEOUS,
           INF,
           KEEPING,
           LINEAR,
           NORMS,
           ODD,
           OTHER,
           POWERS,
           PRODUCT,
           PRODUCTS,
           QUOTIENT,
           REARRANGED,
           SHAPE_ONLY,
           SUMMED,
           WHOLE,
           ZERO_AT_ZERO,
)
from fxgrow.aten.internals import (
           ConvNd,
           TorchDispatchMode,
           find_proxy,
           tree_any,
           tree_flatten,
           tree_leaves,
           tree_map,
           tree_unflatten,
)
from fxgrow.aten.meta import Shapes, Watching, compute
from fxgrow.aten.schema import bound, effects, numbers_in, storage_of, tensors_in

__all__ = ["ABOVE", "CLAMPS", "CONSTANTS", "CONTRACTIONS", "CREATED", "ConvNd", "HOMOGENEOUS", "INF", "KEEPING", "LINEAR",
           "NORMS", "ODD", "OTHER", "POWERS", "PRODUCT", "PRODUCTS", "QUOTIENT", "REARRANGED", "SHAPE_ONLY", "SUMMED",
           "Shapes", "TorchDispatchMode", "WHOLE", "Watching", "ZERO_AT_ZERO", "bound", "compute", "effects", "find_proxy",
           "numbers_in", "storage_of", "tensors_in", "tree_any", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten"]
