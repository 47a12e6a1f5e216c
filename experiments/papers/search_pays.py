"""`fxgrow experiment evolution-pays`: whether a search pays where its base network has long stopped to gain.

The comparison of search_runs.py with fewer arms and a longer budget. `tuned` is *best* with what is to make a search pay:
mutations drawn by what they have gained per FLOP, the worse half of a round dropped half way, and running statistics
estimated anew; `tuned, inherited` trains each child alone, and goes on with its optimizer's moments; `tuned, hypernetwork`
has its new numbers given.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxgrow.experiments.papers import search_runs
from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, Scale, register
from fxgrow.experiments.papers.search_runs import NETWORK, TRAINING, Comparison, SearchSizes
from fxgrow.experiments.papers.search_tables import APART, BASE

TUNED = {"selection": "best", "adapt": True, "rungs": 2, "statistics": 8}
SEARCHES: dict[str, dict[str, Any]] = {
    "best": {}, "tuned": TUNED, "random": {}, "tuned, inherited": {**TUNED, "weights": "inherit", "momentum": "inherit"},
    "tuned, hypernetwork": {**TUNED, "init": "hypernetwork"}, "diverse": {}}
SIZES = {"smoke": SearchSizes(20, 2, 2, 24, share=0.5, largest=2.5),
         "small": SearchSizes(300, 2, 4, 300, share=0.65, largest=3.0),
         "paper": SearchSizes(5000, 3, 10, 5000)}


@dataclass(frozen=True)
class Paying(Comparison):
    """The setup of the comparison."""

    @property
    def all_sizes(self) -> Mapping[str, SearchSizes]:
        """Return the sizes by scale."""
        return SIZES

    def how(self, arm: Arm) -> dict[str, Any]:
        """Return the settings by which the arm's search differs from the others."""
        return {**super().how(arm), **SEARCHES[arm.name]}

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what tells a run from any other."""
        return super().identity(arm, seed) | ({"how": self.how(arm)} if arm.name in SEARCHES else {})


SCALES = {**search_runs.SCALES,
          "small": Scale({NETWORK: Network("net2net_conv:r=2**-3", "mlp:hidden=(16,16)")},
                         {**TRAINING, "steps": 3000, "eval_every": 150}, validation=0.1)}

register(Experiment(
    "evolution-pays", "Searches that adapt, drop the hopeless and inherit moments, against long training and random search",
    "Deep neuroevolution with shared weights: its table on CIFAR-10; NASH (Elsken et al., 2018, arXiv:1711.04528)",
    (Arm(BASE, NETWORK), Arm(APART, NETWORK), *(Arm(name, NETWORK) for name in SEARCHES)), SCALES, reference=BASE,
    setup=Paying))
