"""Helpers for tests: non-trivial weights everywhere, and one call that grows, verifies and compares."""
from __future__ import annotations

import torch
from torch import nn

import fxgrow


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every norm's statistics and affine parameters, every bias, layer scale and constant tensor made non-trivial."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(t, low, high):
        t.copy_(torch.rand(t.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if not t.is_floating_point():
                continue
            if name.endswith(("running_var", "running_mean")):
                uniform(t, 0.5, 1.5) if name.endswith("var") else uniform(t, -0.3, 0.3)
            elif isinstance(t, nn.Parameter) and (t.ndim <= 1 or float(t.std()) == 0):
                centre = float(t.mean()) if float(t.std()) == 0 else 0.0
                uniform(t, centre + 0.5, centre + 1.5) if centre > 0 else uniform(t, -0.3, 0.3)
    return model


def still(model: nn.Module) -> nn.Module:
    """No dropout: what is left is exact in train mode too."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("dropout", "attn_dropout", "dropout_p", "p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def grow(model: nn.Module, inputs, *passes, train: bool = True, double: bool = True, sizes: bool = True) -> fxgrow.Grown:
    """Grows a shaken double-precision model and insists that it computes the same (without `sizes`: at the example's)."""
    model = shake(model.double() if double else model)
    inputs = tuple(t.double() if double and t.is_floating_point() else t
                   for t in (inputs if isinstance(inputs, tuple) else (inputs,)))
    grown = fxgrow.transform(model, inputs, list(passes))
    found = fxgrow.verify(model, grown.model, inputs)
    if not sizes:  # it stops at others, and says nothing else
        assert all("the second model raises on axis" in note for note in found.notes), found.notes
        with torch.no_grad():
            torch.testing.assert_close(grown.model.eval()(*inputs), model.eval()(*inputs), rtol=1e-9, atol=1e-12)
    assert found.ok or not sizes, f"{found} {found.errors} {found.notes}\n{grown.explain()}"
    assert not train or "train" in found.exact_in, f"{found.errors} {found.notes}\n{grown.explain()}"
    return grown
