"""`fxgrow experiment evolution`: what a search finds, against what else as many FLOPs buy.

The budget is what training the base network for the scale's `steps` takes. Every arm spends it, to within a training step of
each of its last networks, on all trainings of all its networks. A search spends a part of it (`Sizes.share`), its base
network included, and the rest on what it has found, in two ways: on its best network alone, or in equal parts on the
networks of an ensemble. The validation part is what networks are chosen and ensembles fitted on; the test part decides
nothing.
"""
from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import fxgrow
from fxgrow.common import atomic_write
from fxgrow.experiments.data import Data
from fxgrow.experiments.evolve import (
    Found,
    Scored,
    SearchConfig,
    average,
    best,
    default_mutations,
    diverse,
    evaluate,
    fit_stack,
    fitted_weights,
    last_states,
    logits_of,
    search,
    weighted,
)
from fxgrow.experiments.papers.declaration import Arm, ExperimentError, Network, Scale
from fxgrow.experiments.papers.evolution import APART, BASE, NETWORK, SCRATCH
from fxgrow.experiments.papers.running import Setup, file_name, finished, redrawn, untrained
from fxgrow.experiments.papers.search_tables import figure, table, verdicts
from fxgrow.experiments.seeds import mixed
from fxgrow.experiments.train import Diverged, Trainer, TrainingState, Watcher, size, step_flops

FIGURE = "evolution.png"
POINTS = 20  # of a curve
# The default list without the gate of a skip, which belongs to no layer: a network that has one cannot be drawn anew
MUTATIONS = [{"pass": m.name, "weight": m.weight, "places": m.places, **m.options} for m in default_mutations()
             if m.name != "skip"]


@dataclass(frozen=True)
class Sizes:
    """How a search spends the budget.

    Args:
        first_steps, keep, children, steps, weights: as in `SearchConfig`.
        share: of the budget, behind which no round begins.
        members: of an ensemble.
        largest: a network has at most so many times the base network's FLOPs; so a round that begins ends in the budget.
    """
    first_steps: int
    keep: int
    children: int
    steps: int
    share: float = 0.7
    members: int = 3
    largest: float = 6.0
    weights: Literal["inherit", "share"] = "share"


SIZES = {"smoke": Sizes(20, 2, 2, 24, share=0.5, largest=2.5), "small": Sizes(240, 2, 3, 240, share=0.65, largest=3.0),
         "paper": Sizes(5000, 3, 10, 5000)}


class _Rows(Watcher):
    """The rows of a training, with the accuracy on the test part."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def evaluated(self, trainer: TrainingState, row: dict[str, Any]) -> None:
        self.rows.append({**row, "test_accuracy": trainer.evaluate(trainer.data.test)[1]})


@dataclass(frozen=True)
class Comparison(Setup):
    """The setup of the comparison.

    Args:
        model: the base network, `zoo:NAME[:options]`; empty: the scale's own.
        count: children of a round; 0: the scale's own.
    """
    model: str = ""
    count: int = 0

    @property
    def preset(self) -> Scale:
        scale = super().preset
        if not self.model:
            return scale
        return replace(scale, networks={NETWORK: Network.named(self.model, "what a search finds is also drawn anew")})

    @property
    def sizes(self) -> Sizes:
        sizes = SIZES[self.scale]
        return replace(sizes, children=self.count or sizes.children)

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        told = super().identity(arm, seed)
        if arm.name == APART:
            return {**told, "members": self.sizes.members}
        return told if arm.name == BASE else {**told, "sizes": asdict(self.sizes), "mutations": MUTATIONS}

    def budget(self, seed: int) -> int:
        """FLOPs that each arm may spend."""
        return self.preset.settings["steps"] * self.cost(untrained(self, BASE, seed), seed)

    def cost(self, model: Any, seed: int) -> int:
        """FLOPs of a training step."""
        data = self.load(seed)
        return step_flops(model, min(self.preset.settings["batch_size"], len(data.train)), data.input_shape)

    def searching(self, arm: Arm, seed: int) -> SearchConfig:
        """The settings of the arm's search, which ends when its share of the budget is spent."""
        data, sizes = self.load(seed), self.sizes
        train = {k: v for k, v in self.preset.settings.items() if k not in ("steps", "eval_every")}
        forward = fxgrow.count_flops(untrained(self, BASE, seed), data.train[0][0][None]).forward
        return SearchConfig(
            model="zoo:" + self.preset.networks[NETWORK].on(data.input_shape)[0], data=self.data or self.preset.data,
            root=self.root, limit=self.preset.limit, seed=seed, selection=arm.name, keep=sizes.keep, children=sizes.children,
            weights=sizes.weights, first_steps=sizes.first_steps, steps=sizes.steps, rounds=10 ** 6, final_steps=0,
            total_flops=sizes.share * self.budget(seed), flops=sizes.largest * forward, mutations=MUTATIONS,
            train={**train, "device": self.device})

    # -- runs -------------------------------------------------------------------------------------------------------------

    def run(self, arm: Arm, seed: int, watchers: Sequence[Watcher] = ()) -> dict[str, Any]:
        if (found := finished(self, arm, seed)) is not None:
            return found
        began = time.monotonic()
        make = {BASE: self._base, APART: self._apart, SCRATCH: self._anew}.get(arm.name, self._searched)
        found = {"identity": self.identity(arm, seed), "arm": arm.key, "seed": seed, "growths": [], "diverged": None,
                 "teacher_flops": 0, **make(arm, seed, watchers)}
        found["seconds"] = round(time.monotonic() - began, 3)
        self.file(arm, seed).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file(arm, seed)) as file:
            file.write(json.dumps(found, indent=1).encode())
        shutil.rmtree(self.running(arm, seed), ignore_errors=True)
        return found

    def running(self, arm: Arm, seed: int):
        """Where a search is until its run is finished."""
        return self.out / "running" / f"{file_name(arm.key)}-{seed}"

    def train(self, model: nn.Module, arm: Arm, seed: int, flops: float, place: int, watchers: Sequence[Watcher] = ()
              ) -> Trainer:
        """The network behind as many steps as these FLOPs are enough for; as it was, if it diverges or there are none.

        Args:
            place: which of the arm's trainings it is: its data come in another order.
        """
        data, steps = self.load(seed), int(flops // self.cost(model, seed))
        config = replace(self.config(arm, data, mixed(seed, place) % 2 ** 31), steps=max(steps, 1),
                         eval_every=max(1, -(-steps // POINTS)))
        trainer = Trainer(model, data, config, watchers=watchers)
        try:
            if steps:
                trainer.fit()
        except Diverged:
            trainer.model = Trainer(model, data, config).model
        trainer.model.cpu()
        return trainer

    def _base(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> dict[str, Any]:
        """One network, trained for the whole budget."""
        return self._whole(untrained(self, arm.key, seed), arm, seed, watchers)

    def _whole(self, model: nn.Module, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> dict[str, Any]:
        rows = _Rows()
        trainer = self.train(model, arm, seed, self.budget(seed), 0, [*watchers, rows])
        return {"rows": rows.rows, **_tested(trainer.model, self.load(seed)), "flops": trainer.flops}

    def _apart(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> dict[str, Any]:
        """Base networks with initial numbers of their own, trained one after another, together at the end."""
        count, data = self.sizes.members, self.load(seed)
        trained = [self.train(untrained(self, arm.key, seed + 1000 * i), arm, seed, self.budget(seed) / count, i,
                              watchers if i == count - 1 else ()) for i in range(count)]
        nets, spent = [t.model for t in trained], sum(t.flops for t in trained)
        found = together(nets, data, seed)
        row = {"step": sum(t.step for t in trained), "flops": spent, "val_accuracy": found.pop("val_accuracy"),
               "test_accuracy": found["average"]["accuracy"], "train_loss": None, "event": ""}
        return {"rows": [row], "test": found["average"], "flops": spent, "parameters": sum(map(size, nets)),
                "ensemble": {**found, "flops": spent}}

    def _anew(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> dict[str, Any]:
        """The network that a search has found, all of its numbers drawn anew, trained for the whole budget."""
        teacher = self.declared.arm(arm.teacher_key)
        searched = finished(self, teacher, seed)
        if searched is None:
            raise ExperimentError(f"arm {arm.key} starts from {teacher.key}, which has not been run with seed {seed}")
        start = redrawn(fxgrow.load(self.model_file(teacher, seed)), seed)  # type: ignore[arg-type]
        return {**self._whole(start, arm, seed, watchers), "teacher_flops": searched["flops"]}

    def _searched(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> dict[str, Any]:
        """A search, and its two ends."""
        data, budget = self.load(seed), self.budget(seed)
        found = search(self.searching(arm, seed), self.running(arm, seed))
        spent = sum(s.spent for s in found.evaluations)
        if spent > budget:
            raise ExperimentError(f"arm {arm.key}: its search has spent {spent / budget:.0%} of the budget: make rounds "
                                  "shorter")
        chosen = best(last_states(found.evaluations), 1, random.Random())[0]
        alone = self.train(found.model(chosen), arm, seed, budget - spent, 0, watchers)
        choose = diverse if arm.name == "diverse" else best
        members = choose([s for s in found.population if s.archive], self.sizes.members, random.Random())
        several = [self.train(found.model(s), arm, seed, (budget - spent) / len(members), i) for i, s in enumerate(members)]
        ensemble = {**together([t.model for t in several], data, seed), "flops": spent + sum(t.flops for t in several)}
        if self.keeps_model(arm):
            self.model_file(arm, seed).parent.mkdir(parents=True, exist_ok=True)
            fxgrow.save(alone.model, self.model_file(arm, seed))
        end = _tested(alone.model, data)
        last = {"step": sum(s.steps for s in found.evaluations) + alone.step, "flops": spent + alone.flops,
                "val_accuracy": evaluate(alone.model, data.validation)[0], "test_accuracy": end["test"]["accuracy"],
                "train_loss": None, "event": ""}
        return {"rows": [*curve(found, data, budget), last], **end, "flops": last["flops"], "searched": spent,
                "rounds": max(s.round for s in found.evaluations), "networks": len({s.number for s in found.evaluations}),
                "ensemble": ensemble}

    def conclude(self, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """The table of networks and ensembles, what differs from the base network, and the figure of test accuracies."""
        figure(runs, self.out / FIGURE, self.load(0).name, self.budget(0) / POINTS)
        return [table(runs), *verdicts(runs)], [FIGURE]


def _tested(model: nn.Module, data: Data) -> dict[str, Any]:
    accuracy, loss, _ = evaluate(model, data.test)
    return {"test": {"loss": loss, "accuracy": accuracy}, "parameters": size(model)}


def together(nets: Sequence[nn.Module], data: Data, seed: int) -> dict[str, Any]:
    """Loss and accuracy on the test part of the networks' ensembles, and the average's accuracy on the validation part, on
    which weights and the stack are fitted."""
    known, labels = _logits(nets, data.validation)
    told, truth = _logits(nets, data.test)
    stack, _ = fit_stack(known, labels, seed)
    with torch.no_grad():
        logs = {"average": average(told).log(), "weighted": weighted(told, fitted_weights(known, labels)).log(),
                "stacked": stack(told)}
    found: dict[str, Any] = {way: {"loss": float(nn.functional.nll_loss(p.clamp_min(-100), truth)),
                                   "accuracy": float((p.argmax(1) == truth).float().mean())} for way, p in logs.items()}
    return {**found, "val_accuracy": float((average(known).argmax(1) == labels).float().mean()),
            "members": [float((each.argmax(1) == truth).float().mean()) for each in told],
            "parameters": sum(map(size, nets))}


def _logits(nets: Sequence[nn.Module], dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [logits_of(net, dataset) for net in nets]
    return torch.stack([logits for logits, _ in pairs]), pairs[0][1]


def curve(found: Found, data: Data, budget: int) -> list[dict[str, Any]]:
    """What the search would have given after each twentieth of the budget: the best, on the validation part, of all networks
    as the rounds that had ended by then left them. Steps are those of all networks, and grow evenly during a round."""
    rounds = sorted({s.round for s in found.evaluations})
    seen = [[s for s in found.evaluations if s.round <= r] for r in rounds]
    spent = [sum(s.spent for s in each) for each in seen]
    steps = [sum(s.steps for s in each) for each in seen]
    tested: dict[str, float] = {}
    rows = []
    for at in (budget * k / POINTS for k in range(1, POINTS)):
        if (ended := int(np.searchsorted(spent, at, side="right"))):
            one: Scored = best(last_states(seen[ended - 1]), 1, random.Random())[0]
            if one.archive not in tested:
                tested[one.archive] = evaluate(found.model(one), data.test)[0]
            rows.append({"step": float(np.interp(at, spent, steps)), "flops": at, "val_accuracy": one.accuracy,
                         "test_accuracy": tested[one.archive], "train_loss": None, "event": ""})
    return rows
