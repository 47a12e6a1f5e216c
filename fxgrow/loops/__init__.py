"""Growth in training loops, whoever wrote them: the words of a schedule, and `Grower`, which does what they say.

What lives here: what any loop needs. What does not: a trainer (experiments.train), other frameworks (integrations).
"""
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.loops.auto import PARTS, Ahead, Auto
    from fxgrow.loops.effects import Effects, LastGrowth, scale_decay
    from fxgrow.loops.grower import Grower
    from fxgrow.loops.moving import insist_groups
    from fxgrow.loops.norms import measure_statistics
    from fxgrow.loops.rates import Rates, after_growth
    from fxgrow.loops.schedule import (
        OPTIONS,
        CheckedGrowth,
        Entry,
        auto_in,
        grow_by_entry,
        parse_growth,
        seed_for,
        stalled,
    )
    from fxgrow.loops.structure import pack, unpack
    from fxgrow.loops.wrappers import wrap_anew

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "auto": "PARTS Ahead Auto",
    "effects": "Effects LastGrowth scale_decay",
    "grower": "Grower",
    "moving": "insist_groups",
    "norms": "measure_statistics",
    "rates": "Rates after_growth",
    "schedule": "CheckedGrowth Entry OPTIONS auto_in grow_by_entry parse_growth seed_for stalled",
    "structure": "pack unpack",
    "wrappers": "wrap_anew",
})
