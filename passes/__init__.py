"""Growth passes: classes over `torch.fx`'s PassBase, one pass a file."""
from fxgrow.passes.deepen import Deepen
from fxgrow.passes.kernel import Kernel
from fxgrow.passes.widen import Widen

__all__ = ["Deepen", "Kernel", "Widen"]
