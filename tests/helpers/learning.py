"""Which new numbers get no gradient in the first steps of training, though the loss depends on them beside the start."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import fxgrow

SIZES = (0.1, 1.0, 5.0)
NUDGE = 1e-9
ROUNDING = 1e-13  # of the largest gradient


def batches(x: Tensor, drawn: torch.Generator) -> list[Tensor]:
    """Give inputs like x, a batch of each size, about many means: what shuts or drowns a unit in one does not in all."""
    if not x.is_floating_point():
        return [x]
    new, means = (torch.randn(len(SIZES), len(x), *shape, generator=drawn, dtype=x.dtype)
                  for shape in (x.shape[1:], [1] * (x.ndim - 1)))
    return [size * each for size, each in zip(SIZES, new + 3 * means)]


def gradients(model: nn.Module, inputs: list[Tensor], drawn: torch.Generator, least: float = 0) -> dict[str, Tensor]:
    """Give the sum over batches of every parameter's gradient for a random target, the largest of each batch being one.

    What nearly the same inputs and target change is a rounding error: left out, as is what is below `least` of the largest.
    """
    found = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for x in inputs:
        seed = int(torch.randint(2 ** 31, (), generator=drawn))
        once, again = (_gradients(model, x, torch.Generator().manual_seed(seed), scale) for scale in (1, 1 + NUDGE))
        most = max(float(g.abs().max()) for g in once.values())
        for n, g in once.items():
            sure = ((g - again[n]).abs() < 1e-3 * g.abs()) & (g.abs() > least * most)
            found[n] += torch.where(sure, g / most, 0)
    return found


def _gradients(model: nn.Module, x: Tensor, drawn: torch.Generator, scale: float) -> dict[str, Tensor]:
    """Give the gradients of one batch; scale: of the inputs and the target."""
    model.zero_grad()
    y = model(x * scale if x.is_floating_point() else x)
    (y - scale * torch.randn(y.shape, generator=drawn, dtype=y.dtype)).square().mean().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in found.values())
    return {n: g.clone() for n, g in found.items()}


def step(model: nn.Module, found: dict[str, Tensor]) -> None:
    """Move each parameter by a hundredth at most, as Adam would: plain descent explodes behind products of large numbers."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p -= 0.01 * found[name] / found[name].abs().max().clamp_min(1e-300)


def waiting(grown: fxgrow.Grown, x: Tensor, steps: int = 2) -> dict[str, int]:
    """How many new numbers of each parameter get no gradient in so many steps, and do beside the start: zeros keep it off.

    Of three draws each says so: what a ReLU shuts gets none either, but not for all inputs and targets. What the loss does
    not depend on gets none beside the start.
    """
    left = {n: grown.record.new_mask(n, p) for n, p in grown.model.named_parameters()}
    for seed in (1, 2, 3):
        if any(mask.any() for mask in left.values()):
            left = _waiting(grown.model, left, x, steps, torch.Generator().manual_seed(seed))
    return {n: int(mask.sum()) for n, mask in left.items() if mask.any()}


def _waiting(start: nn.Module, left: dict[str, Tensor], x: Tensor, steps: int, drawn: torch.Generator) -> dict[str, Tensor]:
    """Return which of the numbers in `left` wait by one draw of inputs, targets and a place beside the start."""
    model, inputs = copy.deepcopy(start).train(), batches(x, drawn)
    for _ in range(steps):
        found = gradients(model, inputs, drawn)
        step(model, found)
        left = {n: mask & (found[n] == 0) for n, mask in left.items()}
    beside = copy.deepcopy(start).train()
    with torch.no_grad():
        for p in beside.parameters():
            p += 1e-3 * torch.randn(p.shape, generator=drawn, dtype=p.dtype)
    found = gradients(beside, inputs, drawn, ROUNDING)
    return {n: mask & (found[n] != 0) for n, mask in left.items()}
