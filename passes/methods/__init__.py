"""Growth methods: pure functions from old tensors to new positions, one method a file.

A method says which content it wants new positions to have (`BASES`; None: random numbers); each content has a function here
that gives, for a tensor and an axis, the old positions as they are to be and the new ones (a tuple: those of its tensors in
turn; None: zeros). Which content is exact where is decided in fxgrow/contents/proving.py, never here.
"""
from fxgrow.contents import AVERAGE, COPY, FREE, MEAN, PAIR, SHARE, SIGNED, SPREAD, ZERO
from fxgrow.passes.methods.average import average
from fxgrow.passes.methods.initial import INITS, Drawing, Draws, Init, deviation
from fxgrow.passes.methods.net2net import copy, share
from fxgrow.passes.methods.netmorph import free, zero
from fxgrow.passes.methods.r2r import pair, signed
from fxgrow.passes.methods.standardised import at_mean, spread, statistics

EXTEND = {PAIR: pair, SIGNED: signed, FREE: free, ZERO: zero, AVERAGE: average, COPY: copy, SHARE: share,
          SPREAD: spread, MEAN: at_mean}
BASES = {"r2r": PAIR, "net2net": COPY, "net2net-unequal": COPY, "netmorph": FREE, "random": None}
METHOD_OF = {PAIR: "r2r", COPY: "net2net", FREE: "netmorph", AVERAGE: "average", ZERO: "zero"}

__all__ = ["BASES", "Drawing", "Draws", "EXTEND", "INITS", "Init", "METHOD_OF", "deviation", "statistics"]
