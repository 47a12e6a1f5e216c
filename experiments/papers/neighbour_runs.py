"""`fxgrow experiment neighbours`: small random growths of an architecture, trained as the architecture itself is.

From the trained original: it and its neighbours, which start as its equals, are trained on for equally many steps at the
same rates. From scratch: all layers of each are drawn anew by the same rules, and trained for as many steps as both parts of
the first comparison together. So all that share a group differ in their architecture alone.
"""
import dataclasses
import functools
import random
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import GraphModule

from fxgrow.experiments.evolve import Limits, Parent, default_mutations, graph_hash, grow, mutate, passes
from fxgrow.experiments.papers.declaration import Arm, Experiment, ExperimentError, Network, Scale, register
from fxgrow.experiments.papers.presets import scales
from fxgrow.experiments.papers.results import percent, spread
from fxgrow.experiments.papers.running import Setup, redrawn, untrained
from fxgrow.experiments.plots import bars
from fxgrow.loops import parse_growth

GROWN, SCRATCH, NETWORK = "from the trained original", "from scratch", "network"
GROWTH = 1.3   # a neighbour has at most so many times the original's parameters and FLOPs
LEVEL = 0.05   # of the test whether a neighbour is better


@dataclass(frozen=True)
class Neighbours(Setup):
    """The setup of a neighbourhood.

    Args:
        model: the architecture, `zoo:NAME[:options]`; empty: the scale's own.
        count: how many neighbours. They are the same whatever the seed of a training.
    """
    model: str = ""
    count: int = 10

    @property
    def declared(self) -> Experiment:
        """Return the experiment with its neighbours."""
        return _declared(self)

    @property
    def preset(self) -> Scale:
        """Return the scale with the user's network, if there is one."""
        scale = super().declared.scale(self.scale)
        if not self.model:
            return scale
        network = Network.named(self.model, "neighbours are also trained from scratch")
        return replace(scale, networks={**scale.networks, NETWORK: network})

    def conclude(self, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Return a sentence for each comparison, and the names of the figures that are drawn."""
        sentences, figures = [], []
        for group in (GROWN, SCRATCH):
            found = {arm.name: [run["test"]["accuracy"] for run in runs[arm.key]] for arm in self.declared.arms
                     if arm.group == group and arm.name != "start"}
            sentences.append(verdict(group, found))
            figures.append(f"neighbours-{group.replace(' ', '-')}.png")
            bars({name: [100 * a for a in accuracies] for name, accuracies in found.items()}, self.out / figures[-1],
                 y="test accuracy (%)", title=group)
        return sentences, figures


@functools.lru_cache(maxsize=8)
def _declared(setup: Neighbours) -> Experiment:
    """Return the originals, and the neighbours in both groups."""
    plain = super(Neighbours, setup).declared
    long = _lengths(setup.preset)
    arms = [replace(arm, settings=long) if arm.group == SCRATCH else arm for arm in plain.arms]
    for name, text in draw(setup) if setup.count else []:
        arms.append(Arm(name, NETWORK, (text,), "start", group=GROWN))
        arms.append(Arm(name, NETWORK, (text,), fresh=True, settings=long, group=SCRATCH))
    return replace(plain, arms=tuple(sorted(arms, key=lambda arm: arm.group != GROWN)), scales={setup.scale: setup.preset})


def _lengths(scale: Scale) -> dict[str, int]:
    """Return how long training from scratch is: as both parts of the other comparison."""
    name = "steps" if "steps" in scale.settings else "epochs"
    return {name: scale.settings[name] + scale.student.get(name, scale.settings[name])}


def draw(setup: Neighbours) -> list[tuple[str, str]]:
    """Draw the names and growths (as `fxgrow train --grow` takes them) of the neighbours.

    They are mutations of the default list, of different structures, each of which has a from-scratch counterpart.
    """
    base = untrained(replace(setup, count=0), f"{GROWN}/start", 0)
    parent = Parent(0, base, setup.load(0).first(2))
    rng, known = random.Random("neighbours"), {graph_hash(base)}
    neighbours: list[tuple[str, str]] = []
    for _ in range(3 * setup.count):
        child, _ = mutate([parent], default_mutations(), rng, Limits(growth=GROWTH), known)
        if child is None:
            break
        known.add(child.graph)
        words = as_words(child.step)
        read, = parse_growth(f"step=0: {words}").instances(0)
        again: GraphModule = grow(base, parent.inputs, read).model  # type: ignore[assignment]
        try:
            redrawn(again, 0)
        except ExperimentError:
            continue
        if graph_hash(again) != child.graph:
            raise ExperimentError(f"the mutation {words} is another one when it is read from its words")
        name = " ".join(word for word in words.split(" ") if not word.startswith("seed="))
        neighbours.append((f"{len(neighbours) + 1} {name}", f"step=0: {words}"))
        if len(neighbours) == setup.count:
            return neighbours
    raise ExperimentError(f"only {len(neighbours)} neighbours of this network were found: ask for so many with --count, or "
                          "choose a larger network")


def as_words(step: Mapping[str, Any]) -> str:
    """Return a mutation as text, without what is as the pass has it anyway."""
    usual = {f.name: f.default for f in dataclasses.fields(passes()[step["pass"]])}  # type: ignore[arg-type]
    options = {k: v for k, v in step.items() if k != "pass" and (k == "where" or v != usual.get(k))}
    return shlex.join([step["pass"], *(f"{k}={v}" for k, v in options.items())])


def verdict(group: str, accuracies: Mapping[str, Sequence[float]]) -> str:
    """Tell if the original is a local maximum, from its accuracies and each neighbour's, one for each seed."""
    original = accuracies["original"]
    gains = {name: [a - b for a, b in zip(values, original)] for name, values in accuracies.items() if name != "original"}
    above = [name for name, gain in gains.items() if statistics.fmean(gain) > 0]
    first = max(gains, key=lambda name: statistics.fmean(gains[name]))
    better = _better(gains)
    if better:
        end = f"{len(better)} are better by more than chance (paired t-test, Holm, {LEVEL:.0%}): it is no local maximum"
    elif not above:
        end = "none is better, so the original is a local maximum among them"
    else:
        end = f"none is better by more than chance (paired t-test, Holm, {LEVEL:.0%}): these runs do not tell"
    mean, gain = f"{100 * statistics.fmean(original):.1f} %", percent(spread(gains[first]), "+")
    return (f"{group}: {len(above)} of {len(gains)} neighbours end above the original ({mean}); the best, {first}, differs "
            f"from it by {gain} points over {len(original)} seed{'s' if len(original) > 1 else ''}; {end}")


def _better(gains: Mapping[str, Sequence[float]]) -> list[str]:
    """Return those whose gain is above zero by a one-sided t-test over seeds, with Holm's correction for their number."""
    p = {name: _p_value(gain) for name, gain in gains.items()}
    better: list[str] = []
    for name in sorted(p, key=lambda name: p[name]):
        if p[name] > LEVEL / (len(p) - len(better)):
            break
        better.append(name)
    return better


def _p_value(gain: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp
    if len(set(gain)) > 1:
        return float(ttest_1samp(gain, 0, alternative="greater").pvalue)
    return 0.0 if len(gain) > 1 and gain[0] > 0 else 1.0


register(Experiment(
    "neighbours", "Small random growths of an architecture against itself: is it a local maximum?",
    "Deep neuroevolution with shared weights",
    (Arm("start", NETWORK, group=GROWN), Arm("original", NETWORK, teacher="start", group=GROWN),
     Arm("original", NETWORK, fresh=True, group=SCRATCH)),
    scales(small={"steps": 60, "eval_every": 20, "batch_size": 32}, student={"steps": 60}, networks=dict.fromkeys(
        ("smoke", "small", "paper"), {NETWORK: Network("inception_resnet_v2_small:r=2**-5", "resnet1d:r=2**-4")})),
    reference="original", setup=Neighbours))
