"""The performance predictor: what it sees of a graph, what it learns, how a search uses it."""
from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.experiments.evolve import Limits, Member, Mutation, Scored, SearchConfig, Store, embedding, grow, search
from fxgrow.experiments.evolve.embedding import Embedding, drawn_graphs
from fxgrow.experiments.evolve.mutation import Child
from fxgrow.experiments.evolve.predictor import (
    ENOUGH,
    Predictor,
    expected_improvement,
    features,
    graph_features,
    held_out,
    rank_correlation,
    trained_children,
)
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.settings import TrainError
from fxgrow.passes import Deepen, Kernel, Widen

SMALL = {"model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 60, "first_steps": 4, "rounds": 3, "keep": 1,
         "children": 4, "steps": 12, "final_steps": 2, "train": {"batch_size": 20, "lr": 0.05}, "predictor": "forest",
         "candidates": 3}
X = torch.randn(2, 1, 8, 8)


def net(seed: int = 0, width: int = 4) -> GraphModule:
    torch.manual_seed(seed)
    return fxgrow.capture(nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 6, 3, padding=1),
                                        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval(), X)


def scored(number: int, round: int, accuracy: float, archive: str, parent: int | None = 0, flops: int = 10) -> Scored:
    step = None if parent is None else {"pass": "widen"}
    member = Member(number, 0 if parent is None else round, parent, step, f"g{number}", 10, flops)
    return Scored(member, round, archive, accuracy, 1 - accuracy, "", 1, 1, 0.0)


# --- features ------------------------------------------------------------------------------------------------------------


def test_features_see_structure_and_not_numbers():
    base = graph_features(net(0))
    assert np.array_equal(base, graph_features(net(1)))
    grown = [grow(net(), X, step).model for step in (Widen("0", by=2), Kernel("0", size=5), Deepen("0", seed=0))]
    sizes = [fxgrow.count_flops(g, X[:1]).forward for g in grown]
    seen = [graph_features(g) for g in grown]
    assert all(s.shape == base.shape and np.isfinite(s).all() for s in seen)
    assert not np.array_equal(seen[0], base) and not np.array_equal(seen[2], base)
    step = {"pass": "kernel"}  # what the graph alone does not tell, sizes do
    assert len({tuple(features(s, step, (10, f), (10, 10), 0.5)) for s, f in zip(seen, sizes)}) == 3


def test_features_of_a_child_are_those_of_its_archive():
    for step in (Widen("0", by=2, seed=0), Deepen("0", seed=0), Kernel("0", size=5)):
        model = grow(net(), X, step).model
        assert np.array_equal(graph_features(model), graph_features(from_bytes(to_bytes(model))))


# --- learning -------------------------------------------------------------------------------------------------------------


def history(rounds: int = 4, each: int = 8) -> tuple[list[Scored], dict[str, GraphModule]]:
    """Children whose gain is their width: what a network's archive holds says how well it does."""
    models, told, number = {"base": net()}, [scored(0, 0, 0.3, "base", None)], 0
    rng = random.Random(0)
    for round in range(1, rounds + 1):
        for _ in range(each):
            number, width = number + 1, rng.randrange(5, 30)
            models[f"a{number}"] = net(number, width)
            told.append(scored(number, round, 0.3 + 0.02 * width, f"a{number}"))
    return told, models


def predictor_of(kind: str, models: dict[str, GraphModule]) -> Predictor:
    return Predictor(kind, 0, models.__getitem__, lambda: Embedding(
        list(drawn_graphs(net(), X, [Mutation("widen", options={"factor": [1.5, 2.0]})], Limits(), 0, 20)), 0, 60))


@pytest.mark.thinned(4)
@pytest.mark.parametrize("kind", ["forest", "gp", pytest.param("embedding", marks=pytest.mark.sweep)])
def test_what_widths_bring_is_learned_and_chosen(kind):
    told, models = history()
    assert rank_correlation(held_out(told, predictor_of(kind, models))) > 0.8
    predictor = predictor_of(kind, models)
    assert predictor.learn(told)
    children = [Child(0, grow(net(), X, Widen("0", to=w, seed=0)), {"pass": "widen"}, str(w), 10, 10)
                for w in (5, 28, 8, 29)]
    chosen = predictor.choose(children, {0: told[0]}, 2)
    assert [c.graph for c in chosen] == ["28", "29"]
    assert predictor.choose(children, {0: told[0]}, 4) == children


def test_forecasts_know_the_rounds_before_alone():
    told, models = history()
    changed = [dataclasses.replace(s, accuracy=0.0) if s.round == 4 else s for s in told]
    rows = [held_out(h, predictor_of("forest", models)) for h in (told, changed)]
    early = [[row["forecast"] for row in found if row["round"] <= 4] for found in rows]
    assert early[0] == early[1] and len(early[0]) == 8 * 3


def test_too_few_children_teach_nothing():
    told, models = history(1, ENOUGH - 1)
    assert not Predictor("forest", 0, models.__getitem__).learn(told)
    assert held_out(told, predictor_of("forest", models)) == [] and rank_correlation([]) is None


def test_a_child_is_compared_with_its_parent_as_it_was():
    told = [scored(0, 0, 0.1, "b0", None), scored(0, 1, 0.4, "b1", None), scored(1, 2, 0.5, "c"),
            scored(0, 2, 0.6, "b2", None), scored(1, 3, 0.9, "c3"), scored(2, 3, 0.0, "")]
    told[4] = dataclasses.replace(told[4], member=told[2].member)
    pairs = trained_children(list(reversed(told)))
    assert [(c.archive, p.archive) for c, p in pairs] == [("c", "b1")]  # first trainings, of those that did not fail


def test_expected_improvement_is_that_of_draws():
    mean, sd = np.array([0.2, 0.5, 0.7]), np.array([0.3, 0.1, 0.0])
    draws = np.random.default_rng(0).normal(mean, sd, (200_000, 3))
    assert expected_improvement(mean, sd, 0.5) == pytest.approx(np.maximum(draws - 0.5, 0).mean(0), abs=2e-3)


# --- in a search ----------------------------------------------------------------------------------------------------------


def facts(found):
    return [dataclasses.replace(s, seconds=0.0) for s in (*found.evaluations, found.best, *found.population)]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("changes", [
    pytest.param({}, marks=pytest.mark.sweep), {"mode": "steady", "predictor": "gp", "rounds": 3},
    pytest.param({"predictor": "embedding"}, marks=pytest.mark.sweep)])
def test_a_search_with_a_predictor_that_is_cut_off_goes_on_to_the_same_end(tmp_path, changes, monkeypatch):
    monkeypatch.setattr(embedding, "GRAPHS", 6)
    monkeypatch.setattr(embedding, "STEPS", 20)
    config = SearchConfig.of({**SMALL, **changes})
    whole = search(config, tmp_path / "whole")
    plain = search(dataclasses.replace(config, predictor="none"), tmp_path / "plain")
    assert len(trained_children(whole.evaluations)) > ENOUGH and facts(plain) != facts(whole)  # it has chosen
    while True:
        def stop(run, s):
            if s is not None and len(run.scored) % 5 == 0:
                raise KeyboardInterrupt
        try:
            found = search(config, tmp_path / "pieces", watch=[stop])
            break
        except KeyboardInterrupt:
            pass
    assert facts(found) == facts(whole)
    store = Store(tmp_path / "whole")
    numbers = [m.number for m in store.members().values()]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("changes, said", [({"predictor": "oracle"}, "one of none, forest, gp, embedding"),
                                           ({"candidates": 0}, "candidates is 0")])
def test_wrong_settings_are_told(changes, said):
    with pytest.raises(TrainError, match=said):
        SearchConfig.of({**SMALL, **changes})
