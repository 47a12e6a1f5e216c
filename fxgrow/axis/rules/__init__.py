"""ATen op rules, one family a file; importing this package registers them all.

What lives here: how each op relates axes. What does not: how rules are registered or run (axis/tape.py).
"""
from fxgrow.axis.rules import contraction, elementwise, norm, pool, reduce, scatter, shape
