"""Growth records: where every old number went, and what follows from that.

What lives here: the record, optimizer states, freezing, shrinking, tying. What does not: how a record comes about (growth).
"""
from fxgrow.record.entries import ParameterRecord, broadcast_along, new_numbers
from fxgrow.record.freezing import scale_updates
from fxgrow.record.grown import Grown, Outcome, captured, explain, keep_growth, record_in
from fxgrow.record.optimizers import insist_plain
from fxgrow.record.record import GrowthRecord, describe_step
from fxgrow.record.tied import untie
from fxgrow.record.tying import tie

__all__ = ["Grown", "GrowthRecord", "Outcome", "ParameterRecord", "broadcast_along", "captured", "describe_step",
           "explain", "insist_plain", "keep_growth", "new_numbers", "record_in", "scale_updates", "tie", "untie"]
