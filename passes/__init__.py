"""Growth passes: classes over `torch.fx`'s PassBase, one pass a file."""
from fxgrow.passes.activation import Activation
from fxgrow.passes.branch import Branch
from fxgrow.passes.deepen import Deepen
from fxgrow.passes.kernel import Kernel
from fxgrow.passes.se import SqueezeExcite
from fxgrow.passes.skip import Skip
from fxgrow.passes.subnet import Subnet
from fxgrow.passes.widen import Widen

__all__ = ["Activation", "Branch", "Deepen", "Kernel", "Skip", "SqueezeExcite", "Subnet", "Widen"]
