"""Growth of a model: `transform` applies passes, `Edit` changes a copy and keeps the record.

What lives here: what every pass needs. What does not: any pass (fxgrow.passes) or how tensors are extended (rewrite).
"""
from fxgrow.growth.edit import Edit
from fxgrow.growth.regions import Region, apply, channel_axes, kept, read_parameter, regions
from fxgrow.growth.transforming import transform

__all__ = ["Edit", "Region", "apply", "channel_axes", "kept", "read_parameter", "regions", "transform"]
