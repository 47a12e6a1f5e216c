"""New numbers of a child from a graph hypernetwork: those that its pass leaves free, so that it stays its parent's equal.

After C. Zhang et al., "Graph HyperNetworks for Neural Architecture Search", 2019, arXiv:1810.05749, and B. Knyazev et al.,
2021, arXiv:2110.13100. Theirs give all numbers of a network and learn from batches; this one gives distributions, and learns
from the trained members of a search, at no FLOPs of training. What a pass draws is found by growing twice more.
"""
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.errors import FxgrowError
from fxgrow.experiments.evolve.embedding import GraphEncoder, GraphTensors, graph_tensors, together
from fxgrow.experiments.evolve.mutation import gap, grow, outputs
from fxgrow.experiments.evolve.worker import threads
from fxgrow.graph import running_copy, tensors_of

MEMBERS = 12         # of the last trained networks, that it learns from
STEPS, RATE = 150, 3e-3
WIDTH = 32
PLACE = 3            # axes of a kernel, at most, that numbers are told apart along
EXACT = 1e-9         # relative error in double precision, up to which a child is its parent's equal

Groups = tuple[Tensor, Tensor, Tensor]  # flat positions of the free numbers of a tensor, which draw each is, and its sign


@dataclass(frozen=True)
class Cells:
    """The parts of a network's tensors that have one distribution each: all channels of one place of a kernel.

    node: which node reads it. what: [cells, 3 + PLACE], what else is known of it. mean, variance: of its numbers.
    count: how many they are. names: for each tensor, its cells as a slice.
    """
    graph: GraphTensors
    node: Tensor
    what: Tensor
    mean: Tensor
    variance: Tensor
    count: Tensor
    names: dict[str, slice]


def cells(gm: GraphModule) -> Cells:
    """Return the cells of all floating-point parameters that the nodes of a graph read."""
    node_of, numbers, names = [], [], {}
    what: list[list[float]] = []
    for i, node in enumerate(gm.graph.nodes):
        for order, (name, tensor) in enumerate(_owned(gm, node)):
            if name in names or not tensor.is_floating_point() or not tensor.numel():
                continue
            kernel = tensor.shape[2:2 + PLACE]
            by_place = tensor.detach().double().reshape(*tensor.shape[:2], math.prod(kernel), -1) if tensor.ndim > 2 else \
                tensor.detach().double().reshape(-1, 1, 1, 1)
            per_place = by_place.permute(2, 0, 1, 3).flatten(1)
            start = len(what)
            for row, place in zip(per_place, itertools.product(*map(range, kernel))):
                middle = [2 * (p + 0.5) / n - 1 for p, n in zip(place, kernel)]
                what.append([order, tensor.ndim, _unit(tensor), *middle, *[0.0] * (PLACE - len(middle))])
                numbers.append(row)
                node_of.append(i)
            names[name] = slice(start, len(what))
    mean, variance = (torch.stack(values).float() for values in zip(*((n.mean(), n.var(correction=0)) for n in numbers)))
    return Cells(graph_tensors(gm), torch.tensor(node_of), torch.tensor(what), mean, variance,
                 torch.tensor([float(len(n)) for n in numbers]), names)


def _owned(gm: GraphModule, node: Any) -> list[tuple[str, Tensor]]:
    path = str(node.target)
    if node.op == "call_module":
        return [(f"{path}.{name}", p) for name, p in gm.get_submodule(path).named_parameters()]
    found = attrgetter(path)(gm) if node.op == "get_attr" else None
    return [(path, found)] if isinstance(found, nn.Parameter) else []


def _unit(tensor: Tensor) -> float:
    """Return the logarithm of the deviation that numbers of a tensor usually have: 1 / sqrt(what a position sums over)."""
    return -0.5 * math.log(max(1, math.prod(tensor.shape[1:])))


class Hypernetwork(nn.Module):
    """Gives each cell of a network's tensors the mean and deviation of a normal distribution."""

    def __init__(self, members: Sequence[GraphModule], seed: int):
        """Learn the distributions that make the numbers of these trained networks likeliest."""
        super().__init__()
        known = [cells(gm) for gm in members]
        whole = together([c.graph for c in known])
        with threads(1), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = GraphEncoder(whole.sizes, WIDTH, 2)
            self.decoder = nn.Sequential(nn.Linear(WIDTH + 3 + PLACE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                                         nn.Linear(WIDTH, 2))
            first = itertools.accumulate((len(c.graph.kinds) for c in known), initial=0)
            node = torch.cat([c.node + offset for c, offset in zip(known, first)])
            what, mean, variance, count = (torch.cat([getattr(c, name) for c in known])
                                           for name in ("what", "mean", "variance", "count"))
            weight = count.log1p() / count.log1p().sum()
            optimizer = torch.optim.Adam(self.parameters(), RATE)
            for _ in range(STEPS):
                optimizer.zero_grad()
                said, log_deviation = self.laws(whole, node, what)
                missed = (variance + (mean - said).square()) / (2 * log_deviation.exp().square())
                (weight * (log_deviation + missed)).sum().backward()
                optimizer.step()
        self.requires_grad_(False)

    def laws(self, graph: GraphTensors, node: Tensor, what: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logarithms of deviations, each of shape [cells]."""
        mean, log_deviation = self.decoder(torch.cat([self.encoder(graph)[node], what], 1)).unbind(1)
        unit = what[:, 2]
        return mean * unit.exp(), (log_deviation + unit).clamp(-12, 6)

    def give(self, child: GraphModule, parent: GraphModule, inputs: Tensor, step: Mapping[str, Any]) -> bool:
        """Give the free numbers of a child that `step` has grown, in place; False: there are none, and nothing is changed.

        They keep the draw that they were, in units of its deviation. In double precision the child must still be its
        parent's equal (`EXACT`), or it is left as it is.
        """
        free = free_numbers(child, parent, inputs, step)
        theirs, where = tensors_of(child), cells(child)
        with threads(1):
            said, log_deviation = self.laws(where.graph, where.node, where.what)
        before = {}
        for name, groups in free.items():
            if name in where.names:
                before[name] = theirs[name].detach().clone()
                law = said[where.names[name]], log_deviation[where.names[name]].exp()
                with torch.no_grad():
                    theirs[name].copy_(_given(before[name], groups, *law))
        if before and not _equal(parent, child, inputs):
            with torch.no_grad():
                for name, old in before.items():
                    theirs[name].copy_(old)
            return False
        return bool(before)


def _given(tensor: Tensor, groups: Groups, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return a tensor whose draws follow the distributions of its cells; numbers of one draw move together."""
    at, group, sign = groups
    flat = tensor.flatten().clone()
    places = math.prod(tensor.shape[2:2 + PLACE])
    last = math.prod(tensor.shape[2 + PLACE:])
    cell = (at // last) % places if tensor.ndim > 2 else torch.zeros_like(at)
    firsts = torch.full((int(group.max()) + 1,), len(at)).scatter_reduce(0, group, torch.arange(len(at)), "amin")
    drawn, cell = flat[at][firsts] * sign[firsts], cell[firsts]
    spread = drawn.std(correction=0) if len(drawn) > 1 else drawn.abs().sum()
    if float(spread) > 0:
        new = mean[cell].to(drawn) + deviation[cell].to(drawn) * (drawn - drawn.mean()) / spread
        flat[at] += sign.to(drawn) * (new - drawn)[group]
    return flat.view_as(tensor)


def free_numbers(child: GraphModule, parent: GraphModule, inputs: Tensor, step: Mapping[str, Any]) -> dict[str, Groups]:
    """Return which numbers of a child its step has drawn: those that differ with the seed, together where they are one draw.

    Numbers that differ by the same, or by the opposite, between children of three seeds are one draw, or its negative.
    """
    if "seed" not in step:
        return {}
    ours = tensors_of(child)
    others = []
    for more in (1, 2):
        grown = grow(parent, inputs, {**step, "seed": step["seed"] + more}).model
        others.append(tensors_of(grown))
    free = {}
    for name, tensor in ours.items():
        if not isinstance(tensor, nn.Parameter) or any(o.get(name) is None or o[name].shape != tensor.shape for o in others):
            continue
        moved = torch.stack([(tensor - other[name]).detach().flatten() for other in others], 1)
        at = moved.ne(0).any(1).nonzero().flatten()
        if len(at):
            leading = torch.where(moved[at, 0] != 0, moved[at, 0], moved[at, 1])
            sign = leading.sign()
            _, group = torch.unique(moved[at] * sign[:, None], dim=0, return_inverse=True)
            free[name] = at, group, sign
    return free


def _equal(parent: GraphModule, child: GraphModule, inputs: Tensor) -> bool:
    x = inputs.double() if inputs.is_floating_point() else inputs
    try:
        before, after = (outputs(running_copy(m).double(), x) for m in (parent, child))  # type: ignore[arg-type]
    except (RuntimeError, TypeError, FxgrowError):  # it does not run in double precision
        return False
    return gap(before, after) <= EXACT
