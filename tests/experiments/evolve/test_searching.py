"""A search: mutations, selection, what is kept on disk, and that a search goes on from wherever it was cut off."""
from __future__ import annotations

import dataclasses
import math
import random
import sqlite3

import pytest
import torch
from random_nets import RandomNet, random_pass
from torch import nn
from torch.fx.passes.infra.pass_base import PassBase, PassResult

import fxgrow
from fxgrow.errors import ArchiveError, FxgrowError
from fxgrow.experiments.data import DataError, as_data
from fxgrow.experiments.evolve import (
    Limits,
    Member,
    Mutation,
    Parent,
    Scored,
    SearchConfig,
    Store,
    best,
    default_mutations,
    diverse,
    engine,
    graph_hash,
    grow,
    hypernetwork,
    mutate,
    resumed,
    search,
)
from fxgrow.experiments.evolve.joint import family, train_jointly
from fxgrow.experiments.evolve.mutation import build, describe, mutations_of
from fxgrow.experiments.evolve.selection import SELECTIONS, front, nsga2, tournament
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.evolve.structure import Hashes, subtree_hashes
from fxgrow.experiments.settings import TrainError
from fxgrow.graph import Layers, Shared
from fxgrow.passes import Deepen, Kernel, Widen

SMALL = {"model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 60, "first_steps": 4, "rounds": 2, "keep": 2,
         "children": 2, "steps": 8, "final_steps": 2, "train": {"batch_size": 20, "lr": 0.05},
         "mutations": [{"pass": "widen", "factor": [1.5, 2.0]}]}


def small(**changes) -> SearchConfig:
    return SearchConfig.of({**SMALL, **changes})


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()


X = torch.randn(2, 1, 8, 8)


def parent(seed: int = 0, number: int = 0) -> Parent:
    return Parent(number, fxgrow.capture(net(seed), X), X)


def scored(number: int, accuracy: float, flops: int = 10, correct: str = "", parameters: int = 10) -> Scored:
    member = Member(number, 1, 0, None, f"g{number}", parameters, flops)
    return Scored(member, 1, f"a{number}", accuracy, 1 - accuracy, correct, 1, 1, 0.0)


# --- mutations ---------------------------------------------------------------------------------------------------------


def test_children_are_equal_to_their_parents_within_the_limits_and_new():
    one, rng, known = parent(), random.Random(0), set()
    limits = Limits(growth=1.8, parameters=600)
    for _ in range(8):
        child, _ = mutate([one], default_mutations(), rng, limits, known)
        if child is None:
            break
        assert child.graph not in known and child.parameters <= min(600, 1.8 * one.costs[0])
        assert child.flops <= 1.8 * one.costs[1] and child.flops == fxgrow.count_flops(child.grown.model, X[:1]).forward
        assert fxgrow.verify(one.model, child.grown.model, X).ok and child.parent == 0
        known.add(child.graph)
        again = grow(one.model, X, child.step).model.state_dict()  # a step makes the same child
        assert all(torch.equal(t, again[n]) for n, t in child.grown.model.state_dict().items())
    assert len(known) >= 4


def test_the_same_seed_gives_the_same_children():
    one, two = (mutate([parent()], default_mutations(), random.Random(5), Limits())[0] for _ in range(2))
    assert one.step == two.step and one.graph == two.graph


def test_what_is_too_large_or_not_equal_is_discarded_with_its_reason():
    for mutation, limits, reason in (
            (Mutation("widen", 1, "classes", {"factor": 4}), Limits(growth=1.1), "times its parent's"),
            (Mutation("widen", 1, "classes", {"factor": 2, "method": "random"}), Limits(growth=9), "not equal to its"),
            (Mutation("kernel", 1, "modules", {"size": 5}), Limits(latency=1e-9), "ms; at most")):
        child, discarded = mutate([parent()], [mutation], random.Random(0), limits)
        assert child is None and any(reason in d.reason for d in discarded)


def test_functions_of_ones_own_are_mutations():
    mine = Mutation("mine", make=lambda model, inputs, rng: Widen("0", by=rng.choice([2, 4]), seed=1))
    child, _ = mutate([parent()], [mine], random.Random(0), Limits())
    assert child.step["pass"] == "widen" and child.step["by"] in (2, 4)
    nothing = Mutation("none", make=lambda model, inputs, rng: None)
    assert mutate([parent()], [nothing], random.Random(0), Limits()) == (None, [])


@pytest.mark.parametrize("mutations, said", [
    ([], "no mutation to draw"), ([Mutation("widen", 0.0)], "no mutation to draw"),
    ([Mutation("mine", make=lambda model, inputs, rng: "widen")], "str is no pass"),
    ([Mutation("mine", make=lambda model, inputs, rng: Widen("0", by=2, init=lambda shape, generator: torch.zeros(shape)))],
     "widen: init is .* cannot be kept")])
def test_mutations_that_no_search_can_take_are_told(mutations, said):
    with pytest.raises(TrainError, match=said):
        mutate([parent()], mutations, random.Random(0), Limits())


def test_with_shared_weights_a_child_that_cannot_share_is_discarded():
    own = Mutation("mine", make=lambda model, inputs, rng: Widen("0", by=2, method="net2net", seed=1))
    child, discarded = mutate([parent()], [own], random.Random(0), Limits(tied=True))
    assert child is None and "cannot be tied" in discarded[0].reason
    assert mutate([parent()], [own], random.Random(0), Limits())[0] is not None


def test_a_step_that_led_to_nothing_or_to_what_is_known_is_not_drawn_again():
    one, known = parent(), set()
    widen = Mutation("widen", places="classes", options={"factor": [1.5, 4.0], "method": "r2r"})
    steps, discarded = [], []
    while True:
        child, refused = mutate([one], [widen], random.Random(len(steps)), Limits(growth=2.5), known)
        discarded += refused
        if child is None:
            break
        known.add(child.graph)
        steps.append((child.step["where"], child.step["factor"]))
    tried = steps + [(d.step["where"], d.step["factor"]) for d in discarded]
    assert steps and discarded and len(tried) == len(set(tried))


def test_a_pass_may_be_done_everywhere_at_once():
    one, (widen,) = parent(), mutations_of([{"pass": "widen", "places": "network", "factor": 2}])
    child, _ = mutate([one], [widen], random.Random(0), Limits(growth=4))
    assert "where" not in child.step and build(child.step) == Widen(factor=2, seed=child.step["seed"])
    assert [child.grown.model.get_submodule(n).out_channels for n in ("0", "3")] == [8, 12]
    assert mutate([one], [widen], random.Random(0), Limits(growth=4), {child.graph})[0] is None  # not drawn a second time


@pytest.mark.parametrize("made", [Widen("0", factor=2, seed=3), Deepen("0", method="netmorph", seed=1), Kernel("0", size=5)])
def test_passes_are_data(made):
    assert build(describe(made)) == made


@pytest.mark.parametrize("table, said", [
    ({"pass": "widn"}, "did you mean widen"), ({}, "needs a pass"), ({"pass": "widen", "places": "x"}, "places is 'x'"),
    ({"pass": "widen", "factor": 2, "weight": 0}, "weight is 0"), ({"pass": "widen", "size": 2}, "widen"),
    ({"pass": "widen", "factor": 2, "method": "no"}, "method"), ({"pass": "widen", "factor": [2, 0.5]}, "would shrink"),
    ({"pass": "widen", "factor": []}, "empty list"), ({"pass": "widen", "factr": 2}, "did you mean factor"),
    ({"pass": "widen", "factor": 2, "seed": 1}, "drawn anew"), ({"pass": "widen", "factor": "a"}, "mutation widen"),
    ({"pass": "widen", "factor": 2, "places": ["x"]}, "places is"), ({"pass": "se", "weight": math.inf}, "weight is inf"),
    ({"pass": "se", "weight": True}, "weight is True")])
def test_wrong_mutations_are_told(table, said):
    with pytest.raises(TrainError, match=said):
        mutations_of([table])


def test_shared_weights_take_no_net2net():
    with pytest.raises(TrainError, match="r2r or netmorph"):
        mutations_of([{"pass": "widen", "factor": 2, "method": "net2net"}], "share")


def test_graph_hashes_are_those_of_searches_so_far():
    """As networkx gives them from 3.5 on: files of searches hold them."""
    gm = fxgrow.capture(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 2))
    assert graph_hash(gm) == "71baac362e8ca25508acd41a7f088d39"
    assert subtree_hashes(gm)[-2:] == ["665cd97b1a9a618151b8fb11778e1bf4", "a6f212636cf377db7e4a2adab93697f4"]


@pytest.mark.parametrize("seed", range(3))
def test_children_are_hashed_as_alone(seed):
    rng, x = random.Random(seed), torch.randn(2, 3, 8, 8)
    torch.manual_seed(seed)
    parent = fxgrow.capture(RandomNet(seed), x)
    layers, hashes = Layers(parent), Hashes(parent)
    for _ in range(4):
        try:
            child = fxgrow.transform(parent, x, random_pass(rng, parent)).model
        except FxgrowError:
            continue
        assert hashes.of(child, Shared(layers, child)) == graph_hash(child) != hashes.own == graph_hash(parent)


def test_graph_hashes_see_settings_and_numbers_in_calls():
    class Net(nn.Module):
        def __init__(self, slope=0.1, padding=1, factor=2):
            super().__init__()
            self.conv, self.act, self.factor = nn.Conv2d(1, 4, 3, padding=padding), nn.LeakyReLU(slope), factor

        def forward(self, x):
            return self.act(self.conv(x)) * self.factor
    nets = [Net(), Net(slope=0.2), Net(padding="same"), Net(factor=3), Net()]
    hashes = [graph_hash(fxgrow.capture(each, X)) for each in nets]
    assert hashes[0] == hashes[4] and len(set(hashes)) == 4


def test_graph_hashes_see_structure_alone():
    one = fxgrow.capture(net(0), X)
    assert graph_hash(one) == graph_hash(fxgrow.capture(net(1), X))
    steps = (Widen("0", by=2), Widen("3", by=2), Kernel("0", size=5), Kernel("3", size=5), Deepen("0", seed=0))
    hashes = [graph_hash(grow(one, X, step).model) for step in steps]
    assert len({graph_hash(one), *hashes}) == 6


# --- selection ---------------------------------------------------------------------------------------------------------


def test_best_and_random_and_aging():
    some = [scored(i, a) for i, a in enumerate((0.2, 0.9, 0.5, 0.9))]
    assert [s.number for s in best(some, 2, random.Random(0))] == [1, 3]
    assert {s.number for s in SELECTIONS["aging"](some, 2, random.Random(0))} == {2, 3}
    assert tournament(some, 4, random.Random(0)).number == 1
    assert len(SELECTIONS["random"](some, 3, random.Random(0))) == 3
    assert [s.number for s in SELECTIONS["hill"](some, 3, random.Random(0))] == [1]


def test_nsga2_keeps_the_front_of_accuracy_flops_and_parameters():
    some = [scored(0, 0.5, 10), scored(1, 0.9, 100), scored(2, 0.7, 50), scored(3, 0.6, 80),
            scored(4, 0.5, 10, parameters=20)]
    assert [s.number for s in front(some)] == [0, 2, 1]
    assert {s.number for s in nsga2(some, 3, random.Random(0))} == {0, 1, 2}
    assert {s.number for s in nsga2(some, 2, random.Random(0))} == {0, 1}  # the ends are the loneliest


def test_diverse_rewards_what_the_others_get_wrong():
    """Of samples that n of the chosen solve each counts (n + 1)^-2: 0.25 + 0.25 + 0.25 < 1."""
    some = [scored(0, 0.75, correct="1110"), scored(1, 0.75, correct="1110"), scored(2, 0.25, correct="0001")]
    assert [s.number for s in diverse(some, 2, random.Random(0))] == [0, 2]


# --- the store ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hurt, said", [
    (lambda whole: whole[:len(whole) // 2], "damaged"), (lambda whole: bytes(len(whole)), "damaged"),
    (lambda whole: whole[:4096] + bytes(len(whole) - 4096), "damaged"), (lambda whole: b"", r"damaged \(it is empty\)"),
    (lambda whole: bytes(100) + whole[100:], "damaged"),
    (lambda whole: whole.replace(b"settings", b"gettings"), "another program's file"),
    (lambda whole: whole.replace(b"kept TEXT", b"left TEXT"), "another program's file")])
def test_a_file_that_is_no_whole_database_of_a_search_is_told_and_left_as_it_is(tmp_path, hurt, said):
    store = Store(tmp_path)
    store.keep_settings({"model": "zoo:mlp" + 9000 * "0"})
    store.put(to_bytes(fxgrow.capture(net(), X)))
    store.close()
    file = tmp_path / "search.sqlite"
    file.write_bytes(hurt(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(TrainError, match=f"search.sqlite is {said}"):
        Store(tmp_path)
    assert file.read_bytes() == before


def test_networks_come_back_bit_by_bit_from_differences(tmp_path):
    store = Store(tmp_path)
    one = fxgrow.capture(net(), X)
    names, contents = [], []
    for step in (None, Widen("0", factor=1.5, seed=1), Deepen("3", seed=2), None):
        model = from_bytes(contents[-1]) if contents else one
        if step is not None:
            model = grow(model, X, step).model
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 1e-3 * torch.rand_like(p))
        contents.append(to_bytes(model))
        names.append(store.put(contents[-1], names[-1] if names else None))
    kinds = [store.path(n).read_bytes()[:4] for n in names]
    assert kinds[0] == b"fxw1" and b"fxd1" in kinds[1:]
    fresh = Store(tmp_path)
    assert [fresh.get(n) for n in reversed(names)] == contents[::-1]
    assert fresh.check() == {}


def test_small_changes_make_small_files(tmp_path):
    torch.manual_seed(0)
    model = fxgrow.capture(nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10)).eval(), torch.zeros(1, 100))
    store = Store(tmp_path)
    name = store.put(to_bytes(model))
    with torch.no_grad():
        model.get_submodule("2").bias.add_(1.0)
    assert store.path(store.put(to_bytes(model), name)).stat().st_size < store.path(name).stat().st_size / 5


@pytest.mark.thinned(2)
@pytest.mark.parametrize("hurt", [lambda b: b[:50], lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:], lambda b: b"", None])
def test_a_damaged_network_is_reported_and_its_lineage_kept(tmp_path, hurt):
    found = search(small(), tmp_path / "run")
    store = Store(tmp_path / "run")
    path = store.path(found.evaluations[1].archive)
    path.unlink() if hurt is None else path.write_bytes(hurt(path.read_bytes()))
    broken = store.check()
    assert found.evaluations[1].archive in broken
    with pytest.raises(ArchiveError, match=path.name):
        store.get(found.evaluations[1].archive)
    assert len(store.evaluations()) == len(found.evaluations)
    assert store.members() == {s.number: s.member for s in found.evaluations}


def test_a_transaction_is_all_or_nothing(tmp_path):
    store = Store(tmp_path)
    store.add_members([Member(0, 0, None, None, "g", 1, 1)], 0, [])
    with pytest.raises(sqlite3.IntegrityError):
        store.add_members([Member(1, 1, 0, {}, "g", 1, 1), Member(0, 1, 0, {}, "g", 1, 1)], 1, [0])
    assert list(store.members()) == [0] and store.kept(1) is None


# --- searches -------------------------------------------------------------------------------------------------------------


def facts(found):
    """All that a search says, seconds aside."""
    return [dataclasses.replace(s, seconds=0.0) for s in (*found.evaluations, found.best, *found.population)]


MODES = {"inherit": {}, "share": {"weights": "share"}, "steady": {"mode": "steady", "selection": "aging"},
         "nsga2": {"selection": "nsga2", "mode": "steady"},
         "rungs": {"rungs": 2, "momentum": "inherit", "adapt": True, "steps": 16,
                   "init": "hypernetwork"}}


@pytest.mark.thinned(5)
@pytest.mark.parametrize("mode", MODES)
def test_a_search_that_is_cut_off_anywhere_goes_on_to_the_same_end(tmp_path, mode, monkeypatch):
    monkeypatch.setattr(hypernetwork, "STEPS", 5)
    config = small(**MODES[mode])
    whole = search(config, tmp_path / "whole")
    assert len(whole.evaluations) >= 6
    pieces = 0
    while True:  # stopped after each evaluation, one more each time
        def stop(run, s):
            if s is not None:
                raise KeyboardInterrupt
        try:
            found = search(config, tmp_path / "pieces", watch=[stop])
            break
        except KeyboardInterrupt:
            pieces += 1
    assert pieces >= (4 if mode == "share" else len(whole.evaluations)) and facts(found) == facts(whole)
    assert resumed(tmp_path / "pieces") == config


def test_a_search_that_needs_a_damaged_network_says_what_to_do_and_goes_on_when_it_is_back(tmp_path):
    def stop(run, s):
        if s is not None:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        search(small(), tmp_path / "run", watch=[stop])
    (path,) = (tmp_path / "run" / "networks").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    with pytest.raises(ArchiveError, match=f"{path.name} .*put the file back from a copy, and go on with --resume"):
        search(small(), tmp_path / "run")
    path.write_bytes(whole)
    assert facts(search(small(), tmp_path / "run")) == facts(search(small(), tmp_path / "other"))


def test_a_full_disk_is_told_and_the_search_goes_on_from_what_was_finished(tmp_path):
    def fill(run, s):
        if s is not None:
            run.store.db.execute("PRAGMA max_page_count = 1")  # no page more than there are
            run.store.db.execute("CREATE TABLE IF NOT EXISTS ballast AS SELECT randomblob(1000000)")
    with pytest.raises(ArchiveError, match="disk is full; free space, .* go on with --resume"):
        search(small(), tmp_path / "run", watch=[fill])
    assert len(Store(tmp_path / "run").evaluations()) == 1
    assert facts(search(small(), tmp_path / "run")) == facts(search(small(), tmp_path / "other"))


@pytest.mark.sweep
def test_a_pool_of_processes_gives_the_same(tmp_path):
    one = search(small(), tmp_path / "one")
    with engine("processes", 2) as pool:
        two = search(small(), tmp_path / "two", engine=pool)
    key = lambda s: (s.round, s.number)  # noqa: E731  # the order in which they end is not the same
    assert sorted(facts(one), key=key) == sorted(facts(two), key=key)


def test_children_start_where_their_parent_was(tmp_path):
    found = search(small(steps=3, keep=2, children=1, rounds=1, train={"batch_size": 20, "lr": 0.0}), tmp_path / "run")
    base, child = found.evaluations[0], next(s for s in found.evaluations if s.member.parent == 0)
    assert child.accuracy == base.accuracy and child.correct == base.correct
    assert child.loss == pytest.approx(base.loss, rel=1e-5)
    assert child.member.parameters > base.member.parameters


def parameters(tied) -> list[nn.Parameter]:
    return list(dict.fromkeys(p for m in tied.values() for p in m.model.parameters()))


def test_shared_networks_hold_each_number_once():
    base = fxgrow.capture(net(), X)
    networks = {0: (None, base)}
    steps = [(0, Widen("0", factor=2, seed=1)), (1, Deepen("3", seed=2)), (0, Kernel("3", size=5))]
    for number, (of, step) in enumerate(steps, 1):
        networks[number] = of, grow(networks[of][1], X, step).model
    tied = family(networks)
    for number, (_, model) in networks.items():
        assert fxgrow.verify(model, tied[number].model, X).ok
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, (_, m) in networks.items()}
    grown = [sizes[1] - sizes[0], sizes[2] - sizes[1], sizes[3] - sizes[0]]
    assert sum(p.numel() for p in parameters(tied)) == sizes[0] + sum(grown)
    before = {n: m.model(X) for n, m in tied.items()}
    loss = tied[2].model.train()(X).square().sum()
    loss.backward()
    torch.optim.SGD(parameters(tied), 0.1).step()
    tied[2].model.eval()
    assert all(not torch.allclose(before[n], m.model(X)) for n, m in tied.items())  # a step on one moves all


def test_shared_networks_are_trained_in_the_precision_and_by_the_compiler_that_are_asked_for():
    ends = {}
    for settings in ("", "precision=bf16", "compile=eager"):
        base = fxgrow.capture(net(), X)
        tied = family({0: (None, base), 1: (0, grow(base, X, Widen("0", factor=2, seed=1)).model)})
        data = as_data((torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3))
        config = small(train={"batch_size": 8, "lr": 0.05, **dict([settings.split("=")] if settings else [])})
        train_jointly(tied, [0, 1], data, config, 6, 0)
        ends[settings] = torch.cat([p.detach().flatten() for p in parameters(tied)])
    plain, low, compiled = ends.values()
    assert torch.allclose(plain, compiled, atol=1e-6) and 1e-5 < float((plain - low).abs().max()) < 0.1


def test_a_diverging_child_does_not_end_the_search(tmp_path, monkeypatch):
    found = search(small(train={"batch_size": 20, "lr": 0.05}), tmp_path / "fine")
    from fxgrow.experiments.evolve import worker
    fit = worker.Trainer.fit

    def fails(self):
        if self.config.seed == broken:
            raise TrainError("the loss is nan")
        return fit(self)

    from fxgrow.common import mixed
    broken = mixed(0, 1, 1) % 2 ** 31  # the first child
    monkeypatch.setattr(worker.Trainer, "fit", fails)
    other = search(small(train={"batch_size": 20, "lr": 0.05}), tmp_path / "one_fails")
    failed = next(s for s in other.evaluations if (s.number, s.round) == (1, 1))
    assert failed.archive == "" and failed.accuracy == 0 and failed not in other.population
    assert len({s.round for s in other.evaluations}) == len({s.round for s in found.evaluations})


def test_a_base_network_that_diverges_is_told(tmp_path):
    with pytest.raises(TrainError, match="base network cannot be trained: the loss is"):
        search(small(train={"batch_size": 20, "lr": 1e30}), tmp_path / "run")


def test_limits_and_budgets(tmp_path):
    found = search(small(growth=1.5, parameters=1200, rounds=3), tmp_path / "a")
    assert all(s.member.parameters <= 1200 for s in found.evaluations)
    spent = found.evaluations[0].spent
    short = search(small(total_flops=spent, rounds=3), tmp_path / "b")
    assert {s.round for s in short.evaluations} == {0, 4} and Store(tmp_path / "b").kept(1) is None
    graphs = [s.member.graph for s in {s.number: s for s in found.evaluations}.values()]
    assert len(graphs) == len(set(graphs))


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    search(small(rounds=1), tmp_path)
    with pytest.raises(TrainError, match="other settings"):
        search(small(rounds=2), tmp_path)
    with pytest.raises(TrainError, match="holds no search"):
        resumed(tmp_path / "nothing")


def test_a_damaged_database_is_called_so(tmp_path):
    (tmp_path / "search.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(TrainError, match="search.sqlite is damaged .*put a copy of it there"):
        resumed(tmp_path)


@pytest.mark.parametrize("changes, said", [
    ({"roundz": 1}, "did you mean rounds"), ({"rounds": 0}, "at least 1"), ({"selection": "x"}, "one of best"),
    ({"growth": 1}, "above 1"), ({"mode": "steady", "weights": "share"}, "mode steady"),
    ({"train": {"steps": 1}}, "takes no steps"), ({"train": {"lrr": 1}}, "no setting 'lrr'"),
    ({"mutations": [{"pass": "x"}]}, "none called 'x'"), ({"mutations": "widen"}, "tables, each"),
    ({"mutations": {"pass": "widen"}}, "tables, each"), ({"mutations": ["widen"]}, "tables, each"),
    ({"train": "x"}, "a table"), ({"growth": "big"}, "a number"), ({"growth": math.nan}, "a number"),
    ({"flops": "x"}, "a number"), ({"seed": 1.5}, "whole"), ({"flops": -5}, "above 0"), ({"total_flops": 0}, "above 0"),
    ({"latency": -1}, "above 0"), ({"parameters": 0}, "at least 1"), ({"parameters": 1.5}, "whole number"),
    ({"limit": 0}, "at least 1"), ({"rounds": True}, "whole number"), ({"final_steps": -1}, "at least 0"),
    ({"rungs": 0}, "at least 1"), ({"rungs": 2, "mode": "steady"}, "no rounds to drop"), ({"statistics": -1}, "at least 0"),
    ({"average": 0.5, "weights": "share"}, "no mean of one's own"), ({"average": 1.5}, "from 0 to 1"),
    ({"momentum": "inherit", "weights": "share"}, "one optimizer"), ({"momentum": "x"}, "one of anew, inherit"),
    ({"data": 3}, "a word"), ({"root": 3}, "a word"), ({"weights": 3}, "one of inherit")])
def test_wrong_settings_are_told(changes, said):
    with pytest.raises(TrainError, match=said):
        small(**changes)


@pytest.mark.parametrize("changes, said", [
    ({"parameters": 500}, r"has parameters 682, more than the 500 that"), ({"flops": 1000}, "has flops"),
    ({"latency": 1e-6}, "has latency")])
def test_a_base_network_beyond_a_limit_is_told_before_anything_is_trained(tmp_path, changes, said):
    with pytest.raises(TrainError, match=said):
        search(small(**changes), tmp_path)
    assert not Store(tmp_path).evaluations()


@pytest.mark.parametrize("changes", [{}, {"mode": "steady"}, {"rungs": 2}])
def test_a_search_has_one_schedule_that_falls_in_the_last_training(changes):
    config = small(train={"schedule": "linear", "warmup": 3}, **changes)
    ways = [(made.schedule, made.warmup) for made in (config.trainer(8, 0, round) for round in range(config.last_round + 1))]
    assert ways == [("constant", 3), *[("constant", 0)] * (config.last_round - 1), ("linear", 0)]
    assert small().trainer(8, 0, small().last_round).schedule == "cosine"


def test_each_training_may_have_the_schedule_to_itself_and_does_in_hill_climbing():
    assert small(selection="hill").trainer(8, 0).schedule == "cosine"
    assert small(anneal="each").trainer(8, 0).schedule == "constant"
    for changes in ({"selection": "hill"}, {"anneal": "each"}):
        made = small(train={"schedule": "linear", "warmup": 3}, **changes).trainer(8, 0, 1)
        assert (made.schedule, made.warmup) == ("linear", 3)


def test_a_search_of_before_there_was_a_choice_of_schedules_goes_on_as_it_was(tmp_path):
    store, old = Store(tmp_path), small().to_json()
    del old["anneal"]
    store.keep_settings(old)
    assert resumed(tmp_path) == small(anneal="each")


# --- objects of one's own -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Slopes(PassBase):
    """A pass of one's own: a PReLU of slope one behind the first layer, named after its options."""
    names: tuple[str, ...] = ("slope",)

    def call(self, gm):
        node = next(n for n in gm.graph.nodes if n.op == "call_module" and isinstance(gm.get_submodule(n.target), nn.Linear))
        name = "_".join(self.names) + str(len(list(gm.modules())))
        gm.add_submodule(name, nn.PReLU(gm.get_submodule(node.target).out_features, init=1.0))
        with gm.graph.inserting_after(node):
            call = gm.graph.call_module(name, (node,))
        node.replace_all_uses_with(call, lambda user: user is not call)
        return PassResult(gm, True)


def small_and_right(model, data) -> float:
    return float(data.validation.labels.shape[0]) - sum(p.numel() for p in model.parameters())


def largest_first(scored, keep, rng):
    return sorted(scored, key=lambda s: -s.member.parameters)[:keep]


def own() -> dict:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(80, 1, 4, 4)
    return {"model": model, "data": (x, (x.sum((1, 2, 3)) > 0).long()), "fitness": small_and_right,
            "selection": largest_first}


def test_a_search_takes_model_data_fitness_selection_and_passes_as_objects(tmp_path):
    config, mutations = small(), [Mutation(Slopes, 2, options={"names": [("a", "b"), ("c",)]}),
                                  Mutation(Widen, options={"factor": [1.5, 2.0]})]
    found = search(config, tmp_path / "here", mutations=mutations, **own())
    assert found.config.given == ["model", "data", "fitness", "selection"] and not config.given
    assert {type(s.fitness) for s in found.evaluations} == {float}
    assert found.best.number == max(found.population, key=lambda s: s.score).number
    kept = Store(tmp_path / "here").all_kept()
    assert kept[2] == [s.number for s in largest_first([s for s in found.evaluations if s.round == 1], 2, None)]
    steps = [s.member.step for s in found.evaluations if s.member.step]
    assert any(step["pass"].endswith("test_searching:Slopes") for step in steps)
    again = search(resumed(tmp_path / "here"), tmp_path / "here", **own())
    assert [(s.number, s.fitness) for s in again.evaluations] == [(s.number, s.fitness) for s in found.evaluations]
    with pytest.raises(TrainError, match="was given its model and data and fitness and selection in Python"):
        search(resumed(tmp_path / "here"), tmp_path / "here")


def test_a_fitness_that_is_no_number_is_told(tmp_path):
    with pytest.raises(TrainError, match="the base network cannot be trained: fitness gave a Tensor; it must give a finite"):
        search(small(), tmp_path, **{**own(), "fitness": lambda model, data: torch.ones(3)})


@pytest.mark.parametrize("data, said", [
    (torch.ones(3), "the data are a Tensor"), ((torch.ones(3, 2), torch.arange(3.0)), "of torch.float32"),
    ((torch.ones(3, 2), torch.ones(4).long()), r"labels \[4\]"), ("digits", "the data are 'digits'")])
def test_data_that_are_none_are_told(tmp_path, data, said):
    with pytest.raises(DataError, match=said):
        search(small(), tmp_path, data=data)


@pytest.mark.parametrize("changes, said", [
    ({"model": net()}, "model is a Sequential; it must be a word"),
    ({"data": own()["data"]}, "data is a tuple; .*registered"),
    ({"selection": largest_first}, "selection is a function"), ({"mutations": [Mutation("widen")]}, "mutations is a list; "),
    ({"train": {"lr": torch.ones(99)}}, "lr is a Tensor"), ({"growth": net()}, "growth is a Sequential")])
def test_messages_print_no_networks_and_no_tensors(changes, said):
    with pytest.raises(TrainError, match=said) as error:
        small(**changes)
    assert len(str(error.value)) < 250


def test_passes_that_cannot_be_found_again_or_not_be_made_are_told():
    class Local(Slopes):
        pass

    with pytest.raises(TrainError, match="Local cannot be found again .* top level of a module"):
        mutate([parent()], [Mutation(Local)], random.Random(0), Limits())
    with pytest.raises(TrainError, match="mutation Widen: give exactly one of factor"):
        mutate([parent()], [Mutation(Widen)], random.Random(0), Limits())
    assert build({"pass": f"{__name__}:Slopes", "names": ["a", "b"]}) == Slopes(("a", "b"))


def test_a_child_with_more_outputs_is_not_equal():
    more = Mutation("mine", make=lambda model, inputs, rng: Widen("7", by=1, seed=0))
    child, discarded = mutate([parent()], [more], random.Random(0), Limits())
    assert child is None and "not equal to its parent" in discarded[0].reason
