"""A grown model is a normal model: it compiles, exports, casts, and has the very shapes of a stock one."""
from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torchvision
from support import grow, shake, size, still
from thin import thin
from torch import nn
from torch.fx.passes.infra.pass_manager import PassManager

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Widen
from fxgrow.passes.methods.initial import Drawing, Draws, deviation

INNER = [f"layer{i}.*.conv{j}" for i in range(1, 5) for j in (1, 2)]


@pytest.fixture(scope="module")
def small():
    """A small convolutional network with a channel shuffle, a norm and attention: every kind of rewriting at once."""
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    x = torch.randn(2, 3, 64, 64)
    return shake(model).eval(), x, fxgrow.transform(model, x, [Widen(factor=2, seed=0)]).model.eval()


def close(a, b, tolerance=1e-4):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_resnet50_with_doubled_inner_widths_is_wide_resnet50_2():
    model, x = shake(thin(torchvision.models.resnet50)).eval(), torch.randn(2, 3, 64, 64)
    grown = fxgrow.transform(model, x, [Widen(INNER, factor=2, seed=0)])
    stock = thin(torchvision.models.wide_resnet50_2).eval()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    assert list(stock.state_dict()) == list(grown.model.state_dict())
    close(stock(x), model(x))
    modules = [n for n in grown.model.graph.nodes if n.op == "call_module"]
    assert len(modules) == len([n for n in fxgrow.capture(stock, x).graph.nodes if n.op == "call_module"])


def test_compile(small):
    model, x, grown = small
    close(torch.compile(grown, backend="eager", fullgraph=True)(x), model(x))


def test_export(small):
    model, x, grown = small
    close(torch.export.export(grown, (x,)).module()(x), model(x))


@pytest.mark.sweep
def test_onnx(small):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x, grown = small
    file = io.BytesIO()
    torch.onnx.export(grown, (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(out), model(x))


def test_half_precision_and_copies(small):
    model, x, grown = small
    low = copy.deepcopy(grown).to(torch.bfloat16)
    close(low(x.bfloat16()).float(), model(x), 0.3)
    again = copy.deepcopy(grown)
    again.load_state_dict(grown.state_dict())
    assert torch.equal(again(x), grown(x))


def test_transform_leaves_its_input_alone(small):
    model, x, _ = small
    before = copy.deepcopy(model.state_dict())
    fxgrow.transform(model, x, [Widen(factor=2, seed=0)])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    gm = fxgrow.capture(model, x)
    names = [n.name for n in gm.graph.nodes]
    fxgrow.transform(gm, x, [Widen(factor=2, seed=0)])
    assert names == [n.name for n in gm.graph.nodes] and size(gm) == size(model)


@pytest.mark.parametrize("method", ["r2r", "netmorph"])
def test_old_numbers_stay_bit_for_bit(method):
    model, x = shake(thin(lambda: torchvision.models.resnet18(num_classes=5))).eval(), torch.randn(1, 3, 64, 64)
    grown = fxgrow.transform(model, x, [Widen(factor=1.5, method=method, seed=0)])
    old = dict(model.state_dict())
    for name, tensor in grown.model.state_dict().items():
        kept = tensor
        for dim, index in enumerate(getattr(grown.record.parameters.get(name), "index", [])):
            if index is not None:
                kept = kept.index_select(dim, (index >= 0).nonzero().flatten())
        assert torch.equal(kept, old[name]), name


def test_same_seed_same_result_and_another_seed_another():
    model, x = torchvision.models.squeezenet1_1(num_classes=5), torch.randn(1, 3, 64, 64)
    a, b, c = (fxgrow.transform(model, x, [Widen(factor=1.5, seed=s)]).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)


def test_random_is_not_exact_and_verify_says_so():
    model, x = shake(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))), torch.randn(5, 4)
    grown = fxgrow.transform(model, x, [Widen(factor=2, method="random", seed=0)])
    found = fxgrow.verify(model, grown.model, x)
    assert not found.ok and found.max_rel_error > 1e-3


def test_noise_on_copies_breaks_symmetry_and_exactness():
    model, x = shake(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))), torch.randn(5, 4)
    grown = fxgrow.transform(model, x, [Widen("0", factor=2, method="net2net", noise=0.1, seed=0)])
    weight = grown.model.get_submodule("0").weight
    assert not torch.equal(weight[:8], weight[8:]) and not fxgrow.verify(model, grown.model, x).ok


@pytest.mark.parametrize("init", ["match_std", "kaiming", "xavier", "copy", "zero", 0.5,
                                  lambda shape, generator: torch.full(shape, 0.25)])
def test_every_start_is_exact(init):
    grow(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(5, 4), Widen("0", by=4, init=init, seed=0))


def test_match_std_is_uniform_with_the_kernels_deviation():
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)), torch.randn(5, 64)
    new = fxgrow.transform(model, x, [Widen("0", factor=9, seed=0)]).model.get_submodule("0").weight[64:]
    deviation = model[0].weight.std()
    assert abs(new.std() / deviation - 1) < 0.02 and abs(new.abs().max() / (3 ** 0.5 * deviation) - 1) < 0.01


def test_a_deviation_may_be_more_than_a_number_holds():
    assert not math.isfinite(deviation(torch.tensor([1e200, -1e199, 0.0]).double()))


def test_numbers_drawn_stay_when_more_are_drawn():
    drawing = Drawing(4, 8, "xavier", torch.arange(4), torch.ones(8), Draws(0))
    first, second = (drawing.new(torch.zeros(4, 3), 0, 2, torch.arange(2)) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, Drawing(4, 8, "xavier", torch.arange(4), torch.ones(8), Draws(0)).new(
        torch.zeros(4, 3), 0, 2, torch.arange(2)))


def test_copies_start_from_existing_filters():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    grown = fxgrow.transform(model, x, [Widen("0", by=4, init="copy", seed=0)]).model
    first, last = grown.get_submodule("0").weight, grown.get_submodule("2").weight
    assert all(any(torch.equal(row, old) for old in first[:8]) for row in first[8:])
    assert torch.equal(last[:, 8::2], -last[:, 9::2])


def test_to_by_and_rounding():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    assert grow(model, x, Widen("0", to=12, seed=0)).model.get_submodule("0").out_features == 12
    grown = grow(model, x, Widen("0", by=3, seed=0))
    assert grown.model.get_submodule("0").out_features == 12 and "rounded up to 12" in grown.explain().replace("\n", " ")


@pytest.mark.parametrize("arguments", [
    {"factor": 0.5}, {"by": 0}, {}, {"factor": 2, "by": 1}, {"factor": 2, "method": "no"}, {"factor": float("nan")},
    {"factor": 2, "residual": "fold", "method": "net2net"}, {"factor": 2, "noise": -1}])
def test_senseless_requests(arguments):
    with pytest.raises(GrowthError):
        Widen(**arguments)


def test_shrinking_and_unknown_names():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    with pytest.raises(GrowthError, match="8 positions.*shrink"):
        fxgrow.transform(model, x, [Widen("0", to=4)])
    with pytest.raises(SelectionError, match="nearest"):
        fxgrow.transform(model, x, [Widen("zero", factor=2)])


def test_a_method_that_is_not_exact_is_replaced_or_refused():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(5, 4)
    assert grow(model, x, Widen("0", factor=1.5, method="netmorph", seed=0)).outcomes[0].method == "average"
    with pytest.raises(SelectionError, match="normalises over it"):
        fxgrow.transform(model, x, [Widen("0", factor=1.5, method="netmorph", fallback="never")])


def test_a_penalty_on_the_weights_alone_is_a_reason():
    """A product of two parameters has no value of the data beside it that could take a factor back."""
    class Orthogonal(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(self.a(x).relu()), (self.a.weight.t() @ self.a.weight).diagonal().sum()

    for method in ("r2r", "net2net"):
        with pytest.raises(SelectionError, match="^nothing in the model can grow: a: "):
            fxgrow.transform(Orthogonal(), torch.randn(3, 4), [Widen(factor=2, method=method, fallback="never")])


def test_an_op_of_another_library_is_not_taken_for_atens():
    library = torch.library.Library("fxgrow_test", "DEF")
    library.define("relu(Tensor x) -> Tensor")
    library.impl("relu", lambda x: x.cumsum(-1), "CompositeExplicitAutograd")
    library.impl("relu", torch.empty_like, "Meta")

    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.ops.fxgrow_test.relu(self.a(x)))

    with pytest.raises(SelectionError, match="no rule for fxgrow_test::relu"):
        fxgrow.transform(Strange(), torch.randn(3, 4), [Widen("a", by=4)])


@pytest.mark.sweep
def test_a_detectors_backbone_grows_inside_its_untouched_shell():
    model = still(torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4)).eval()
    inputs = ([torch.rand(3, 160, 160)],)
    grown = fxgrow.transform(model, inputs, [Widen("backbone.*", factor=1.5, seed=0)])
    assert size(grown.model) > 1.3 * size(model) and list(grown.model.state_dict()) == list(model.state_dict())
    assert type(grown.model) is type(model) and fxgrow.verify(model, grown.model, inputs).ok


def test_passes_work_in_a_pass_manager_of_torch():
    model, x = shake(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))), torch.randn(5, 4)
    manager = PassManager(passes=[Widen("0", factor=2, seed=0), Widen("0", by=4, method="netmorph", seed=1)])
    grown = manager(fxgrow.capture(model, x)).graph_module
    assert grown.get_submodule("0").out_features == 20 and fxgrow.verify(model, grown, x).ok


def test_numbers_of_16_bits_are_computed_in_float32_and_rounded_once():
    """A share of a third, and a norm's weight times the root of one, are no numbers of 16 bits."""
    torch.manual_seed(0)
    low = nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.ReLU(), nn.Linear(6, 3)).to(torch.bfloat16).eval()
    x = torch.randn(5, 4, dtype=torch.bfloat16)
    for method, factor in (("net2net", 3), ("r2r", 3)):
        grow = Widen("0", factor=factor, method=method, seed=0)
        grown = fxgrow.transform(low, x, [grow]).model.state_dict()
        wide = fxgrow.transform(copy.deepcopy(low).float(), x.float(), [grow]).model.state_dict()
        assert all(t.dtype is torch.bfloat16 and torch.equal(t, wide[name].bfloat16()) for name, t in grown.items())


@pytest.mark.parametrize("dtype, method", [(torch.bfloat16, "net2net"), (torch.float16, "net2net"), (torch.float32, "r2r")])
def test_without_a_method_the_one_that_rounds_least_is_taken(dtype, method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 3)).to(dtype).eval()
    x = torch.randn(5, 4, dtype=dtype)
    grown = fxgrow.transform(model, x, [Widen(factor=2, seed=0)])
    assert grown.record.lineage[-1]["method"] == method
    with pytest.raises(fxgrow.GrowthError, match="not known"):
        Widen(factor=2, method="best")


def test_a_distance_of_16_bits_is_told_beside_the_models_own_rounding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 3)).to(torch.bfloat16).eval()
    x = torch.randn(5, 16, dtype=torch.bfloat16)
    checked = fxgrow.verify(model, fxgrow.transform(model, x, [Widen(factor=3, method="net2net", seed=0)]).model, x)
    with torch.no_grad():
        own = float((model(x).float() - copy.deepcopy(model).float()(x.float())).abs().max() / model(x).abs().max())
    told = next(note for note in checked.notes if "bfloat16" in note)
    assert checked.ok and checked.max_rel_error > 0 and own > 0 and f"{own:.1g}"[:3] in told
