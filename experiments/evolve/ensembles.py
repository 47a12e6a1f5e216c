"""Ensembles of the members of a search: average, weighted, and stacked; accuracy against members and FLOPs.

The functions up to `fit_stack` take logits of shape [members, samples, classes] and labels of shape [samples]; `ensemble`
makes a table of a search's folder.
"""
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Subset

import fxgrow
from fxgrow.common import atomic_write
from fxgrow.errors import ArchiveError
from fxgrow.experiments.data import Data, loader, stratified_split
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.member import Scored
from fxgrow.experiments.evolve.selection import best, diverse, last_states
from fxgrow.experiments.evolve.store import Store, opened
from fxgrow.experiments.evolve.worker import data_of
from fxgrow.experiments.settings import TrainError

ENSEMBLES = "ensembles.json"  # the file of the table in a search's folder
RULES = {"best": best, "diverse": diverse}  # how members are chosen
LEAST = 1e-3  # a smaller weight is not worth running the member
# Of a stack: units, AdamW's rate and weight decay, the most steps; of the cross-validation that says how many: folds, and
# the steps between two looks at the loss
HIDDEN, RATE, DECAY, STEPS, FOLDS, EVERY = 32, 1e-2, 1e-2, 120, 4, 4


def average(logits: Tensor) -> Tensor:
    """Return the mean of the members' probabilities. Shape [samples, classes]."""
    return logits.softmax(-1).mean(0)


def weighted(logits: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the members' probabilities; weights are at least 0, of sum 1. Shape [samples, classes]."""
    return torch.einsum("m,msc->sc", weights.to(logits), logits.softmax(-1))


def fitted_weights(logits: Tensor, labels: Tensor, steps: int = 1000) -> Tensor:
    """Return the weights under which the labels are likeliest. Shape [members].

    They maximise sum_i log sum_m w_m p_m(y_i) over the simplex, a concave problem, by expectation maximisation, w_m <-
    mean_i w_m p_m(y_i) / sum_n w_n p_n(y_i), which only ever climbs (Dempster et al., 1977). Weights below LEAST become 0.
    """
    right = logits.double().log_softmax(-1)[:, torch.arange(len(labels)), labels]  # [members, samples]
    log_w = torch.full((len(logits), 1), -math.log(len(logits)), dtype=torch.float64)
    for _ in range(steps):
        log_w = torch.logsumexp((log_w + right).log_softmax(0), 1, keepdim=True) - math.log(len(labels))
    w = log_w.softmax(0)[:, 0].float()
    w = torch.where(w < LEAST, 0.0, w)
    return w / w.sum()


def greedy_weights(logits: Tensor, labels: Tensor, picks: int = 25) -> Tensor:
    """Return the share of `picks` choices that fell on each member. Shape [members].

    Each falls on the one with which the average of all that were chosen is right most often, of equals the likeliest;
    members can be chosen again (Caruana et al., 2004).
    """
    p, rows = logits.double().softmax(-1), torch.arange(len(labels))
    counts, total = torch.zeros(len(p)), torch.zeros_like(p[0])
    for _ in range(picks):
        tried = total + p                                               # [members, samples, classes]
        right = (tried.argmax(-1) == labels).double().mean(1)
        sure = tried[:, rows, labels].clamp_min(1e-300).log().mean(1)
        pick = max(range(len(p)), key=lambda m: (float(right[m]), float(sure[m])))
        counts[pick] += 1
        total = tried[pick]
    return counts / picks


class Stack(nn.Module):
    """A correction to the log of the members' mean probability, at first zero (Wolpert, 1992, "Stacked generalization")."""

    def __init__(self, members: int, classes: int, hidden: int = HIDDEN):
        super().__init__()
        self.hidden = nn.Linear(members * classes, hidden)
        self.out = nn.Linear(hidden, classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits [members, samples, classes] to log-probabilities [samples, classes]."""
        logs = logits.log_softmax(-1).clamp_min(-12.0)  # one that is all too sure of a wrong answer outweighs no other
        mean = torch.logsumexp(logits.log_softmax(-1), 0) - torch.tensor(float(len(logits))).log()
        learned = self.out(torch.relu(self.hidden(logs.transpose(0, 1).flatten(1))))
        return (mean + learned).log_softmax(-1)


def fit_stack(logits: Tensor, labels: Tensor, seed: int, steps: int = STEPS) -> tuple[Stack, int]:
    """Return a stack and its number of steps (0: it is the average), that of the lowest loss in cross-validation."""
    curves = torch.zeros(steps // EVERY + 1, dtype=torch.float64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for fold in range(min(FOLDS, len(labels)) if len(labels) > 1 else 0):
        left_out = torch.zeros(len(labels), dtype=torch.bool)
        left_out[order[fold::FOLDS]] = True
        curves += _train(logits[:, ~left_out], labels[~left_out], seed, steps, (logits[:, left_out], labels[left_out]))[1]
    chosen = EVERY * int(curves.argmin())
    return _train(logits, labels, seed, chosen)[0], chosen


def _train(logits: Tensor, labels: Tensor, seed: int, steps: int, left_out: tuple[Tensor, Tensor] | None = None
           ) -> tuple[Stack, Tensor]:
    """Return a stack after so many steps, and the summed loss on the samples held out, before each EVERY-th step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stack = Stack(len(logits), logits.shape[-1])
    optimizer, losses = torch.optim.AdamW(stack.parameters(), RATE, weight_decay=DECAY), []
    for step in range(steps + 1):
        if left_out is not None and step % EVERY == 0:
            with torch.no_grad():
                losses.append(float(F.nll_loss(stack(left_out[0]), left_out[1], reduction="sum")))
        if step < steps:
            optimizer.zero_grad()
            F.nll_loss(stack(logits), labels).backward()
            optimizer.step()
    return stack.eval(), torch.tensor(losses, dtype=torch.float64)


@torch.no_grad()
def logits_of(model: nn.Module, dataset: Any) -> tuple[Tensor, Tensor]:
    """Return a network's logits in eval mode, shape [samples, classes], and the labels."""
    model.eval()
    pairs = [(model(x), y) for x, y in loader(dataset, 512)]
    return torch.cat([a for a, _ in pairs]), torch.cat([y for _, y in pairs])


def ensemble(folder: str | Path, members: int = 5, part: str = "test", seed: int = 0) -> dict[str, Any]:
    """Return the ensembles of up to so many members of a search, a table that is also written to `ensembles.json`.

    Members are the best on the first half of the validation part, and a diverse choice on it (`selection.diverse`). FLOPs
    are of a forward pass for one sample, of all members whose weight is not zero and of the stack.

    Args:
        part: what accuracies are of: test, or validation, which is then the half that nothing is fitted on (the members are
            chosen on it, so what they do there is no surprise).
        seed: of the split, and of the stack.
    """
    if members < 1 or part not in ("test", "validation"):
        raise TrainError(f"members is {members} and part {part!r}: give at least 1, and test or validation")
    with opened(folder) as store:
        table = _table(store, members, part, seed)
    with atomic_write(Path(folder) / ENSEMBLES) as file:
        file.write(json.dumps(table, indent=1).encode())
    return table


def _table(store: Store, members: int, part: str, seed: int) -> dict[str, Any]:
    config = SearchConfig.of(store.settings() or {})
    data = data_of(config.data, config.root, config.limit, config.seed)
    choosing, fitting = halves(data, seed)
    states = {s.number: s for s in last_states(store.evaluations())}
    chosen, nets, lost = _chosen(store, [_seen_on(s, choosing.tolist()) for s in states.values()], members)
    reported = data.test if part == "test" else Subset(data.validation, choosing.tolist())
    on_fitting = {n: logits_of(net, Subset(data.validation, fitting.tolist())) for n, net in nets.items()}
    on_reported = {n: logits_of(net, reported) for n, net in nets.items()}
    flops = {n: states[n].member.flops for n in nets}
    rows = []
    for rule, numbers in chosen.items():
        for some in (numbers[:count] for count in range(1, len(numbers) + 1)):
            made = _rows(_stacked(on_fitting, some), _stacked(on_reported, some), [flops[n] for n in some], seed)
            rows += [{"members": some, "count": len(some), "chosen": rule, **row} for row in made]
    return {"search": str(store.folder), "data": config.data, "part": part, "seed": seed,
            "samples": {"chosen on": len(choosing), "fitted on": len(fitting), "reported on": len(reported)},
            "members": {n: {"parameters": states[n].member.parameters, "flops": flops[n],
                            "validation_accuracy": states[n].accuracy} for n in nets}, "rows": rows, "lost": lost}


def halves(data: Data, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of two halves of the validation part, each class with its share in both, or raise TrainError."""
    if len(data.validation) < 4:
        raise TrainError(f"{data.name} has {len(data.validation)} validation samples, too few to choose members on one half "
                         "and to fit on the other")
    return stratified_split(data.validation.labels, 0.5, seed)


def _chosen(store: Store, candidates: Sequence[Scored], members: int
            ) -> tuple[dict[str, list[int]], dict[int, nn.Module], dict[int, str]]:
    """Return whom each rule chooses among the members that can be read, their networks, and why others cannot be."""
    nets: dict[int, nn.Module] = {}
    lost: dict[int, str] = {}
    while left := [s for s in candidates if s.number not in lost]:
        chosen = {rule: [s.number for s in select(left, members, random.Random())] for rule, select in RULES.items()}
        wanted = {number for numbers in chosen.values() for number in numbers}
        before = len(lost)
        for s in left:
            if s.number in wanted - nets.keys():
                try:
                    nets[s.number] = store.model(s.archive)
                except ArchiveError as error:
                    lost[s.number] = str(error)
        if len(lost) == before:
            return chosen, {n: nets[n] for n in sorted(wanted)}, lost
    reasons = "".join(f"; {why}" for why in lost.values())
    raise TrainError(f"{store.folder} holds no trained network that can be read{reasons}: "
                     f"go on with `fxgrow evolve --resume {store.folder}`")


def _seen_on(s: Scored, rows: Sequence[int]) -> Scored:
    """Return a member as it is judged on some of the validation samples alone."""
    correct = "".join(s.correct[i] for i in rows)
    return replace(s, correct=correct, accuracy=correct.count("1") / len(correct), loss=0.0)


def _stacked(pairs: Mapping[int, tuple[Tensor, Tensor]], numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the logits of these members as one tensor, and the labels."""
    return torch.stack([pairs[n][0] for n in numbers]), pairs[numbers[0]][1]


def _rows(fitting: tuple[Tensor, Tensor], reported: tuple[Tensor, Tensor], flops: Sequence[int], seed: int
          ) -> Iterator[dict[str, Any]]:
    """Give a row for each way of putting members together; nothing but the report looks at the reported labels."""
    logits, labels = reported

    def row(way: str, logs: Tensor, cost: int, **how: Any) -> dict[str, Any]:
        return {"by": way, "flops": cost, "accuracy": float((logs.argmax(1) == labels).float().mean()),
                "loss": float(F.nll_loss(logs, labels)), **how}

    even = torch.full((len(flops),), 1 / len(flops))
    for way, weights in {"average": even, "weighted": fitted_weights(*fitting), "greedy": greedy_weights(*fitting)}.items():
        shares = weights.tolist()
        cost = sum(f for f, share in zip(flops, shares) if share > 0)
        yield row(way, weighted(logits, weights).clamp_min(1e-30).log(), cost, weights=[round(w, 6) for w in shares])
    stack, steps = fit_stack(*fitting, seed)
    extra = fxgrow.count_flops(stack, logits[:, :1]).forward if steps else 0
    with torch.no_grad():
        logs = stack(logits) if steps else average(logits).log()
    yield row("stacked", logs, sum(flops) + extra, steps=steps)
