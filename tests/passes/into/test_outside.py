"""Numbers of a stock class that no state_dict holds: equal in both models, or the reason of a refusal."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from fxgrow.errors import GrowthError
from fxgrow.passes.into import grow_into

D = torch.float64
X = torch.randn(5, 4, dtype=D, generator=torch.Generator().manual_seed(1))


class Tempered(nn.Module):
    """A network with a constant: a buffer that is not persistent, or a plain tensor."""

    def __init__(self, width, constant, keep):
        super().__init__()
        self.a, self.c = nn.Linear(4, width), nn.Linear(width, 3)
        keep(self, torch.as_tensor(constant, dtype=D))

    def forward(self, x):
        return self.c(torch.tanh(self.a(x)) * self.constant)


def buffer(module, value):
    module.register_buffer("constant", value, persistent=False)


def plain(module, value):
    module.constant = value


def state(module, value):
    module.register_buffer("constant", value)


def make(width, constant, keep):
    torch.manual_seed(width)
    return Tempered(width, constant, keep).double().eval()


def gap(one, two, x=X):
    with torch.no_grad():
        return float((one(x) - two(x)).abs().max() / one(x).abs().max())


@pytest.mark.parametrize("keep", [buffer, plain, state])
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_equal_constants_are_kept(keep, method):
    small = make(8, 0.5, keep)
    grown = grow_into(small, make(16, 0.5, keep), X, method=method, seed=0)
    fresh = make(16, 0.5, keep)
    fresh.load_state_dict(dict(grown), strict=True)
    assert gap(small, fresh) < 1e-9 and gap(small, grown.model) < 1e-9 and grown.verification.ok
    assert "constant" not in grown.record.removed


def test_what_the_state_holds_may_differ():
    small, fresh = make(8, 0.5, state), make(16, 2.0, state)
    fresh.load_state_dict(dict(grow_into(small, make(16, 2.0, state), X, seed=0)), strict=True)
    assert gap(small, fresh) < 1e-9


@pytest.mark.parametrize("keep", [buffer, plain])
@pytest.mark.parametrize("check", [True, False])
def test_other_constants_are_refused_by_name(keep, check):
    big = make(16, 2.0, keep)
    with pytest.raises(GrowthError, match="constant: the class has other numbers.*state_dict"):
        grow_into(make(8, 0.5, keep), big, X, seed=0, check=check)
    assert float(big.constant) == 2.0
    with pytest.raises(GrowthError, match="constant: the class has other numbers"):
        grow_into(make(8, 0.5, keep), big, X.to("meta"), seed=0, check=check)


@pytest.mark.parametrize("keep", [buffer, plain])
def test_the_closest_way_is_told_to_be_off_by_what_a_stock_model_is(keep):
    small, fresh = make(8, 0.5, keep), make(16, 0.6, keep)
    grown = grow_into(small, make(16, 0.6, keep), X, seed=0, approximate=True)
    fresh.load_state_dict(dict(grown), strict=True)
    assert not grown.verification.ok and grown.verification.max_rel_error > 0.01 and gap(fresh, grown.model) == 0
    step = next(s for s in grown.plan.steps if s.kind == "constant")
    assert (step.name, step.before, step.after) == ("constant", "0.5", "0.6")


def test_constants_along_an_axis_that_grows():
    """Ones for each channel are ones for more of them; numbers that the constructor makes for each are others."""
    small = make(8, torch.ones(8), buffer)
    fresh = make(16, torch.ones(16), buffer)
    fresh.load_state_dict(dict(grow_into(small, make(16, torch.ones(16), buffer), X, seed=0)), strict=True)
    assert gap(small, fresh) < 1e-9
    with pytest.raises(GrowthError, match="constant"):
        grow_into(make(8, torch.linspace(1, 2, 8), buffer), make(16, torch.linspace(1, 2, 16), buffer), X, seed=0)


def test_a_frozen_model_grows_into_one_that_is_not():
    small = make(8, 0.5, buffer).requires_grad_(False)
    assert grow_into(small, make(8, 0.5, buffer), X, seed=0).verification.ok
    assert not any(p.requires_grad for p in small.parameters())


def test_models_that_were_given_stay_as_they_are():
    small, big = make(8, 0.5, buffer), make(16, 0.5, buffer)
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (small, big)]
    grow_into(small, big, X, seed=0)
    for m, then in zip((small, big), before):
        assert all(torch.equal(t, then[n]) for n, t in m.state_dict().items()) and float(m.constant) == 0.5


@pytest.mark.parametrize("keep", [buffer, plain])
def test_a_constant_that_follows_from_the_width_is_made_up_for(keep):
    small, fresh = make(8, 8 ** 0.5, keep), make(16, 16 ** 0.5, keep)
    fresh.load_state_dict(dict(grow_into(small, make(16, 16 ** 0.5, keep), X, seed=0)), strict=True)
    assert gap(small, fresh) < 1e-9
