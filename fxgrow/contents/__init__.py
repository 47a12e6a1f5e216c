"""Contents of new positions, and certificates that a growth changes nothing.

What lives here: abstract interpretation of one class's growth. What does not: numbers, which methods draw (passes/methods).
"""
from fxgrow.contents.certificate import Certificate
from fxgrow.contents.certify import FALLBACKS, certify
from fxgrow.contents.kinds import COPIES, ByPart, Content
from fxgrow.contents.report import AxesReport, axes

__all__ = ["AxesReport", "ByPart", "COPIES", "Certificate", "Content", "FALLBACKS", "axes", "certify"]
