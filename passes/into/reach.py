"""Which new numbers of a grown network a gradient reaches within a few steps."""
import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves
from fxgrow.record import GrowthRecord

RATE = 1e-2  # of a step: a step only has to be one


def unreached(model: nn.Module, args: tuple, kwargs: dict[str, Any], record: GrowthRecord, steps: int = 2,
              seed: int = 0) -> dict[str, int]:
    """Return how many new numbers of each parameter get no gradient in `steps` steps of SGD towards random targets.

    The model trains on these inputs in train mode (in eval mode, where that cannot run); it is left as it is. A number
    that these inputs do not use (the row of a word that is not in them, a channel that a ReLU shuts) counts too.
    """
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    waiting = {n: record.new_mask(n, p) for n, p in twin.named_parameters() if p.requires_grad and p.is_floating_point()}
    targets: list[Tensor] = []
    twin.train()
    for _ in range(steps):
        try:
            given = twin(*args, **kwargs)
        except Exception:  # a batch of one under batch norm
            given = twin.eval()(*args, **kwargs)
        outputs = [t for t in tree_leaves(given) if isinstance(t, Tensor) and t.requires_grad]
        targets = targets or [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
        twin.zero_grad()
        sum(((o - t) ** 2).mean() for o, t in zip(outputs, targets)).backward()  # type: ignore[union-attr]
        with torch.no_grad():
            for name, p in twin.named_parameters():
                if p.grad is not None:
                    waiting[name] &= p.grad == 0
                    p -= RATE * p.grad
    return {n: int(left.sum()) for n, left in waiting.items() if left.any()}
