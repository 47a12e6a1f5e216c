"""Models that other tools have made or wrapped: they come in as the model that they were made from."""
import copy
import warnings

import pytest
import torch
from older import exported
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import fxgrow
from fxgrow.errors import CaptureError
from fxgrow.passes import Widen

X, OTHER = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore")


def net(last: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, last)).double()


class Around(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.before, self.part, self.after = nn.Linear(4, 4), part, net()

    def forward(self, x):
        return self.after(torch.tanh(self.part(self.before(x))))


def scripted(make, part):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(part.eval())


def assert_grows(model, wanted, modes=(False, True)):
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model
    assert sum(p.numel() for p in result.parameters()) > 1.3 * sum(p.numel() for p in wanted.parameters())
    for training in modes:
        for x in (X, OTHER):
            torch.testing.assert_close(result.train(training)(x), wanted.train(training)(x))
    assert list(result.state_dict()) == list(wanted.state_dict())


@pytest.mark.parametrize("wrap", [torch.fx.symbolic_trace, torch.compile, nn.DataParallel,
                                  lambda model: nn.DataParallel(torch.compile(model))])
@pytest.mark.parametrize("around", [False, True])
def test_graphs_and_wrappers_of_others(wrap, around):
    inner = net(4 if around else 3)
    wanted = Around(inner).double() if around else inner
    model = copy.deepcopy(wanted)
    if around:
        model.part = wrap(model.part)
    else:
        model = wrap(model)
    assert_grows(model, wanted)


def test_an_exported_model():
    wanted = net().eval()
    rows = torch.export.Dim("rows")
    assert_grows(exported(wanted, (X,), dynamic_shapes=({0: rows},)), wanted, modes=(False,))


def test_a_module_that_compiles_itself_is_not_called_by_its_copy():
    wanted = Around(net(4)).double()
    model = copy.deepcopy(wanted)
    model.part.compile()
    assert_grows(model, wanted)


def test_a_feature_extractor_keeps_both_of_its_modes():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(4, 3)

        def forward(self, x):
            h = self.stem(x)
            return self.head(torch.nn.functional.dropout(h, 0.5, self.training) * (3 if self.training else 2))

    model = create_feature_extractor(Drops().double(), {"head": "out"})
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0, where="stem.0")).model  # dropout draws for as many as before
    assert result.get_submodule("stem.0").out_features == 16
    for training in (True, False):
        outputs = []
        for network in (model, result):
            torch.manual_seed(0)
            outputs.append(network.train(training)(OTHER)["out"])
        torch.testing.assert_close(*outputs)


def test_functions_and_layers_of_einops():
    einops = pytest.importorskip("einops")
    layers = pytest.importorskip("einops.layers.torch")

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
            self.split, self.mean = layers.Rearrange("b l (h c) -> b h l c", h=2), layers.Reduce("b l c -> b c", "mean")

        def forward(self, x):
            h = self.split(torch.tanh(self.value(x)))
            h = einops.rearrange(h * self.split(self.gate(x)), "b h l c -> b l (h c)")
            return self.out(self.mean(h) + einops.repeat(h[:, 0], "b c -> b c") + einops.reduce(h, "b l c -> b c", "max"))

    model, x = Heads().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0)).model
    assert not fxgrow.capture(model, x).meta["leaves"] and grown.get_submodule("value").out_features > 8
    for other in (x, torch.randn(3, 7, 4, dtype=torch.float64)):
        torch.testing.assert_close(grown(other), model(other))


def test_features_of_a_stock_network():
    model = create_feature_extractor(resnet18(num_classes=5).double().eval(), {"layer1": "low", "layer2": "high"}).eval()
    x = torch.randn(2, 3, 48, 48).double()
    result = fxgrow.transform(model, torch.randn(1, 3, 32, 32).double(), Widen(factor=2, seed=0)).model.eval()
    for name, value in model(x).items():
        torch.testing.assert_close(result(x)[name], value)


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, OTHER)])
def test_what_torchscript_made_is_a_part(make):
    part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    model = Around(scripted(make, part)).double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model.eval()
    torch.testing.assert_close(result(OTHER), model(OTHER))
    result.train()(OTHER)
    assert not model.training
    assert not model.part.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    captured = fxgrow.capture(model, X)
    assert len({m.part.state_dict()["0.weight"].data_ptr() for m in (captured, model)}) == 1


def test_a_grown_shell_with_a_scripted_part_can_be_copied():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Around(scripted(torch.jit.script, nn.Linear(4, 4))).double()

        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else self.inner(-x)

    model = Looks().eval()
    grown = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model
    torch.testing.assert_close(copy.deepcopy(grown)(OTHER), model(OTHER))


@torch.jit.script
def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


class Scripted(nn.Module):
    """Holds a scripted function, as torch's own functions are held."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(4, 6), nn.Linear(6, 3), swish

    def forward(self, x):
        return self.second(self.act(self.first(x)))


def test_a_network_that_holds_a_scripted_function_grows_and_is_copied():
    model, x = Scripted().double(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0)).model
    for one in (grown, copy.deepcopy(grown), copy.deepcopy(model)):
        torch.testing.assert_close(one(x), model(x), rtol=0, atol=1e-12)
    assert grown.first.out_features == 12


def test_what_cannot_be_had_of_torchscript_is_refused_with_advice():
    with pytest.raises(CaptureError, match="TorchScript.*pass the module"):
        fxgrow.transform(scripted(torch.jit.script, net()), X, Widen(factor=2, seed=0))
    model = Around(scripted(lambda m: torch.jit.freeze(torch.jit.script(m)), net(4))).double().eval()
    with pytest.raises(CaptureError, match="part .*TorchScript.*put the module"):
        fxgrow.capture(model, X)
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model  # around it
    assert result.after[0].out_features == 16
    torch.testing.assert_close(result(OTHER), model(OTHER))
