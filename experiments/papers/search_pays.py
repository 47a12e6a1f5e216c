"""`fxgrow experiment evolution-pays`: whether a search pays where its base network has long stopped to gain.

The comparison of search_runs.py with fewer arms and a longer budget. `tuned` is *best* with what is to make a search pay:
mutations drawn by what they have gained per FLOP, the worse half of a round dropped half way, and running statistics
estimated anew; `tuned, inherited` trains each child alone, and goes on with its optimizer's moments; `tuned, hypernetwork`
has its new numbers given.

`fxgrow experiment evolution-cifar10`: the report's comparison on its own data. Each child trains alone, under one schedule
of the rate for the whole search, and searches differ in how they choose alone; beside them are wider networks from scratch
for the whole budget.
"""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fxgrow.experiments.papers import search_runs
from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, Scale, register
from fxgrow.experiments.papers.search_runs import NETWORK, TRAINING, Comparison, SearchSizes
from fxgrow.experiments.papers.search_tables import APART, BASE

PAYS, CIFAR10 = "evolution-pays", "evolution-cifar10"
TUNED = {"selection": "best", "adapt": True, "rungs": 2, "statistics": 8}
INHERITED = {"weights": "inherit", "momentum": "inherit", "statistics": 8}
ONE_RATE = {**INHERITED, "anneal": "last", "average": 0.5}
METHOD = ["r2r", "netmorph"]
LARGER = [{"pass": "widen", "weight": 4, "places": "network", "factor": [1.25, 1.5, 2.0], "method": METHOD},
          {"pass": "widen", "weight": 3, "factor": [1.5, 2.0], "method": METHOD},
          {"pass": "deepen", "weight": 2, "method": METHOD},
          {"pass": "kernel", "weight": 0.5, "size": [5]},
          {"pass": "branch", "weight": 0.5, "join": ["sum"], "method": ["r2r"]},
          {"pass": "se", "weight": 0.5, "reduction": [4]}]
SEARCHES: dict[str, dict[str, dict[str, Any]]] = {
    PAYS: {"best": {}, "tuned": TUNED, "random": {}, "tuned, inherited": {**TUNED, **INHERITED},
           "tuned, hypernetwork": {**TUNED, "init": "hypernetwork"}, "diverse": {}},
    CIFAR10: {"tuned": {"selection": "best", "adapt": True, **ONE_RATE}, "random": ONE_RATE}}
SMOKE, PAPER = SearchSizes(20, 2, 2, 24, share=0.5, largest=2.5), SearchSizes(5000, 3, 10, 5000)
SIZES = {PAYS: {"smoke": SMOKE, "small": SearchSizes(300, 2, 4, 300, share=0.65, largest=3.0), "paper": PAPER},
         CIFAR10: {"smoke": replace(SMOKE, fall=0.2), "paper": PAPER,
                   "small": SearchSizes(1500, 1, 3, 1200, share=0.2, largest=4.0, growth=4.0, fall=0.2)}}
WIDER = {f"{times} times as wide": f"{NETWORK} x {times}" for times in ("1.4", "2", "2.8")}


@dataclass(frozen=True)
class Paying(Comparison):
    """The setup of both comparisons."""

    @property
    def searches(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what tells each search from the others."""
        return SEARCHES[self.experiment]

    @property
    def all_sizes(self) -> Mapping[str, SearchSizes]:
        """Return the sizes by scale."""
        return SIZES[self.experiment]

    def how(self, arm: Arm) -> dict[str, Any]:
        """Return the settings by which the arm's search differs from the others."""
        return {**super().how(arm), **self.searches[arm.name]}

    @property
    def mutations(self) -> list[dict[str, Any]]:
        """Return what the searches draw from."""
        return LARGER if self.experiment == CIFAR10 else super().mutations

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what tells a run from any other."""
        return super().identity(arm, seed) | ({"how": self.how(arm)} if arm.name in self.searches else {})


SCALES = {**search_runs.SCALES,
          "small": Scale({NETWORK: Network("net2net_conv:r=2**-3", "mlp:hidden=(16,16)")},
                         {**TRAINING, "steps": 3000, "eval_every": 150}, validation=0.1)}

register(Experiment(
    PAYS, "Searches that adapt, drop the hopeless and inherit moments, against long training and random search",
    "Deep neuroevolution with shared weights: its table on CIFAR-10; NASH (Elsken et al., 2018, arXiv:1711.04528)",
    (Arm(BASE, NETWORK), Arm(APART, NETWORK), *(Arm(name, NETWORK) for name in SEARCHES[PAYS])), SCALES, reference=BASE,
    setup=Paying))


def _sizes(image: str, sequence: str, *widths: str) -> dict[str, Network]:
    """Return the base network and the wider ones, of these widths."""
    return {name: Network(image.format(width), sequence.format(width))
            for name, width in zip((NETWORK, *WIDER.values()), widths, strict=True)}


CIFAR10_SCALES = {
    "smoke": replace(SCALES["smoke"], networks=_sizes(*["mlp:hidden=({0},{0})"] * 2, "8", "11", "16", "23")),
    "small": Scale(_sizes("cifar_resnet10:r={}", "resnet1d:r={}", "2**-3", "2**-2.5", "2**-2", "2**-1.5"),
                   {"batch_size": 64, "lr": 0.05, "schedule": "wsd", "warmup": 100, "weight_decay": 5e-4,
                    "norm_statistics": "always", "channels_last": True, "steps": 21_729, "eval_every": 2173}, data="cifar10",
                   validation=0.1),
    "paper": replace(SCALES["paper"], networks=_sizes("residual3:r={}", "resnet1d:r={}", "1", "2**0.5", "2", "2**1.5"))}

register(Experiment(
    CIFAR10, "A search of the report's on CIFAR-10, against long training, larger networks and random search",
    "Deep neuroevolution with shared weights: its table on CIFAR-10",
    (Arm(BASE, NETWORK), *(Arm(name, network) for name, network in WIDER.items()),
     *(Arm(name, NETWORK) for name in SEARCHES[CIFAR10]), Arm(APART, NETWORK)),
    CIFAR10_SCALES, reference=BASE, setup=Paying))
