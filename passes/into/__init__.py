"""Growth of a small stock model into a bigger stock class: the two are matched, and the numbers fitted.

What lives here: `grow_into`, its plan and result, the pass and the command. What does not: matching (fxgrow/blocks).
"""
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.passes.into.as_pass import GrowInto
    from fxgrow.passes.into.growing import grow_into
    from fxgrow.passes.into.result import GrownInto
    from fxgrow.passes.into.stock import put_back

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "as_pass": "GrowInto", "growing": "grow_into", "result": "GrownInto", "stock": "put_back"})
