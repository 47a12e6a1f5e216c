"""A predictor of a child's gain from its graph alone, and the choice among more children than are to be trained.

Sequential model-based search with a random forest (Hutter et al., 2011, SMAC) or a Gaussian process over features of graphs,
among them counts of subtrees (Shervashidze et al., 2011; Ru et al., 2021, arXiv:2006.07556), or with a Gaussian process over
an embedding that is learned (embedding.py).
"""
import functools
import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from torch.fx import GraphModule

from fxgrow.errors import ArchiveError
from fxgrow.experiments.evolve.member import Scored
from fxgrow.experiments.evolve.mutation import Child
from fxgrow.experiments.evolve.structure import subtree_hashes
from fxgrow.experiments.settings import TrainError, optional
from fxgrow.graph import FAMILIES, calls, family

ENOUGH = 8      # evaluated children, from which on there is something to learn
STAGES = 4      # parts of the depth whose widths are told apart
SUBTREES = 32   # bins that names of subtrees are hashed into
STEPS = 8       # those for names of passes

Features = np.ndarray


def graph_features(gm: GraphModule) -> Features:
    """Count operations of each family, depth, widths by stage, and subtrees of Weisfeiler and Lehman up to height 2.

    Shape [len(FAMILIES) + 2 + 1 + STAGES + SUBTREES].
    """
    nodes, layers = list(gm.graph.nodes), calls(gm)
    met = Counter(family(gm, node) for node in nodes)
    counts = [math.log1p(met[name]) for name in (*FAMILIES, "in and out", "other")]
    layer_nodes = {call.node for call in layers}
    depth_of: dict[Any, int] = {}
    for node in nodes:
        before = max((depth_of[n] for n in node.all_input_nodes), default=0)
        depth_of[node] = before + 1 if node in layer_nodes else before
    depth = max(depth_of.values(), default=0)
    stages: list[list[float]] = [[] for _ in range(STAGES)]
    for call in layers:
        width = attrgetter(call.weight)(gm).shape[1 if call.transposed else 0]
        stages[min(STAGES - 1, (depth_of[call.node] - 1) * STAGES // depth)].append(math.log2(width))
    widths = [sum(stage) / len(stage) if stage else 0.0 for stage in stages]
    return np.array([*counts, math.log1p(depth), *widths, *_histogram(subtree_hashes(gm), SUBTREES)])


def _histogram(names: Iterable[str], bins: int) -> Features:
    """Return log(1 + how many names fall into each bin by their hash); the same in every process."""
    counts = np.zeros(bins)
    for name in names:
        counts[int(hashlib.sha1(name.encode()).hexdigest(), 16) % bins] += 1
    return np.log1p(counts)


def features(graph: Features, step: Mapping[str, Any], size: tuple[int, int], before: tuple[int, int],
             accuracy: float) -> Features:
    """Return a child's features: its graph's, its size and its parent's (parameters, FLOPs), step, parent's accuracy."""
    logs = [math.log(max(n, 1)) for n in (*size, *before)]
    return np.array([*graph, *logs[:2], logs[0] - logs[2], logs[1] - logs[3], *_histogram([step["pass"]], STEPS), accuracy])


def trained_children(scored: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Return each child that did not fail as first evaluated, and its parent as it was then, by round and number."""
    pairs = []
    for s in sorted(scored, key=lambda s: (s.round, s.number)):
        if s.archive and s.member.parent is not None and s.round == s.member.round:
            was = [p for p in scored if p.number == s.member.parent and p.archive and p.round < s.round]
            pairs.append((s, max(was, key=lambda p: p.round)))
    return pairs


class Predictor:
    """Forecasts how much a child gains over its parent's accuracy by its first training.

    kind: forest, whose trees' spread is the uncertainty; gp, a Gaussian process; or embedding, one over where graphs lie and
    their parents' accuracies. load: the network of an archive. learned: for embedding, gives what maps a graph to numbers.
    """

    def __init__(self, kind: str, seed: int, load: Callable[[str], GraphModule],
                 learned: Callable[[], Callable[[GraphModule], Features]] | None = None):
        self.kind, self.seed, self.load, self.learned = kind, seed, load, learned
        self.graphs: dict[str, Features | None] = {}  # by archive
        self.model: Any = None
        self.best = 0.0

    @functools.cached_property
    def see(self) -> Callable[[GraphModule], Features]:
        """Return what maps a graph to numbers; an embedding is learned when it is first needed."""
        if self.kind != "embedding":
            return graph_features
        if self.learned is None:
            raise TrainError("predictor embedding needs an embedding: give what learns it")
        return self.learned()

    def features(self, graph: Features, step: Mapping[str, Any], child: tuple[int, int], parent: Scored) -> Features:
        """Return what a child is judged by: its graph as it is seen, and its parent's accuracy, which is the last number."""
        if self.kind == "embedding":
            return np.array([*graph, parent.score])
        return features(graph, step, child, (parent.member.parameters, parent.member.flops), parent.score)

    def learn(self, scored: Sequence[Scored]) -> bool:
        """Learn from all evaluations so far; False: there are too few of children."""
        pairs = [(self.row(child, parent), child.score - parent.score) for child, parent in trained_children(scored)]
        rows, gains = [row for row, _ in pairs if row is not None], [gain for row, gain in pairs if row is not None]
        if len(rows) < ENOUGH:
            return False
        self.best = max(s.score for s in scored)
        self.model = _regressor(self.kind, self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound
            self.model.fit(np.array(rows), np.array(gains))
        return True

    def row(self, child: Scored, parent: Scored) -> Features | None:
        """Return an evaluated child's features; None where its network cannot be read any more (see `Store.check`)."""
        if child.archive not in self.graphs:
            try:
                self.graphs[child.archive] = self.see(self.load(child.archive))
            except ArchiveError:
                self.graphs[child.archive] = None
        graph, c = self.graphs[child.archive], child.member
        return None if graph is None else self.features(graph, c.step or {"pass": ""}, (c.parameters, c.flops), parent)

    def forecast(self, rows: Sequence[Features]) -> tuple[np.ndarray, np.ndarray]:
        """Return expected accuracies, and their standard deviations."""
        table = np.array(rows)
        if self.kind == "forest":
            by_tree = np.stack([tree.predict(table) for tree in self.model.estimators_])
            gain, sd = by_tree.mean(0), by_tree.std(0)
        else:
            gain, sd = self.model.predict(table, return_std=True)
        return table[:, -1] + gain, sd

    def choose(self, children: Sequence[Child], parents: Mapping[int, Scored], count: int) -> list[Child]:
        """Return those with the highest expected improvement over the best accuracy so far, in their own order."""
        if len(children) <= count:
            return list(children)
        rows = [self.features(self.see(c.grown.model), c.step, (c.parameters, c.flops), parents[c.parent])  # type: ignore
                for c in children]
        mean, sd = self.forecast(rows)
        worth = expected_improvement(mean, sd, self.best)  # zero where an improvement is all but out of the question
        chosen = sorted(range(len(rows)), key=lambda i: (-worth[i], -mean[i], i))[:count]
        return [children[i] for i in sorted(chosen)]


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """Return E[max(0, y - best)] for y ~ N(mean, sd^2) (Jones et al., 1998). Shape [children]."""
    from scipy.stats import norm
    sd = np.maximum(sd, 1e-9)
    z = (mean - best) / sd
    return (mean - best) * norm.cdf(z) + sd * norm.pdf(z)


def _regressor(kind: str, seed: int):
    optional("sklearn", "a predictor needs scikit-learn", "evolve")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    if kind == "forest":
        return RandomForestRegressor(100, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    kernel = ConstantKernel() * RBF(10.0) + WhiteKernel(0.5)
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed))


def held_out(scored: Sequence[Scored], predictor: Predictor) -> list[dict[str, float]]:
    """Return each round's children as they are forecast from the rounds before it alone, and as they turned out.

    A row holds `forecast`, `accuracy`, and what could be said without learning: the `parent` accuracy, and the `flops`.
    """
    forecasts = []
    for round in sorted({s.round for s in scored}):
        rows = [(predictor.row(c, p), c, p) for c, p in trained_children(scored) if c.round == round]
        readable = [(row, c, p) for row, c, p in rows if row is not None]
        if readable and predictor.learn([s for s in scored if s.round < round]):
            means, _ = predictor.forecast([row for row, _, _ in readable])
            forecasts += [{"round": round, "forecast": float(mean), "accuracy": c.score, "parent": p.score,
                           "flops": c.member.flops} for mean, (_, c, p) in zip(means, readable)]
    return forecasts


def rank_correlation(forecasts: Sequence[Mapping[str, float]], by: str = "forecast") -> float | None:
    """Return Spearman's correlation of the forecasts of one round with the accuracies, as the mean over rounds.

    Rounds of fewer than three children, or of children that do not differ in both, are left out; None: all are.
    """
    from scipy.stats import spearmanr
    correlations = []
    for round in sorted({row["round"] for row in forecasts}):
        said, was = ([row[name] for row in forecasts if row["round"] == round] for name in (by, "accuracy"))
        if len(said) >= 3 and len(set(said)) > 1 and len(set(was)) > 1:
            correlations.append(float(spearmanr(said, was).statistic))
    return sum(correlations) / len(correlations) if correlations else None
