"""Models in shards on a mesh of two processes."""
from __future__ import annotations

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

FULL = StateDictOptions(full_state_dict=True)
X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def shard(model: nn.Module) -> nn.Module:
    """Return a model whose linear layers, and the rest, are sharded."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)
