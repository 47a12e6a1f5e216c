"""Names that torch marks as internal and that fxgrow cannot do without: imported here, and nowhere else."""
from torch.nn.modules.conv import _ConvNd as ConvNd  # noqa: PLC2701
from torch.utils._device import _device_constructors as device_constructors  # noqa: PLC2701
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import (  # noqa: PLC2701
    tree_any,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

__all__ = ["ConvNd", "TorchDispatchMode", "device_constructors", "tree_any", "tree_flatten", "tree_leaves", "tree_map",
           "tree_unflatten"]
