"""The reason why a class may not grow ends in its cause: an input, the output, or a line of the code."""
import torch
from torch import nn

from fxgrow import capture
from fxgrow.axis import analyse, classes


class Placed(nn.Module):
    """Adds to patches what it computes of their places at each call, and goes on with blocks that are tied to it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def places(self, x):
        angles = torch.arange(x.shape[1])[:, None] * torch.arange(4)[None]
        return torch.cat([angles.sin(), angles.cos()], 1).to(x)

    def forward(self, pictures):
        h = self.first(pictures.flatten(2).transpose(1, 2))
        h = h + self.places(h)
        return self.last(self.norm(h) + h)


def test_reasons_end_in_their_cause():
    tape = analyse(capture(Placed(), torch.randn(2, 6, 5, 3)))
    reasons = {c.name: c.reason for c in classes(tape)}
    at = f"axis/test_reasons.py:{Placed.places.__code__.co_firstlineno + 2}"
    table = f"to an axis that is fixed: a table that the forward computes at {at}"
    assert reasons == {
        "first#2": "tied by mm in first to an axis that is fixed: the model's input 'pictures'",
        "first": f"tied by add in add {table}",
        "norm": f"tied by native_layer_norm in norm {table}", "norm#2": f"tied by native_layer_norm in norm {table}",
        "last": "it is the model's output: name its layer in full to add outputs",
        "last#2": f"tied by addmm in last {table}"}


def test_what_the_input_gives_is_named():
    first = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 8))
    reason = analyse(capture(first, torch.randn(2, 3, 4))).params["1.weight"].axes[1].reason
    assert reason == "tied by addmm in 1 to an axis that is fixed: the model's input 'input', in another form"
