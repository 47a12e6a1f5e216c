"""What older releases of torch do otherwise, found by trying: tests of it are skipped there, with the reason."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn


def instance_norm_with_statistics(channels: int) -> nn.Module:
    """Return one that computes with running statistics; an axis of what torch writes in eval mode, too, never grows."""
    norm = nn.InstanceNorm2d(channels, affine=True, track_running_stats=True).eval()
    before = norm.running_mean._version
    norm(torch.ones(1, channels, 2, 2))
    if norm.running_mean._version != before:
        pytest.skip("this torch writes an instance norm's running statistics in eval mode, too")
    return norm.train()


def names_in_a_copy(graph: torch.fx.GraphModule) -> list[str]:
    """Return the names in the state_dict of a graph's copy; some torch takes the constants for a part of it, once copied."""
    probe = torch.fx.GraphModule(nn.Module(), torch.fx.Graph())
    probe.register_buffer("constant", torch.ones(1), persistent=False)
    forgets = bool(copy.deepcopy(probe).state_dict())
    return list((graph if forgets else copy.deepcopy(graph)).state_dict())


def exported(model: nn.Module, *args, **options) -> nn.Module:
    """Return a model that went through `torch.export`."""
    module = torch.export.export(model, *args, **options).module()
    if not hasattr(module, "_guards_fn"):
        pytest.skip("this torch compares the sizes of an exported model's inputs in a hook, where they are plain numbers")
    return module
