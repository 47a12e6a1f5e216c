"""Growth methods: pure functions from old tensors to new positions, one method a file.

A method says which content it wants new positions to have (`BASES`); each content has a function here that gives, for a
tensor and an axis, the old positions as they are to be and the new ones (None: zeros). Which content is exact where is
decided in fxgrow/contents/certify.py, never here.
"""
from fxgrow.passes.methods.average import average
from fxgrow.passes.methods.initial import INITS, Drawing, Draws, Init, deviation
from fxgrow.passes.methods.net2net import copy, share
from fxgrow.passes.methods.netmorph import free, zero
from fxgrow.passes.methods.r2r import pair, signed

EXTEND = {"pair": pair, "signed": signed, "free": free, "zero": zero, "average": average, "copy": copy, "share": share}
BASES = {"r2r": "pair", "net2net": "copy", "net2net-unequal": "copy", "netmorph": "free", "random": "random"}
METHOD_OF = {"pair": "r2r", "copy": "net2net", "free": "netmorph", "average": "average", "zero": "zero"}

__all__ = ["BASES", "Drawing", "Draws", "EXTEND", "INITS", "Init", "METHOD_OF", "deviation"]
