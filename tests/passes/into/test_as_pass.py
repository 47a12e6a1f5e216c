"""GrowInto: a network becomes one of a stock class between other passes, on the command line and during training."""
from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from support import grow, shake

import fxgrow
from fxgrow.cli.main import main
from fxgrow.errors import GrowthError
from fxgrow.passes import Widen
from fxgrow.passes.into.as_pass import GrowInto
from fxgrow.zoo import create_model

BIG = "zoo:cifar_resnet18:r=2**-3,in_channels=1,size=8,stem=3"
X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small(r: float = 2 ** -4):
    torch.manual_seed(0)
    return create_model("cifar_resnet10", r=r, in_channels=1, size=8, stem=3)


def big():
    return create_model("cifar_resnet18", r=2 ** -3, in_channels=1, size=8, stem=3)


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_it_is_the_stock_class_and_computes_the_same(method):
    grown = grow(small(), X, GrowInto(BIG, method=method, seed=0))
    stock = big().double()
    stock.load_state_dict(grown.model.state_dict(), strict=True)
    stock.eval()
    assert torch.equal(stock(X.double()), grown.model.eval()(X.double()))
    step, = grown.record.lineage
    assert step["pass"] == "into" and step["model"] == BIG and step["method"] == method
    assert {o.name: (o.before, o.after) for o in grown.outcomes}["conv1"] == (4, 8)
    assert [c["name"] for c in grown.record.certificate] == [o.name for o in grown.outcomes]


def test_one_seed_gives_one_network():
    first, again, other = (fxgrow.transform(small(), X, GrowInto(BIG, seed=seed)).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(t, again[n]) for n, t in first.items())
    assert any(not torch.equal(t, other[n]) for n, t in first.items())


def test_its_record_goes_on_from_the_growths_before():
    model = shake(small(3 * 2 ** -6))
    grown = fxgrow.transform(model, X, [Widen("conv1", by=1, method="netmorph", seed=0), GrowInto(BIG, seed=0)])
    assert [step["pass"] for step in grown.record.lineage] == ["widen", "into"]
    assert fxgrow.verify(model, grown.model, X).ok
    back, old = grown.record.shrink(grown.model), dict(model.named_parameters())
    assert dict(back.named_parameters()).keys() == old.keys()
    assert all(torch.equal(p, old[name]) for name, p in back.named_parameters())


def test_momentum_goes_where_its_numbers_went():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(X).square().sum().backward()
    optimizer.step()
    grown = fxgrow.transform(model, X, GrowInto(BIG, seed=0))
    moved = grown.record.migrate_optimizer(optimizer, grown.model, model)
    old, new = model.get_parameter("conv1.weight"), grown.model.get_parameter("conv1.weight")
    held = moved.state[new]["momentum_buffer"]
    assert torch.equal(held[:4], optimizer.state[old]["momentum_buffer"]) and held[:4].any() and not held[4:].any()


def test_it_is_a_pass_of_the_command_line(tmp_path):
    fxgrow.save(fxgrow.capture(shake(small()), X), tmp_path / "small.pt")
    done = CliRunner().invoke(main, ["transform", str(tmp_path / "small.pt"), "--pass", "into", "--model", BIG, "--method",
                                     "netmorph", "--seed", "0", "-o", str(tmp_path / "big.pt")])
    assert done.exit_code == 0, done.output
    assert fxgrow.load(tmp_path / "big.pt").state_dict().keys() == big().state_dict().keys()


def test_what_cannot_be_done_is_told():
    with pytest.raises(GrowthError):
        fxgrow.transform(big(), X, GrowInto("zoo:cifar_resnet10:r=2**-4,in_channels=1,size=8,stem=3", seed=0))
    with pytest.raises(GrowthError, match="method"):
        fxgrow.transform(small(), X, GrowInto(BIG, method="copies", seed=0))
    with pytest.raises(fxgrow.FxgrowError, match="no model"):
        fxgrow.transform(small(), X, GrowInto("zoo:resnet10_cifar", seed=0))
