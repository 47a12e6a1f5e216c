"""Axis analysis: which positions of which tensors must exist together.

What lives here: axis expressions, the tape that watches ATen ops, and their rules (`rules/`, registered by `rule`). What
does not: what new positions contain (contents).
"""
from fxgrow.axis.algebra import cut, same, unify, view
from fxgrow.axis.analysis import analyse
from fxgrow.axis.axis_classes import AxisClass, classes, growable, source_of
from fxgrow.axis.expressions import (
    LOOKUP,
    OUTPUT,
    Atom,
    Fixed,
    Prod,
    Sizes,
    Sum,
    atoms,
    concat,
    is_fixed,
    product,
    resolve,
    size_of,
)
from fxgrow.axis.rules.elementwise import broadcast, pointwise
from fxgrow.axis.standardise import rows_of, view_groups
from fxgrow.axis.tape import Tape, rule
from fxgrow.axis.tape import rule as axis_rule
from fxgrow.axis.values import Contract, Fold, Map, Near, Normalise, Op, Reduce, Value

__all__ = ["Atom", "AxisClass", "Contract", "Fixed", "Fold", "LOOKUP", "Map", "Near", "Normalise", "OUTPUT", "Op", "Prod",
           "Reduce", "Sizes", "Sum", "Tape", "Value", "analyse", "atoms", "axis_rule", "broadcast", "classes", "concat",
           "cut", "growable", "is_fixed", "pointwise", "product", "resolve", "rows_of", "rule", "same", "size_of",
           "source_of", "unify", "view", "view_groups"]
