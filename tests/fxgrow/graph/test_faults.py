"""An error that nobody foresaw comes out as one of fxgrow's, with the layer; a user's own stays what it is."""
import pytest
import torch
from torch import nn
from torch.fx.passes.infra.pass_base import PassBase, PassResult

import fxgrow
from fxgrow.passes import Widen


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Faulty(Widen):
    def call(self, graph_module):
        for node in graph_module.graph.nodes:
            if node.op == "call_module":
                raise IndexError("nobody knows why")


Faulty.__module__ = "fxgrow.passes.faulty"


class OfUser(PassBase):
    def call(self, graph_module) -> PassResult:
        raise IndexError("the user's")


def test_a_fault_of_a_pass_names_the_layer():
    with pytest.raises(fxgrow.errors.GrowthError, match=r"Faulty stops at _0, in 0, .*IndexError: nobody knows why") as stop:
        fxgrow.transform(model(), torch.randn(2, 4), Faulty(factor=2))
    assert isinstance(stop.value.__cause__, IndexError)


def test_an_error_of_a_users_pass_stays():
    with pytest.raises(IndexError, match="the user's"):
        fxgrow.transform(model(), torch.randn(2, 4), OfUser())


def test_a_fault_while_the_graph_is_put_together(monkeypatch):
    monkeypatch.setattr("fxgrow.tracing.capturing.clean_trace", lambda graph: {}["missing"])
    with pytest.raises(fxgrow.errors.CaptureError, match="the capture of Sequential stops for a reason"):
        fxgrow.capture(model(), torch.randn(2, 4))


def test_memory_that_runs_out_is_said_as_it_is(monkeypatch):
    def full(graph):
        raise MemoryError
    monkeypatch.setattr("fxgrow.tracing.capturing.clean_trace", full)
    with pytest.raises(MemoryError):
        fxgrow.capture(model(), torch.randn(2, 4))
