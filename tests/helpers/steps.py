"""Helpers for tests of passes that put new layers in: the first steps of training, an archive, another pass behind."""
from __future__ import annotations

import copy

import torch
import torchvision
from thin import thin
from torch import Tensor, nn

import fxgrow


def gradients(model: nn.Module, x: Tensor, steps: int = 2) -> list[dict[str, Tensor]]:
    """The gradient of every parameter in each of the first steps of training (of a copy)."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    target = torch.randn_like(model(x))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
    return found


def dead(grown: fxgrow.Grown, x: Tensor, steps: int = 2) -> list[set[str]]:
    """For each of the first steps, the new parameters (all of them, or in part) none of whose new numbers has a gradient."""
    new = {n: m for n, p in grown.model.named_parameters() if (m := grown.record.new_mask(n, p)).any()}
    assert new
    return [{n for n, mask in new.items() if not step[n][mask].any()} for step in gradients(grown.model, x, steps)]


def archived(grown: fxgrow.Grown, x: Tensor, path) -> nn.Module:
    """The model as it comes back from a file, which must compute the very same and know the same record."""
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path)
    assert fxgrow.verify(grown.model, loaded, x).max_abs_error == 0
    assert loaded.meta["growth"]["record"].to_json() == grown.record.to_json()
    return loaded


def network(name: str, wide: bool = False) -> nn.Module:
    """A network of torchvision with five classes, without what is random in training; a quarter as wide unless told."""
    options = {"stochastic_depth_prob": 0.0, "dropout": 0.0} if name.startswith("efficientnet") else {}

    def make() -> nn.Module:
        return getattr(torchvision.models, name)(num_classes=5, **options)

    return make() if wide else thin(make)
