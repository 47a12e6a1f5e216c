"""Helpers for tests of archives: a small model with a bit of everything, its archive, and forgeries of it."""
from __future__ import annotations

import copy
import functools
import io
import json
import os
import tempfile
import zipfile

import pytest
import torch
import torch.nn.functional as F
from support import shake
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.archive import container
from fxgrow.aten import tree_leaves
from fxgrow.errors import ArchiveError

IMAGE = (2, 3, 32, 32)


class Small(nn.Module):
    """A bit of everything: conv, norm, dropout, a branch on the mode, a shared layer, shape arithmetic, a tied weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.embed = nn.Linear(8, 5, bias=False)
        self.back = nn.Linear(5, 8, bias=False)
        self.back.weight = nn.Parameter(self.embed.weight.detach().t().contiguous())
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.randn(8), persistent=False)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = self.mix(F.dropout(self.mix(x), 0.25, self.training))
        n, c, h, w = x.shape
        x = x.view(n, c, h * w).transpose(1, 2)[:, ::7]
        x = x * self.scale + self.shift + self.attention(x, x, x, need_weights=False)[0]
        x = self.back(self.embed(x).clamp(min=-float("inf"), max=1e9)) + (0.5 if self.training else 0.25)
        return {"logits": self.head(x.mean(1)), "last": x}


def same(a, b):
    ours, theirs = tree_leaves(a), tree_leaves(b)
    assert len(ours) == len(theirs) and type(a).__name__ == type(b).__name__
    for one, two in zip(ours, theirs):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == two and type(one) is type(two)


def run(model, inputs, mode):
    torch.manual_seed(3)
    with torch.no_grad():
        return copy.deepcopy(model).train(mode)(*inputs)


def round_trip(model, inputs, path, **options):
    """Saves and loads; outputs in both modes, names, flags and a second saving must all be the same."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    gm = fxgrow.capture(model, inputs)
    fxgrow.save(gm, path, **options)
    loaded = fxgrow.load(path)
    assert isinstance(loaded, GraphModule)
    assert list(loaded.state_dict()) == list(gm.state_dict())
    assert [(n, m.training) for n, m in loaded.named_modules()] == [(n, m.training) for n, m in gm.named_modules()]
    for of in ("named_parameters", "named_buffers"):
        ours, theirs = (list(getattr(m, of)(remove_duplicate=False)) for m in (gm, loaded))
        assert [(n, t.dtype, t.requires_grad, t.stride(), type(t)) for n, t in ours] == \
            [(n, t.dtype, t.requires_grad, t.stride(), type(t)) for n, t in theirs]
    for mode in (False, True):
        same(run(gm, inputs, mode), run(loaded, inputs, mode))
    again = path.with_name("again")
    fxgrow.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    return gm, loaded


@functools.lru_cache(maxsize=None)
def small_archive() -> bytes:
    """The bytes of an archive of `Small`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "small.fxgrow")
        fxgrow.save(shake(Small()), file, example_inputs=torch.randn(IMAGE), extra={"note": ("a", 1.5)})
        with open(file, "rb") as opened:
            return opened.read()


def refused(path, match=None, **options):
    with pytest.raises(ArchiveError, match=match) as caught:
        fxgrow.load(path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def resealed(archive: bytes, edit) -> bytes:
    """The archive with its description edited and all checksums right again."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        graph, tensors = json.loads(file.read("graph.json")), file.read("tensors.safetensors")
    edit(graph)
    out = io.BytesIO()
    for key in ("format", "version"):
        graph.pop(key, None)
    container.write(out, graph, tensors)
    return out.getvalue()
