"""Support for passes: options, places, sizes, layers that run side by side.

What lives here: what several passes share. What does not: a pass, or a method (passes/methods).
"""
from fxgrow.passes.support.layers import activation, conv, stack
from fxgrow.passes.support.options import check_choices, insist_known, listed, seed_of, seeded
from fxgrow.passes.support.parts import called_names, numbered, part_below
from fxgrow.passes.support.places import Place, Places
from fxgrow.passes.support.plain import identity_kernel
from fxgrow.passes.support.selecting import rounded, select_classes
from fxgrow.passes.support.split import add, oppose, share_out
from fxgrow.passes.support.start import redraw, start_as_identity

__all__ = ["Place", "Places", "activation", "add", "called_names", "check_choices", "conv", "identity_kernel",
           "insist_known", "listed", "numbered", "oppose", "part_below", "redraw", "rounded", "seed_of", "seeded",
           "select_classes", "share_out", "stack", "start_as_identity"]
