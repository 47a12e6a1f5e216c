"""Support for passes: options, places, sizes, layers that run side by side.

What lives here: what several passes share. What does not: a pass, or a method (passes/methods).
"""
from fxgrow.passes.support.fitting import fitted
from fxgrow.passes.support.layers import activation, conv, stack
from fxgrow.passes.support.options import (
    check_choices,
    default_method,
    insist_known,
    listed,
    rounded,
    seed_of,
    seeded,
    select_classes,
)
from fxgrow.passes.support.parts import called_names, numbered, part_below
from fxgrow.passes.support.perceptrons import Perceptron, find_perceptrons
from fxgrow.passes.support.places import Norms, Place, Places
from fxgrow.passes.support.plain import identity_kernel
from fxgrow.passes.support.routed import Routed, find_routed
from fxgrow.passes.support.split import add, cancel, share_out
from fxgrow.passes.support.stages import Stages
from fxgrow.passes.support.start import Beginning, redraw, start_as_identity

__all__ = ["Beginning", "Norms", "Perceptron", "Place", "Places", "Routed", "Stages", "activation", "add", "called_names",
           "cancel", "check_choices", "conv", "default_method", "find_perceptrons", "find_routed", "fitted",
           "identity_kernel", "insist_known", "listed", "numbered", "part_below", "redraw", "rounded", "seed_of", "seeded",
           "select_classes", "share_out", "stack", "start_as_identity"]
