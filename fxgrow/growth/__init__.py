"""Growth of a model: `transform` applies passes, `Edit` changes a copy and keeps the record.

What lives here: what every pass needs. What does not: any pass (fxgrow.passes) or how tensors are extended (rewrite).
"""
from fxgrow.growth.edit import Edit, Piece, insist_done
from fxgrow.growth.parts import Part, apply, channel_axes, channel_axis, kept, named, outermost, part_of, read_parameter
from fxgrow.growth.transforming import INEXACT, transform

__all__ = ["INEXACT", "Edit", "Part", "Piece", "apply", "channel_axes", "channel_axis", "insist_done", "kept", "named",
           "outermost", "part_of", "read_parameter", "transform"]
