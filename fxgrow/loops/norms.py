"""Running statistics behind a growth: measured anew on some batches, as they are used in evaluation.

New channels change fast, and a running mean follows the numbers of a norm's input by a tenth of the way in a step: for some
dozen steps at a high rate a network that trains well is evaluated with statistics of another one. What is done about it:
the statistics of the network as it is (Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", 2021,
https://arxiv.org/abs/2105.07576, section 3). They take no part in training.
"""
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fxgrow.graph import as_call


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Any]) -> int:
    """Set the running statistics of a model's norms to their mean over batches, and return how many batches there were.

    All but the norms is as in evaluation: no dropout, so that no random numbers are drawn. Modes, momenta and counts of
    batches stay as they were. Of a model in train mode, norms that its loop keeps in eval mode are left alone. A model
    without running statistics is not run.

    Args:
        batches: inputs of training, each in the form that `transform` takes; none: nothing is changed.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
             and (m.training or not model.training)]
    modes, momenta = {m: m.training for m in model.modules()}, [m.momentum for m in norms]
    counts = [m.num_batches_tracked.clone() for m in norms]  # type: ignore[union-attr, operator]
    seen = 0
    model.eval()
    for norm in norms:
        norm.training = True
    try:
        for batch in batches if norms else ():
            for norm in norms:
                norm.momentum = 1 / (seen + 1)
            args, kwargs = as_call(batch)
            model(*args, **kwargs)
            seen += 1
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr, operator]
        for module, training in modes.items():
            module.training = training
    return seen
