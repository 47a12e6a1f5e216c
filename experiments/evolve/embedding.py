"""An embedding of captured graphs that is learned without a training of theirs: a variational autoencoder over graphs.

S. Yan et al., "Does Unsupervised Architecture Representation Learning Help Neural Architecture Search?", NeurIPS 2020,
arXiv:2006.06936 (arch2vec). The encoder is a graph isomorphism network (K. Xu et al., 2019, arXiv:1810.00826). It learns
from graphs that the passes of a search draw, walking away from the base network; nothing is trained for them.
"""
import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_leaves
from fxgrow.experiments.evolve.mutation import Limits, Mutation, Parent, mutate
from fxgrow.experiments.evolve.structure import graph_hash
from fxgrow.experiments.evolve.worker import threads
from fxgrow.graph import FAMILIES, family, run_shapes

KINDS = (*FAMILIES, "in and out", "other")
SIZES = 3            # logarithms of a node's outputs, of the positions of their first axis, and of its parameters
LATENT, WIDTH, LAYERS = 16, 64, 4
GRAPHS, WALK = 96, 6  # graphs to learn from, and the most passes that lie between one and the base network
STEPS, BATCH, RATE, KL = 240, 12, 3e-3, 5e-3  # of the autoencoder's training; KL: weight of the divergence from N(0, 1)


@dataclass(frozen=True)
class GraphTensors:
    """A captured graph as numbers: `kinds` [nodes] in `KINDS`, `sizes` [nodes, SIZES], `edges` [2, edges] from and to."""
    kinds: Tensor
    sizes: Tensor
    edges: Tensor


def graph_tensors(gm: GraphModule) -> GraphTensors:
    """Return what each node does, how large it is for one sample, and which nodes it reads; raises CaptureError."""
    nodes, values = list(gm.graph.nodes), run_shapes(gm)
    place = {node: i for i, node in enumerate(nodes)}
    sizes = []
    for node in nodes:
        value: Tensor | None = next((v for v in tree_leaves(values[node]) if isinstance(v, Tensor)), None)
        shape = () if value is None else value.shape[1:]
        owned = [attrgetter(str(node.target))(gm)] if node.op == "get_attr" else \
            list(gm.get_submodule(str(node.target)).parameters()) if node.op == "call_module" else []
        sizes.append([math.log1p(n) for n in (math.prod(shape), shape[0] if shape else 0,
                                              sum(t.numel() for t in owned if isinstance(t, Tensor)))])
    edges = [(place[read], place[node]) for node in nodes for read in node.all_input_nodes]
    return GraphTensors(torch.tensor([KINDS.index(family(gm, node)) for node in nodes]), torch.tensor(sizes),
                        torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T)


class GraphEncoder(nn.Module):
    """Maps each node of a graph to `width` numbers, which know of nodes up to `layers` edges away."""

    def __init__(self, sizes: Tensor, width: int, layers: int):
        """sizes: of all graphs that it is to learn from, shape [nodes, SIZES]."""
        super().__init__()
        self.register_buffer("centre", sizes.mean(0))
        self.register_buffer("scale", sizes.std(0).clamp_min(1e-3))
        self.first = nn.Linear(len(KINDS) + SIZES, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width),
                                                  nn.LayerNorm(width)) for _ in range(layers))
        self.epsilon = nn.Parameter(torch.zeros(layers))

    def scaled(self, sizes: Tensor) -> Tensor:
        """Return sizes of mean zero and deviation one over the graphs that it learns from. Shape [nodes, SIZES]."""
        return (sizes - self.centre) / self.scale

    def forward(self, graph: GraphTensors) -> Tensor:
        """Return what is known of each node. Shape [nodes, width]."""
        h = self.first(torch.cat([F.one_hot(graph.kinds, len(KINDS)).float(), self.scaled(graph.sizes)], 1))
        start, end = torch.cat([graph.edges, graph.edges.flip(0)], 1)  # messages go both ways, as in arch2vec
        for epsilon, layer in zip(self.epsilon, self.layers):
            h = h + layer((1 + epsilon) * h + torch.zeros_like(h).index_add(0, end, h[start]))
        return h


class Autoencoder(nn.Module):
    """Encodes each node of a graph as a normal distribution over `LATENT` numbers, of which it decodes nodes and edges."""

    def __init__(self, graphs: Sequence[GraphTensors]):
        super().__init__()
        self.encoder = GraphEncoder(torch.cat([g.sizes for g in graphs]), WIDTH, LAYERS)
        self.mean, self.log_variance = nn.Linear(WIDTH, LATENT), nn.Linear(WIDTH, LATENT)
        self.kind, self.size = nn.Linear(LATENT, len(KINDS)), nn.Linear(LATENT, SIZES)
        self.read, self.reader = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)

    def encode(self, graph: GraphTensors) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of each node's code, each of shape [nodes, LATENT]."""
        h = self.encoder(graph)
        return self.mean(h), self.log_variance(h).clamp(-10, 10)

    def edges(self, z: Tensor) -> Tensor:
        """Return the logit of each edge, from the node of the row to that of the column. Shape [nodes, nodes]."""
        return self.read(z) @ self.reader(z).T

    def loss(self, graphs: Sequence[GraphTensors]) -> Tensor:
        """Return what is lost of nodes and edges on the way through the codes, and the codes' divergence from N(0, 1)."""
        whole = together(graphs)
        mean, log_variance = self.encode(whole)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        lost = F.cross_entropy(self.kind(z), whole.kinds) + F.mse_loss(self.size(z), self.encoder.scaled(whole.sizes))
        for graph, codes in zip(graphs, z.split([len(g.kinds) for g in graphs])):
            there = _adjacency(graph)
            rare = (there.numel() - there.sum()) / there.sum().clamp_min(1)
            lost = lost + F.binary_cross_entropy_with_logits(self.edges(codes), there, pos_weight=rare) / (2 * len(graphs))
        return lost + KL * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def together(graphs: Sequence[GraphTensors]) -> GraphTensors:
    """Return several graphs as one without edges between them."""
    offsets = np.cumsum([0, *(len(g.kinds) for g in graphs)]).tolist()
    return GraphTensors(torch.cat([g.kinds for g in graphs]), torch.cat([g.sizes for g in graphs]),
                        torch.cat([g.edges + offset for g, offset in zip(graphs, offsets)], 1))


def _adjacency(graph: GraphTensors) -> Tensor:
    there = torch.zeros(len(graph.kinds), len(graph.kinds))
    there[graph.edges[0], graph.edges[1]] = 1
    return there


class Embedding:
    """Maps captured graphs to `LATENT` numbers each: the sum of its nodes' mean codes."""

    def __init__(self, graphs: Sequence[GraphTensors], seed: int, steps: int):
        """Train the autoencoder on these graphs; the same graphs and seed give the same embedding."""
        rng = random.Random(f"{seed} embedding")
        with threads(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Autoencoder(graphs)
            optimizer = torch.optim.Adam(self.model.parameters(), RATE)
            rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for _ in range(steps):
                optimizer.zero_grad()
                self.model.loss(rng.sample(list(graphs), min(BATCH, len(graphs)))).backward()
                optimizer.step()
                rates.step()
        self.model.requires_grad_(False)

    def __call__(self, gm: GraphModule) -> np.ndarray:
        """Return where a network's graph lies. Shape [LATENT]."""
        with threads(1):
            return self.model.encode(graph_tensors(gm))[0].sum(0).double().numpy()

    def recovered(self, graphs: Sequence[GraphTensors]) -> dict[str, float]:
        """Return the shares of kinds of nodes, and of pairs of nodes with and without an edge, that its codes give back."""
        kinds, edges, others = [], [], []
        for graph in graphs:
            z = self.model.encode(graph)[0]
            there, said = _adjacency(graph).bool(), self.model.edges(z) > 0
            kinds.append((self.model.kind(z).argmax(1) == graph.kinds).float())
            edges.append(said[there].float())
            others.append((~said[~there]).float())
        return {name: float(torch.cat(right).mean()) for name, right in
                {"kinds": kinds, "edges": edges, "no edges": others}.items()}


def drawn_graphs(base: GraphModule, inputs: Tensor, mutations: Sequence[Mutation], limits: Limits, seed: int,
                 count: int) -> Iterator[GraphTensors]:
    """Give up to so many graphs of different structure, the base network's first, each a pass away from one before it."""
    rng, known = random.Random(f"{seed} graphs"), {graph_hash(base)}
    start = parent = Parent(0, base, inputs)
    bounds = dataclasses.replace(limits, latency=None, tied=False)  # what no clock decides
    yield graph_tensors(base)
    steps = 0
    while len(known) < count:
        child, _ = mutate([parent], mutations, rng, bounds, known)
        if child is None and parent is start:  # all of its neighbours are known
            return
        steps += 1
        if child is None or steps % WALK == 0:
            parent = start
        else:
            parent = Parent(0, child.grown.model, inputs)  # type: ignore[arg-type]
        if child is not None:
            known.add(child.graph)
            yield graph_tensors(child.grown.model)  # type: ignore[arg-type]


def learned(base: GraphModule, inputs: Tensor, mutations: Sequence[Mutation], limits: Limits, seed: int) -> Embedding:
    """Return the embedding that a search from this base network uses."""
    return Embedding(list(drawn_graphs(base, inputs, mutations, limits, seed, GRAPHS)), seed, STEPS)
