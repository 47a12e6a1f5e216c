"""ATen op rules, one family a file; importing this package registers them all."""
from fxgrow.rules import contraction, elementwise, norm, pool, reduce, shape  # noqa: F401
