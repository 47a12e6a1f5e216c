"""The embedding of graphs: what it sees, what it gives back, and what it is learned from."""
from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.experiments.evolve import Limits, Mutation, default_mutations, grow
from fxgrow.experiments.evolve.embedding import KINDS, LATENT, Embedding, drawn_graphs, graph_tensors
from fxgrow.experiments.evolve.predictor import Predictor
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.settings import TrainError
from fxgrow.passes import Deepen, Kernel, Widen

X = torch.randn(2, 1, 8, 8)


class Net(nn.Module):
    """Layers, a function, a parameter of its own, and a value that is read twice."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale, self.last = nn.Parameter(torch.ones(4, 1, 1)), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last((x + self.scale * self.second(x)).mean((2, 3)))


def net(seed: int = 0) -> GraphModule:
    return fxgrow.capture(Net(seed).eval(), X)


@functools.cache
def drawn(seed: int) -> list:
    return list(drawn_graphs(net(), X, default_mutations(), Limits(), seed, 10))


@functools.cache
def embedding() -> Embedding:
    return Embedding(drawn(0), 0, 100)


def test_a_graph_is_seen_with_its_kinds_sizes_and_edges():
    gm = net()
    seen, nodes = graph_tensors(gm), list(gm.graph.nodes)
    kinds = [KINDS[k] for k in seen.kinds]
    assert kinds.count("convolution") == 2 and kinds.count("matrix product") == 1 and kinds.count("in and out") == 2
    first = kinds.index("convolution")
    assert seen.sizes[first].exp().sub(1).tolist() == pytest.approx([4 * 64, 4, 40])
    scale = next(i for i, node in enumerate(nodes) if node.op == "get_attr")
    assert seen.sizes[scale, 2].exp().sub(1).item() == pytest.approx(4)
    edges = {(nodes.index(a), nodes.index(b)) for b in nodes for a in b.all_input_nodes}
    assert {tuple(edge) for edge in seen.edges.T.tolist()} == edges


def test_places_follow_from_structure_alone():
    place = embedding()
    base = place(net())
    assert base.shape == (LATENT,) and np.isfinite(base).all() and np.array_equal(base, place(net(1)))
    grown = [grow(net(), X, step).model for step in
             (Widen("first", by=2, seed=0), Kernel("second", size=5), Deepen("first", seed=0))]
    places = [place(g) for g in grown]
    assert len({tuple(p) for p in [base, *places]}) == 4
    assert all(np.array_equal(p, place(from_bytes(to_bytes(g)))) for p, g in zip(places, grown))


def test_graphs_that_it_has_not_seen_are_given_back():
    known = {g.sizes.sum().item() for g in drawn(0)}
    others = [g for g in drawn(5) if g.sizes.sum().item() not in known]
    untrained = Embedding(drawn(0), 0, 0).recovered(others)
    recovered = embedding().recovered(others)
    assert len(others) > 3 and recovered["kinds"] > 0.85 and recovered["edges"] > 0.75 and recovered["no edges"] > 0.7
    assert untrained["kinds"] < 0.6


def test_the_same_seed_gives_the_same_embedding_and_leaves_the_generator_alone():
    graphs, gm = drawn(0), net()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (Embedding(graphs, seed, 8)(gm) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_drawn_graphs_differ_and_keep_to_the_limits():
    few = [Mutation("widen", places="classes", options={"factor": [2.0], "method": "r2r"})]
    graphs = list(drawn_graphs(net(), X, few, Limits(growth=9, parameters=1500), 0, 30))
    whole = [g.sizes[:, 2].exp().sub(1).sum().item() for g in graphs]
    assert 1 < len(graphs) < 30 and max(whole) <= 1500.5 and len(set(whole)) == len(whole)


def test_a_predictor_without_its_embedding_is_told():
    with pytest.raises(TrainError, match="needs an embedding"):
        Predictor("embedding", 0, lambda archive: net()).see(net())
