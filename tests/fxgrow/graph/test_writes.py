"""Which nodes write to memory: operators whose names end in an underscore, as keywords of Python do, write to nothing."""
from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.fx import Graph

import fxgrow
from fxgrow.graph import writes_in_place


@pytest.mark.parametrize("target, writes", [(operator.and_, False), (operator.or_, False), (operator.not_, False),
                                            (operator.iand, True), (torch.relu_, True), (torch.relu, False)])
def test_what_writes(target, writes):
    graph = Graph()
    x = graph.placeholder("x")
    assert writes_in_place(graph.call_function(target, (x, x))) is writes


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        mask = (x > 0) & (x < 1)  # noqa: F841
        return self.layer(x)


def test_a_mask_that_nothing_reads_is_dropped():
    graph = fxgrow.capture(Unused(), torch.randn(2, 4)).graph
    assert [n.op for n in graph.nodes] == ["placeholder", "call_module", "output"]
