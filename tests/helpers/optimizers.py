"""Optimizers of all kinds, torch's own and one that is not."""
from __future__ import annotations

import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop


class Lion(torch.optim.Optimizer):
    """Chen et al.: Symbolic Discovery of Optimization Algorithms (2023); no optimizer of torch's own."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                held = self.state[p].setdefault("drift", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(held.lerp(p.grad, 1 - fast).sign(), alpha=group["lr"])
                held.lerp_(p.grad, 1 - slow)


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.01),
    "momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.001, centered=True, momentum=0.9),
    "adagrad": lambda p: Adagrad(p, lr=0.01, lr_decay=0.1, initial_accumulator_value=0.1),
    "nadam": lambda p: NAdam(p, lr=0.01),
    "lion": lambda p: Lion(p, lr=0.001, weight_decay=0.1),
}
