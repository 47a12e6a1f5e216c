"""Comparison of two models: `verify` runs both, `find_changes` finds what stands where.

What lives here: numbers and changes. What does not: pictures of changes (diagram).
"""
from fxgrow.compare.changes import Change, Changes, find_changes, mark, summed
from fxgrow.compare.rounding import names_half, rounding_between, rounding_note
from fxgrow.compare.running import copy_of
from fxgrow.compare.verification import Verification, verify
from fxgrow.tracing import TOLERANCE

__all__ = ["Change", "Changes", "TOLERANCE", "Verification", "copy_of", "find_changes", "mark", "names_half",
           "rounding_between", "rounding_note", "summed", "verify"]
