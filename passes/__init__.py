"""Growth passes: classes over `torch.fx`'s PassBase, one pass a file.

What lives here: the passes. What does not: how numbers are drawn (methods/) and what passes share (support/).
"""
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.passes.activation import Activation
    from fxgrow.passes.branch import Branch
    from fxgrow.passes.deepen import Deepen
    from fxgrow.passes.experts import Experts
    from fxgrow.passes.kernel import Kernel
    from fxgrow.passes.se import SqueezeExcite
    from fxgrow.passes.skip import Skip
    from fxgrow.passes.subnet import Subnet
    from fxgrow.passes.widen import Widen

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "activation": "Activation", "branch": "Branch", "deepen": "Deepen", "experts": "Experts", "kernel": "Kernel",
    "se": "SqueezeExcite", "skip": "Skip", "subnet": "Subnet", "widen": "Widen"})
