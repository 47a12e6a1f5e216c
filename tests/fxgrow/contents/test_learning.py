"""What is new learns: in two steps a gradient reaches each new number that the loss depends on, or `explain` names it."""
import random

import pytest
import torch
import torch.nn.functional as F
from learning import waiting
from random_nets import RandomNet, random_pass
from random_streams import RandomStream
from support import shake, still
from torch import nn

import fxgrow
from fxgrow.passes import Widen

METHODS = ("r2r", "net2net", "net2net-unequal", "netmorph")


def check(model: nn.Module, x, step) -> fxgrow.Grown | None:
    """Grow, compare, and insist that all new numbers learn; None where nothing can grow."""
    try:
        grown = fxgrow.transform(model, x, step)
    except fxgrow.FxgrowError:
        return None
    found = fxgrow.verify(model, grown.model, x)
    assert found.ok, f"{step} {found.errors}"
    said = " ".join(o.certificate for o in grown.outcomes)
    shut = tuple(path for o in grown.outcomes if "gets no gradient" in o.certificate for path in o.producers)
    unsaid = {n: count for n, count in waiting(grown, x).items() if n not in said and not n.startswith(shut)}
    assert not unsaid, f"{step}\n{unsaid}\n{grown.explain()}"
    return grown


def check_stream(seed: int) -> None:
    model, rng = shake(RandomStream(seed).double(), seed), random.Random(seed)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    where = None if rng.random() < 0.3 else f"{rng.choice(layers)}*"
    check(model, model.example(), Widen(where, factor=2, method=rng.choice(METHODS), seed=seed))


def check_net(seed: int, count: int) -> None:
    model, rng = still(shake(RandomNet(seed).double(), seed)), random.Random(seed)
    x = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    captured = fxgrow.transform(model, x, [])
    for _ in range(count):
        check(captured.model, x, random_pass(rng, captured.model, ("r2r", "net2net", "netmorph")))


# the last ones: outputs of 1e6, gradients of 1e-14 of the largest, and plain descent that explodes in one step
@pytest.mark.thinned(4)
@pytest.mark.parametrize("seed", [*range(12), 381, 449, 576, 2168])
def test_random_streams(seed):
    check_stream(seed)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_by_random_passes(seed):
    check_net(seed, 2)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(100, 2600, 100))
def test_many_random_streams(seed):
    for each in range(seed, seed + 100):
        check_stream(each)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(100, 1100, 100))
def test_many_random_networks_by_random_passes(seed):
    for each in range(seed, seed + 100):
        check_net(each, 3)


# --- one place each --------------------------------------------------------------------------------------------------


class Inner(nn.Module):
    """Two projections, multiplied, perhaps normalised, and back."""

    def __init__(self, act, norm=nn.RMSNorm):
        super().__init__()
        self.gate, self.up, self.norm, self.down, self.act = nn.Linear(5, 8), nn.Linear(5, 8), norm(8), nn.Linear(8, 3), act

    def forward(self, x):
        return self.down(self.norm(self.act(self.gate(x)) * self.up(x)))


class Linear(nn.Module):
    """Linear attention over features of queries and keys, from one weight or three."""

    def __init__(self, feature, joined=False):
        super().__init__()
        self.feature, self.joined = feature, joined
        self.qkv = nn.Linear(5, 24) if joined else nn.ModuleList(nn.Linear(5, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 8)).unbind(-2) if self.joined else (f(x) for f in self.qkv)
        q, k = self.feature(q), self.feature(k)
        return self.out(q @ (k.mT @ v) / (q @ k.sum(1, keepdim=True).mT + 0.1))


def grown_by(model: nn.Module, where: str, method: str) -> fxgrow.Grown | None:
    torch.manual_seed(0)
    return check(shake(model.double()), torch.randn(6, 5, 5, dtype=torch.float64), Widen(where, by=8, method=method, seed=0))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("act", [F.silu, F.relu, torch.tanh, lambda x: F.relu(x).square()])
def test_of_two_factors_under_a_norm_one_starts_at_zero(act, method):
    grown = grown_by(Inner(act), "gate", method)
    assert grown.outcomes[0].method == (method if method.startswith("net2net") else "zero")


def test_where_neither_factor_has_a_slope_at_zero_they_are_copied():
    class Both(Inner):
        def forward(self, x):
            return self.down(self.norm(F.relu(self.gate(x)) * F.relu(self.up(x))))

    assert grown_by(Both(F.relu), "gate", "r2r").outcomes[0].method == "net2net"


@pytest.mark.parametrize("act", [F.relu, lambda x: F.relu(x).square(), torch.abs, lambda x: x * (x > 0)])
def test_zeros_behind_a_function_without_a_slope_are_not_chosen(act):
    class Alone(Inner):
        def forward(self, x):
            return self.down(self.norm(self.act(self.gate(x))))

    grown = grown_by(Alone(act), "gate", "netmorph")
    assert grown.outcomes[0].method == "net2net"


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_features_of_queries_and_keys_are_never_zero(method, joined):
    grown = grown_by(Linear(F.relu, joined), "qkv*", method)
    assert grown is None if joined else {o.method for o in grown.outcomes} <= {"net2net", "", method}


@pytest.mark.parametrize("act", [F.silu, torch.abs, torch.square])
def test_what_is_dead_is_found(act):
    grown = grown_by(Inner(act), "gate", "r2r")
    new = {n: grown.record.new_mask(n, p) for n, p in grown.model.named_parameters()}
    with torch.no_grad():  # both factors under the norm
        for name in ("gate.weight", "gate.bias", "up.weight", "up.bias"):
            grown.model.get_parameter(name)[new[name]] = 0
    found = waiting(grown, torch.randn(6, 5, 5, dtype=torch.float64))
    assert found == {n: int(mask.sum()) for n, mask in new.items() if mask.any()}


def test_a_slope_that_is_not_finite_is_refused():
    class Root(Inner):
        def forward(self, x):
            return self.down(self.norm(self.gate(x).abs().sqrt() * self.up(x)))

    for method in METHODS:
        grown_by(Root(None), "gate", method)


def test_distances_take_copies():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            return (-(self.q(x)[:, :, None] - self.k(x)[:, None]).square().sum(-1)).softmax(-1)

    torch.manual_seed(0)
    grown = check(Distances().double(), torch.randn(2, 6, 5, dtype=torch.float64), Widen("q", factor=2, seed=0))
    assert grown.record.parameters["q.weight"].scale == pytest.approx(0.5 ** 0.5)
