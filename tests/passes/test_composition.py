"""Every pass after every other: random sequences on random and on known networks leave what is computed as it was."""
from __future__ import annotations

import random

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from random_nets import RandomNet, random_pass
from support import shake, size, still
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError

EXACT = ("r2r", "netmorph")  # in train mode too, and what shrinks back exactly


def grown_by(model: nn.Module, x, rng: random.Random, count: int, methods: tuple[str, ...], most: float = 8.0):
    """`count` random passes, one after another (what is refused is left out), and how they were called."""
    grown = fxgrow.transform(model, x, [])
    done = []
    for _ in range(count):
        step = random_pass(rng, grown.model, methods)
        try:
            bigger = fxgrow.transform(grown.model, x, step)
        except FxgrowError:
            continue
        if size(bigger.model) <= most * size(model) + 20_000:
            grown, done = bigger, [*done, step]
    return grown, done


def check(model: nn.Module, x, seed: int, count: int, methods: tuple[str, ...] = EXACT) -> int:
    model = still(shake(model.double(), seed))
    grown, done = grown_by(model, x, random.Random(seed), count, methods)
    found = fxgrow.verify(model, grown.model, x)
    steps = "\n".join(map(str, done))
    assert found.ok and ("train" in found.exact_in or methods != EXACT), f"{found.errors} {found.notes}\n{steps}"
    assert len(grown.record.lineage) == len(done)
    for name, tensor in [*grown.model.named_parameters(), *grown.model.named_buffers()]:
        entry = grown.record.entry(name, tensor.ndim)
        assert len(entry.index) == tensor.ndim and all(i is None or len(i) == s for i, s in zip(entry.index, tensor.shape))
    if methods == EXACT:
        small = grown.record.shrink(grown.model)
        for name, tensor in model.state_dict().items():
            back = small.state_dict()[name]  # the weight of a grown norm is scaled, and scaled back
            scaled = any(p.source == name and p.scale != 1 for p in grown.record.parameters.values())
            assert torch.equal(back, tensor) or (scaled and torch.allclose(back, tensor, 1e-14, 0)), f"{name}\n{steps}"
    return len(done)


@given(st.integers(0, 10_000), st.integers(1, 10))
@proves(40)  # more seeds: test_many_random_networks
def test_random_networks(seed, count):
    check(RandomNet(seed), torch.randn(3, 3, 7, 7, dtype=torch.float64), seed, count)


@given(st.integers(0, 10_000), st.integers(1, 10))
@proves(15)
def test_random_networks_by_net2net_as_well(seed, count):
    check(RandomNet(seed), torch.randn(3, 3, 7, 7, dtype=torch.float64), seed, count, ("r2r", "net2net", "netmorph"))


def inception() -> nn.Module:
    """Two blocks of GoogLeNet between a stem and a classifier."""
    from torchvision.models.googlenet import BasicConv2d, Inception

    return nn.Sequential(BasicConv2d(3, 16, kernel_size=3, padding=1), Inception(16, 4, 4, 6, 2, 4, 4),
                         Inception(18, 8, 4, 8, 2, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))


KNOWN = {"resnet18": lambda: torchvision.models.resnet18(num_classes=5),
         "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=5),
         "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5),
         "inception": inception}


@pytest.mark.thinned(18)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", KNOWN)
def test_known_networks(name, seed):
    assert check(KNOWN[name](), torch.randn(2, 3, 32, 32, dtype=torch.float64), seed, 10) >= 3


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(0, 1000, 100))
def test_many_random_networks(seed):
    for s in range(seed, seed + 100):
        check(RandomNet(s), torch.randn(3, 3, 7, 7, dtype=torch.float64), s, 1 + s % 10,
              EXACT if s % 2 else ("r2r", "net2net", "netmorph"))
