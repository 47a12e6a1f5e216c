"""Contents of new positions, and certificates that a growth changes nothing.

What lives here: abstract interpretation of one class's growth. What does not: numbers, which methods draw (passes/methods).
"""
from fxgrow.contents.bindings import Certificate, Rows
from fxgrow.contents.kinds import AVERAGE, COPIES, COPY, FREE, MEAN, PAIR, SHARE, SIGNED, SPREAD, ZERO, ByPart, Content
from fxgrow.contents.proving import FALLBACKS, SCALED, certify
from fxgrow.contents.report import AxesReport, axes

__all__ = ["AVERAGE", "AxesReport", "ByPart", "COPIES", "COPY", "Certificate", "Content", "FALLBACKS", "FREE", "MEAN",
           "PAIR", "Rows", "SCALED", "SHARE", "SIGNED", "SPREAD", "ZERO", "axes", "certify"]
