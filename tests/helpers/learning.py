"""Which new numbers get no gradient in the first steps of training, though the loss depends on them beside the start."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import fxgrow


def gradients(model: nn.Module, x: Tensor, drawn: torch.Generator) -> dict[str, Tensor]:
    """The gradient of every parameter, for a random target, those of the size of rounding errors set to zero."""
    model.zero_grad()
    y = model(x)
    (y - torch.randn(y.shape, generator=drawn, dtype=y.dtype)).square().mean().backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    most = max(float(g.abs().max()) for g in found.values())
    return {n: torch.where(g.abs() > 1e-13 * most, g, 0) for n, g in found.items()}


def inputs(x: Tensor, drawn: torch.Generator) -> Tensor:
    """More inputs like x, of many sizes and about many means."""
    if not x.is_floating_point():
        return x
    each = (4 * x.shape[0], *[1] * (x.ndim - 1))
    new, size, mean = (torch.randn(shape, generator=drawn, dtype=x.dtype) for shape in ((each[0], *x.shape[1:]), each, each))
    return new * size.exp() + 3 * mean


def waiting(grown: fxgrow.Grown, x: Tensor, steps: int = 2) -> dict[str, int]:
    """How many new numbers of each parameter get no gradient in so many steps, and do beside the start: zeros keep it off.

    A unit that a ReLU shuts gets none there either; so do numbers that the loss does not depend on.
    """
    drawn, model = torch.Generator().manual_seed(1), copy.deepcopy(grown.model).train()
    new = {n: grown.record.new_mask(n, p) for n, p in model.named_parameters()}
    left = {n: mask.clone() for n, mask in new.items() if mask.any()}
    if not left:  # what was there is shared out
        return {}
    for _ in range(steps):
        found = gradients(model, inputs(x, drawn), drawn)
        assert all(g.isfinite().all() for g in found.values())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.01 * found[name]
        left = {n: mask & (found[n] == 0) for n, mask in left.items()}
    beside = {n: torch.zeros_like(mask) for n, mask in left.items()}
    for _ in range(3 if any(mask.any() for mask in left.values()) else 0):
        model = copy.deepcopy(grown.model).train()
        with torch.no_grad():
            for p in model.parameters():
                p += 1e-3 * torch.randn(p.shape, generator=drawn, dtype=p.dtype)
        found = gradients(model, inputs(x, drawn), drawn)
        beside = {n: mask | (found[n] != 0) for n, mask in beside.items()}
    return {n: int((mask & beside[n]).sum()) for n, mask in left.items() if (mask & beside[n]).any()}
