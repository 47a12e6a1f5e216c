"""Costs of a network in FLOPs and bytes, forward and backward, counted on meta tensors.

What lives here: rules, the count, its table. What does not: how costs are drawn (diagram/heat.py).
"""
from fxgrow.cost.costs import Cost, FlopCount, gaps, lines, to_csv
from fxgrow.cost.count import count_flops
from fxgrow.cost.forward import ForwardCounter
from fxgrow.cost.rules import Flops, flop_rule

__all__ = ["Cost", "FlopCount", "Flops", "ForwardCounter", "count_flops", "flop_rule", "gaps", "lines", "to_csv"]
