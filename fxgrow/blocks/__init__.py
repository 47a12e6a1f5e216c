"""Blocks of a network: found, copied, built, put in, and matched between two networks.

What lives here: parts with one input and one output. What does not: which numbers they start with (identity, passes).
"""
from fxgrow.blocks.extras import Extra
from fxgrow.blocks.matching import Match, gains_bias, match, taps
from fxgrow.blocks.pieces import built, copied, ends, find_block, find_out, find_spread, likeness
from fxgrow.blocks.placing import make_room, next_names, put_in
from fxgrow.blocks.sides import Side

__all__ = ["Extra", "Match", "Side", "built", "copied", "ends", "find_block", "find_out", "find_spread", "gains_bias",
           "likeness", "make_room", "match", "next_names", "put_in", "taps"]
