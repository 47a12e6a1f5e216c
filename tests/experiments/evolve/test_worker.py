"""One training of a search: moments that are inherited, statistics that are estimated anew; rungs of a round."""
from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch
from torch import nn

import fxgrow
from fxgrow.errors import ArchiveError
from fxgrow.experiments.data import as_data, loader
from fxgrow.experiments.evolve import SearchConfig, Store, search
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.evolve.worker import Task, reestimate, run

STEP = {"pass": "widen", "where": "1", "by": 2, "seed": 0}
DATA = as_data((torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3))
ALL = {"batch_size": 1000, "lr": 0.05}  # every step sees all samples, so that their order does not matter


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def plain() -> bytes:
    return to_bytes(fxgrow.capture(nn.Sequential(*(m for m in net() if not isinstance(m, nn.BatchNorm1d))), DATA.first(2)))


def task(network: bytes, steps: int, step=None, moments: bytes = b"", **settings) -> Task:
    config = SearchConfig.of({"train": ALL, "momentum": "inherit", **settings})
    return Task(1, 1, network, step, steps, 0, config.to_json(), DATA, None, moments)


@pytest.mark.parametrize("train", [ALL, {**ALL, "optimizer": "adamw", "lr": 0.01}])
def test_two_trainings_with_inherited_moments_are_one(train):
    whole = from_bytes(run(task(plain(), 6, train=train)).network)
    first = run(task(plain(), 3, train=train))
    second = from_bytes(run(task(first.network, 3, moments=first.moments, train=train)).network)
    anew = from_bytes(run(task(first.network, 3, train=train)).network)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole.parameters(), second.parameters()))
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole.parameters(), anew.parameters()))


@pytest.mark.parametrize("share, over", [(0.0, (4,)), (0.5, (3, 4)), (1.0, (1, 2, 3, 4))])
def test_a_network_of_a_round_has_the_mean_of_its_last_steps(share, over):
    after = {n: from_bytes(run(task(plain(), n)).network) for n in over}
    found = run(task(plain(), 4, average=share))
    for name, mean in from_bytes(found.network).named_parameters():
        assert torch.allclose(mean, torch.stack([after[n].get_parameter(name) for n in over]).mean(0), atol=1e-6)
    moments = safetensors.torch.load(run(task(plain(), 4)).moments)  # are those of the last step
    assert all(torch.allclose(m, moments[name], atol=1e-6) for name, m in safetensors.torch.load(found.moments).items())


def test_the_last_training_ends_where_its_rate_has_fallen():
    last, usual = (run(dataclasses.replace(task(plain(), 4, average=share, rounds=1), round=2)) for share in (0.5, 0.0))
    assert all(torch.allclose(a, b, atol=1e-6)
               for a, b in zip(from_bytes(last.network).parameters(), from_bytes(usual.network).parameters()))


def test_moments_grow_with_the_network():
    still = {**ALL, "lr": 0.0}
    first = run(task(plain(), 3, train=still))
    before = safetensors.torch.load(first.moments)
    anew, inherited = (safetensors.torch.load(run(task(first.network, 1, STEP, moments, train=still)).moments)
                       for moments in (b"", first.moments))
    assert before.keys() == anew.keys() == inherited.keys() and len(before) == 4
    for name, old in before.items():
        grown = inherited[name] - anew[name]
        kept = grown[tuple(slice(0, n) for n in old.shape)]
        assert torch.allclose(kept, 0.9 * old, atol=1e-6) and float(old.abs().max()) > 0
    assert inherited["momentum_buffer/1.weight"].shape == (8, 16)


def test_moments_that_are_not_wanted_are_not_kept():
    assert run(task(plain(), 1, momentum="anew")).moments == b""
    assert run(task(plain(), 1, train={**ALL, "momentum": 0.0})).moments == b""


def test_moments_that_are_lost_are_told(tmp_path):
    store = Store(tmp_path)
    store.put_moments("a", b"some")
    assert store.moments("a") == b"some"
    store.path("a").with_suffix(".moments").write_bytes(b"some")
    for name in ("a", "b"):
        with pytest.raises(ArchiveError, match=f"{name}.moments cannot be read"):
            store.moments(name)


def test_statistics_are_those_of_the_weights_as_they_are():
    gm = fxgrow.capture(net(), DATA.first(2))
    config = SearchConfig.of({"train": ALL, "statistics": 1})
    flops = reestimate(gm.eval(), DATA, config, 0)
    x = torch.cat([x for x, _ in loader(DATA.train, 1000)])
    seen = gm.get_submodule("1")(x.flatten(1))
    assert torch.allclose(gm.get_buffer("2.running_mean"), seen.mean(0), atol=1e-6)
    assert torch.allclose(gm.get_buffer("2.running_var"), seen.var(0), atol=1e-6)
    assert flops == len(x) * fxgrow.count_flops(gm, DATA.first(1)).forward and gm.training is False
    assert reestimate(gm, DATA, dataclasses.replace(config, statistics=0), 0) == 0
    assert reestimate(from_bytes(plain()), DATA, config, 0) == 0


def test_statistics_cost_flops_and_leave_the_weights():
    network = to_bytes(fxgrow.capture(net(), DATA.first(2)))
    usual, anew = (run(task(network, 2, STEP, statistics=n)) for n in (0, 3))
    a, b = from_bytes(usual.network), from_bytes(anew.network)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert anew.spent > usual.spent and not torch.allclose(a.get_buffer("2.running_var"), b.get_buffer("2.running_var"))


@pytest.mark.parametrize("weights", ["inherit", "share"])
def test_rungs_drop_the_worse_half_and_give_the_others_its_steps(tmp_path, weights):
    config = SearchConfig(first_steps=2, rounds=1, rungs=3, keep=1, children=3, steps=24, final_steps=0, weights=weights,
                          statistics=1, train={"batch_size": 20, "lr": 0.05},
                          mutations=[{"pass": "widen", "factor": [1.25, 1.5, 2.0]}])
    assert config.rung_sizes == [4, 2, 1] and config.last_round == 4
    found = search(config, tmp_path, model=net(), data=DATA)
    kept = Store(tmp_path).all_kept()
    rungs = [[s for s in found.evaluations if s.round == r] for r in (1, 2, 3)]
    if weights == "inherit":
        assert [[s.steps for s in rung] for rung in rungs] == [[2] * 4, [4] * 2, [8]]
    assert [sum(s.steps for s in rung) for rung in rungs] == [8, 8, 8]
    for round, before in ((2, rungs[0]), (3, rungs[1])):
        worst = min(s.score for s in before if s.number in kept[round])
        assert len(kept[round]) == 4 - round and all(s.score <= worst for s in before if s.number not in kept[round])
    assert [s.number for s in found.population] == [found.best.number]
