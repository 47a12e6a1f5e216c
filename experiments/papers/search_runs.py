"""`fxgrow experiment evolution`: what a search finds, against what else as many FLOPs buy.

The budget is what training the base network for the scale's `steps` takes. Every arm spends it on all trainings of all its
networks, to within a training step of each of the last. A search spends a part (`SearchSizes.share`), and the rest on what
it has found: on its best network alone, or in equal parts on an ensemble. The test part decides nothing.
"""
import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

import fxgrow
from fxgrow.common import mixed
from fxgrow.experiments import evolve
from fxgrow.experiments.data import Data
from fxgrow.experiments.papers.declaration import Arm, Experiment, ExperimentError, Network, Scale, register
from fxgrow.experiments.papers.running import Setup, finished, redrawn, start_of, teacher_run, untrained
from fxgrow.experiments.papers.search_tables import APART, BASE, figure, table, verdicts
from fxgrow.experiments.train import Diverged, TrainConfig, Trainer, TrainingState, Watcher, count_parameters, step_flops

NETWORK, SCRATCH = "network", "best, from scratch"
FIGURE = "evolution.png"
SELECTIONS = ("best", "diverse", "aging", "nsga2", "hill", "random")
# The default list without the gate of a skip, which belongs to no layer: a network that has one cannot be drawn anew
MUTATIONS = [{"pass": m.name, "weight": m.weight, "places": m.places, **m.options} for m in evolve.default_mutations()
             if m.name != "skip"]
ArmResult = tuple[dict[str, Any], nn.Module | None]  # of a run, and the network to keep


@dataclass(frozen=True)
class SearchSizes:
    """Sizes by which a search spends the budget, named as in `SearchConfig` where that has them.

    No round begins behind a `share` of the budget. `members` are of an ensemble. A network has at most `largest` times the
    base network's FLOPs, so that a round that begins ends in the budget. With a `fall`, what is left is spent on the best
    network alone: its rate falls over this share of that once for each member, which is the network as it is then.
    """
    first_steps: int
    keep: int
    children: int
    steps: int
    share: float = 0.7
    members: int = 3
    largest: float = 6.0
    weights: Literal["inherit", "share"] = "share"
    growth: float = 2.0
    fall: float = 0.0


SIZES = {"smoke": SearchSizes(20, 2, 2, 24, share=0.5, largest=2.5),
         "small": SearchSizes(240, 2, 3, 240, share=0.65, largest=3.0), "paper": SearchSizes(5000, 3, 10, 5000)}


class _Rows(Watcher):
    """The rows of a training, with the accuracy on the test part."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def evaluated(self, trainer: TrainingState, row: dict[str, Any]) -> None:
        self.rows.append({**row, "test_accuracy": trainer.evaluate(trainer.data.test)[1]})


class Ended(NamedTuple):
    """A network that was trained on, and what that took."""
    model: nn.Module
    steps: int
    flops: int


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
        """Return the scale with the user's network, if there is one."""
        if not self.model:
            return super().preset
        own = Network.named(self.model, "what a search finds is also drawn anew")
        scale = super().preset
        return replace(scale, networks={**scale.networks, NETWORK: own})

    @property
    def sizes(self) -> SearchSizes:
        """Return the sizes of the scale with the user's count, if there is one."""
        sizes = self.all_sizes[self.scale]
        return replace(sizes, children=self.count or sizes.children)

    @property
    def all_sizes(self) -> Mapping[str, SearchSizes]:
        """Return the sizes by scale."""
        return SIZES

    @property
    def points(self) -> int:
        """Return how many points a curve has."""
        return self.preset.settings["steps"] // self.preset.settings["eval_every"]

    def how(self, arm: Arm) -> dict[str, Any]:
        """Return the settings by which the arm's search differs from the others."""
        return {"selection": arm.name, "weights": self.sizes.weights, "anneal": "each"}

    @property
    def mutations(self) -> list[dict[str, Any]]:
        """Return what the searches draw from."""
        return MUTATIONS

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what tells a run from any other."""
        identity = super().identity(arm, seed)
        if arm.name == APART:
            identity["members"] = self.sizes.members
        elif arm.name not in self.alone:
            identity |= {"sizes": asdict(self.sizes), "mutations": self.mutations}
        return identity

    @property
    def alone(self) -> set[str]:
        """Return the names of the arms that train one network for the whole budget: the base network, and other sizes."""
        return {BASE, *(arm.name for arm in self.declared.arms if arm.network != NETWORK)}

    def budget(self, seed: int) -> int:
        """Return the FLOPs that each arm may spend."""
        return self.preset.settings["steps"] * self.cost(untrained(self, BASE, seed), seed)

    def config(self, arm: Arm, data: Data, seed: int) -> TrainConfig:
        """Return the settings of the arm's training; of a network of another size, as long as the budget is."""
        config = super().config(arm, data, seed)
        if arm.network == NETWORK:
            return config
        return replace(config, steps=max(1, self.budget(seed) // self.cost(untrained(self, arm.key, seed), seed)))

    def cost(self, model: Any, seed: int) -> int:
        """Return the FLOPs of a training step."""
        data = self.load(seed)
        return step_flops(model, min(self.preset.settings["batch_size"], len(data.train)), data.input_shape)

    def searching(self, arm: Arm, seed: int) -> evolve.SearchConfig:
        """Return the settings of the arm's search, which ends when its share of the budget is spent."""
        data, sizes = self.load(seed), self.sizes
        train = {k: v for k, v in self.preset.settings.items() if k not in ("steps", "eval_every")}
        forward = fxgrow.count_flops(untrained(self, BASE, seed), data.train[0][0][None]).forward
        return evolve.SearchConfig(
            model="zoo:" + self.preset.networks[NETWORK].on(data.input_shape)[0], data=self.data or self.preset.data,
            root=self.root, limit=self.preset.limit, seed=seed, keep=sizes.keep, children=sizes.children,
            first_steps=sizes.first_steps, steps=sizes.steps, rounds=10 ** 6, final_steps=0,
            total_flops=sizes.share * self.budget(seed), flops=sizes.largest * forward, mutations=self.mutations,
            growth=sizes.growth, train={**train, "device": self.device}, **self.how(arm))

    def run(self, arm: Arm, seed: int, watchers: Sequence[Watcher] = ()) -> dict[str, Any]:
        """Run an arm with one seed, unless that has been done, and write what came out."""
        kept = finished(self, arm, seed)
        if kept is not None:
            return kept
        began = time.monotonic()
        ways = {APART: self._apart, SCRATCH: self._anew, **dict.fromkeys(self.alone, self._base)}
        make = ways.get(arm.name, self._searched)
        outcome, model = make(arm, seed, watchers)
        found = {"identity": self.identity(arm, seed), "arm": arm.key, "seed": seed, "growths": [], "diverged": None,
                 "teacher_flops": 0, **outcome, "seconds": round(time.monotonic() - began, 3)}
        return self.keep(found, arm, seed, model)

    def train(self, model: nn.Module, arm: Arm, seed: int, flops: float, place: int,
              watchers: Sequence[Watcher] = (), **changes: Any) -> Trainer:
        """Train a network for as many steps as these FLOPs are enough for; if it diverges or there are none, leave it.

        The order of the data is that of the arm's training number `place`; `changes` are of the settings.
        """
        data, steps = self.load(seed), int(flops // self.cost(model, seed))
        config = replace(self.config(arm, data, mixed(seed, place) % 2 ** 31), steps=max(steps, 1),
                         **{"eval_every": max(1, -(-steps // self.points)), **changes})
        trainer = Trainer(model, data, config, watchers=watchers)
        try:
            if steps:
                trainer.fit()
        except Diverged:
            trainer.model = Trainer(model, data, config).model
        trainer.model.cpu()
        return trainer

    def _base(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> ArmResult:
        return self._whole(untrained(self, arm.key, seed), arm, seed, watchers)

    def _whole(self, model: nn.Module, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> ArmResult:
        """Train one network for the whole budget."""
        rows = _Rows()
        trainer = self.train(model, arm, seed, self.budget(seed), 0, [*watchers, rows])
        return {"rows": rows.rows, **_tested(trainer.model, self.load(seed)), "flops": trainer.flops}, trainer.model

    def _apart(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> ArmResult:
        """Train base networks with initial numbers of their own one after another, and put them together at the end."""
        count, data = self.sizes.members, self.load(seed)
        trained = [self.train(untrained(self, arm.key, seed + 1000 * i), arm, seed, self.budget(seed) / count, i,
                              watchers if i == count - 1 else ()) for i in range(count)]
        nets, spent = [t.model for t in trained], sum(t.flops for t in trained)
        ensemble = together(nets, data, seed)
        row = {"step": sum(t.step for t in trained), "flops": spent, "val_accuracy": ensemble.pop("val_accuracy"),
               "test_accuracy": ensemble["average"]["accuracy"], "train_loss": None, "event": ""}
        return {"rows": [row], "test": ensemble["average"], "flops": spent, "parameters": sum(map(count_parameters, nets)),
                "ensemble": {**ensemble, "flops": spent}}, None

    def _anew(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> ArmResult:
        """Train the network that a search has found, all of its numbers drawn anew, for the whole budget."""
        searched = teacher_run(self, arm, seed)
        start = redrawn(start_of(self, arm, seed), seed)  # type: ignore[arg-type]
        outcome, model = self._whole(start, arm, seed, watchers)
        return {**outcome, "teacher_flops": searched["flops"]}, model

    def _searched(self, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> ArmResult:
        """Search, and spend the rest of the budget on what was found."""
        data, budget = self.load(seed), self.budget(seed)
        result = evolve.search(self.searching(arm, seed), self.running(arm, seed))
        spent = sum(s.spent for s in result.evaluations)
        later: dict[str, Any] = {"warmup": 0.0} if result.config.anneal == "last" else {}
        if spent > budget:
            part = f"{spent / budget:.0%}"
            raise ExperimentError(f"arm {arm.key}: its search has spent {part} of the budget: make rounds shorter")
        chosen = evolve.best(evolve.last_states(result.evaluations), 1, random.Random())[0]
        ending = self._falling if self.sizes.fall else self._both_ways
        alone, several = ending(result, chosen, arm, seed, budget - spent, watchers, later)
        ensemble = {**together([e.model for e in several], data, seed), "flops": spent + sum(e.flops for e in several)}
        end = _tested(alone.model, data)
        last = {"step": sum(s.steps for s in result.evaluations) + alone.steps, "flops": spent + alone.flops,
                "val_accuracy": evolve.evaluate(alone.model, data.validation)[0], "test_accuracy": end["test"]["accuracy"],
                "train_loss": None, "event": ""}
        return {"rows": [*curve(result, data, budget, self.points), last], **end, "flops": last["flops"], "searched": spent,
                "rounds": max(s.round for s in result.evaluations), "networks": len({s.number for s in result.evaluations}),
                "ensemble": ensemble}, alone.model

    def _both_ways(self, result: evolve.SearchResult, chosen: evolve.Scored, arm: Arm, seed: int, left: float,
                   watchers: Sequence[Watcher], changes: Mapping[str, Any]) -> tuple[Ended, list[Ended]]:
        """Spend what is left on the best network alone, and again in equal parts on several of the last population."""
        choose = evolve.diverse if arm.name == "diverse" else evolve.best
        members = choose([s for s in result.population if s.archive], self.sizes.members, random.Random())
        alone = self.train(result.model(chosen), arm, seed, left, 0, watchers, **changes)
        several = [self.train(result.model(s), arm, seed, left / len(members), i, **changes) for i, s in enumerate(members)]
        return Ended(alone.model, alone.step, alone.flops), [Ended(t.model, t.step, t.flops) for t in several]

    def _falling(self, result: evolve.SearchResult, chosen: evolve.Scored, arm: Arm, seed: int, left: float,
                 watchers: Sequence[Watcher], changes: Mapping[str, Any]) -> tuple[Ended, list[Ended]]:
        """Spend what is left on the best network, and keep it each time its rate has fallen (arXiv:1704.00109)."""
        model, fall, ended = result.model(chosen), self.sizes.fall, []
        for i in range(self.sizes.members):
            part = fall if i else 1 - fall * (self.sizes.members - 1)
            trainer = self.train(model, arm, seed, left * part, i, watchers,
                                 **{**changes, "schedule": "wsd", "decay": fall / part})
            model = trainer.model
            ended.append(Ended(copy.deepcopy(model), trainer.step, trainer.flops))
        return Ended(ended[-1].model, sum(e.steps for e in ended), sum(e.flops for e in ended)), ended

    def conclude(self, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Return the table of networks and ensembles, differences from the base network, and the figure's name."""
        figure(runs, self.out / FIGURE, self.load(0).name, self.budget(0) / self.points)
        return [table(runs), *verdicts(runs)], [FIGURE]


def _tested(model: nn.Module, data: Data) -> dict[str, Any]:
    accuracy, loss, _ = evolve.evaluate(model, data.test)
    return {"test": {"loss": loss, "accuracy": accuracy}, "parameters": count_parameters(model)}


def together(nets: Sequence[nn.Module], data: Data, seed: int) -> dict[str, Any]:
    """Return how the networks' ensembles, fitted on the validation part, do on the test part."""
    fitting, labels = _logits(nets, data.validation)
    tested, truth = _logits(nets, data.test)
    stack, _ = evolve.fit_stack(fitting, labels, seed)
    weights = evolve.fitted_weights(fitting, labels)
    with torch.no_grad():
        logs = {"average": evolve.average(tested).log(), "weighted": evolve.weighted(tested, weights).log(),
                "stacked": stack(tested)}
    ways: dict[str, Any] = {way: {"loss": float(nn.functional.nll_loss(p.clamp_min(-100), truth)),
                                  "accuracy": _accuracy(p, truth)} for way, p in logs.items()}
    return {**ways, "val_accuracy": _accuracy(evolve.average(fitting), labels),
            "members": [_accuracy(logits, truth) for logits in tested], "parameters": sum(map(count_parameters, nets))}


def _accuracy(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float((scores.argmax(1) == labels).float().mean())


def _logits(nets: Sequence[nn.Module], dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [evolve.logits_of(net, dataset) for net in nets]
    return torch.stack([logits for logits, _ in pairs]), pairs[0][1]


def curve(result: evolve.SearchResult, data: Data, budget: int, points: int) -> list[dict[str, Any]]:
    """Return the best network of the rounds that had ended at each of the points, with all networks' steps.

    Points are equal parts of the budget.
    """
    rounds = sorted({s.round for s in result.evaluations})
    seen = [[s for s in result.evaluations if s.round <= r] for r in rounds]
    spent = [sum(s.spent for s in scored) for scored in seen]
    steps = [sum(s.steps for s in scored) for scored in seen]
    tested: dict[str, float] = {}
    rows = []
    for at in (budget * k / points for k in range(1, points)):
        ended = int(np.searchsorted(spent, at, side="right"))
        if ended:
            one: evolve.Scored = evolve.best(evolve.last_states(seen[ended - 1]), 1, random.Random())[0]
            if one.archive not in tested:
                tested[one.archive] = evolve.evaluate(result.model(one), data.test)[0]
            rows.append({"step": float(np.interp(at, spent, steps)), "flops": at, "val_accuracy": one.accuracy,
                         "test_accuracy": tested[one.archive], "train_loss": None, "event": ""})
    return rows


TRAINING = {"batch_size": 32, "lr": 0.05, "schedule": "cosine", "clip": 1.0}
SCALES = {  # the steps of the base network are what every arm may spend, in FLOPs
    "smoke": Scale({NETWORK: Network("mlp:hidden=(8,8)", "mlp:hidden=(8,8)")},
                   {**TRAINING, "steps": 120, "eval_every": 6}, validation=0.1, limit=64),
    "small": Scale({NETWORK: Network("net2net_conv:r=2**-4", "mlp:hidden=(16,16)")},
                   {**TRAINING, "steps": 2400, "eval_every": 120}, validation=0.1),
    "paper": Scale({NETWORK: Network("residual3", "resnet1d:r=2**-2")},
                   {**TRAINING, "batch_size": 64, "steps": 250_000, "eval_every": 12_500}, data="cifar10", validation=0.1)}

register(Experiment(
    "evolution", "Evolution of networks against random search, longer training and ensembles, at equal FLOPs",
    "Deep neuroevolution with shared weights: its table on CIFAR-10",
    (Arm(BASE, NETWORK), Arm(APART, NETWORK), *(Arm(name, NETWORK) for name in SELECTIONS),
     Arm(SCRATCH, NETWORK, teacher="best", fresh=True)), SCALES, reference=BASE, setup=Comparison))
