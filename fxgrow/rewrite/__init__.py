"""Rewriting of layers, arguments and tensors to grown sizes.

What lives here: how a growth that was certified is carried out. What does not: whether it is exact (contents).
"""
from fxgrow.rewrite.folds import with_folds
from fxgrow.rewrite.growth import Drawn, Extend, Growth, New
from fxgrow.rewrite.rewriting import record_of, rewrite
from fxgrow.rewrite.tensors import grow_tensor, grow_tensors

__all__ = ["Drawn", "Extend", "Growth", "New", "grow_tensor", "grow_tensors", "record_of", "rewrite", "with_folds"]
