"""Transform: a model that is released gives its tensors up on the way."""
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Deepen, Kernel, Widen


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1), nn.Linear(4, 2)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PASSES = {"widen": [Widen("a", by=2, seed=0)], "copies": [Widen(factor=2, method="net2net", seed=0)],
          "several": [Kernel("stem", size=5), Widen(factor=1.5, seed=0), Deepen(seed=0)]}


@pytest.mark.parametrize("name", PASSES)
def test_a_released_model_becomes_the_same_network(name):
    kept, released = Net().eval(), Net().eval()
    one = fxgrow.transform(kept, X, PASSES[name])
    two = fxgrow.transform(released, X, PASSES[name], release=True)
    assert one.model.state_dict().keys() == two.model.state_dict().keys()
    for key, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[key]), key
    assert one.record.parameters.keys() == two.record.parameters.keys()
    torch.testing.assert_close(two.model(X), kept(X), rtol=1e-4, atol=1e-5)


def test_nothing_of_a_released_model_is_there_twice():
    model = Net()
    grown = fxgrow.transform(model, X, Widen("a", by=2, seed=0), release=True).model
    assert model.a.weight.numel() == model.b.weight.numel() == model.norm.running_var.numel() == 0
    assert grown.stem.weight.data_ptr() == model.stem.weight.data_ptr()
    again = fxgrow.transform(grown, X, Widen("a", by=2, seed=0)).model  # a growth of its own, which releases nothing
    assert grown.a.weight.shape[0] == 8 and again.a.weight.shape[0] == 10


def test_where_nothing_can_grow_a_model_keeps_its_numbers():
    model = Net()
    with pytest.raises(SelectionError):
        fxgrow.transform(model, X, Widen("nowhere", by=2), release=True)
    assert all(t.numel() for t in model.state_dict().values())
