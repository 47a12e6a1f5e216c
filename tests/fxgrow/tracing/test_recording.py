"""Recordings: what is written down, before anything is cleaned up."""
import torch
from torch import nn

from fxgrow.tracing.recording import trace


def test_a_layer_that_gives_what_it_was_given_leaves_one_node():
    """The value is another one from there on, and how it is told apart is no part of the model."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Identity()).to("meta")
    graph = trace(model, (torch.randn(2, 4),), {}, {})
    assert [n.op for n in graph.nodes] == ["placeholder", *["call_module"] * 3, "output"]
    assert [n.args for n in graph.nodes][-1] == (list(graph.nodes)[-2],)
