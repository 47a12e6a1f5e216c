"""Draw what growing buys, and where it buys nothing, from the kept results of `docs/data/`: no data, no training.

    python tools/draw_what_growing_buys.py [--out docs/img/what-growing-buys.png]

A bar is how far a way of growing is ahead of the best size from scratch for as many FLOPs, or a search of the base network:
the mean over seeds, with their standard deviation where there are several.
Grey is what did not grow: the base network otherwise, or a wider one.
"""
import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

from fxgrow.common import quantity
from fxgrow.experiments.papers.front import GROWN
from fxgrow.experiments.papers.front_results import Compared
from fxgrow.experiments.papers.search_tables import BASE

DATA = Path(__file__).resolve().parent.parent / "docs" / "data"
PAYS, LOSES, NEITHER = "#2a7f62", "#b5523b", "#9a9a9a"
Bars = list[tuple[str, list[float]]]


def grown(path: Path) -> Bars:
    """Return how far each way is ahead of the front at each of its ends, by seed."""
    compared, bars = Compared(json.loads(path.read_text())), []
    for goal in compared.goals(GROWN):
        runs = compared.runs(goal)
        flops = statistics.fmean(f for f, _ in runs.values())
        best = compared.best(flops)
        mine = {seed: result for seed, (_, result) in runs.items()}
        gains = compared.ahead(mine, compared.beside(goal, best[0])) if best else []
        bars.append((f"{goal['name']}, {quantity(flops, 'FLOP')}", gains))
    return [(name, gains) for name, gains in bars if gains]


def searched(path: Path) -> Bars:
    """Return how many points the best network of each search, and base networks together, are above the base network."""
    by_arm: dict[str, dict[int, float]] = defaultdict(dict)
    for run in json.loads(path.read_text()):
        by_arm[run["arm"]][run["seed"]] = 100 * run["test"]["accuracy"]
    base = by_arm.pop(BASE)
    return [(arm, [right - base[seed] for seed, right in found.items()]) for arm, found in by_arm.items()]


AHEAD = "{} ahead of the best size from scratch"
PANELS = (("Language models, deeper", AHEAD.format("bits per byte"), grown, "pays-depth.json"),
          ("Language models, wider", AHEAD.format("bits per byte"), grown, "pays-width-text.json"),
          ("Residual networks on CIFAR-10, wider", AHEAD.format("accuracy"), grown, "pays-width.json"),
          ("Residual networks on CIFAR-10, deeper", AHEAD.format("accuracy"), grown, "pays-depth-residual.json"),
          ("Vision transformers on CIFAR-10, deeper", AHEAD.format("accuracy"), grown, "pays-depth-images.json"),
          ("Searches, where the base network has stopped to gain", "points above the base network", searched,
           "evolve-pays.json"),
          ("Searches on CIFAR-10, likewise", "points above the base network", searched,
           "evolve-cifar10.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA.parent / "img" / "what-growing-buys.png")
    arguments = parser.parse_args()
    panels = [(title, unit, sorted(read(DATA / name), key=lambda bar: statistics.fmean(bar[1])))
              for title, unit, read, name in PANELS]
    figure, axes = plt.subplots(len(panels), 1, figsize=(9, 0.7 + 0.32 * sum(len(bars) + 2.5 for *_, bars in panels)),
                                height_ratios=[len(bars) + 1 for *_, bars in panels], layout="constrained")
    for axis, (title, unit, bars) in zip(axes, panels):
        means = [statistics.fmean(gains) for _, gains in bars]
        errors = [statistics.stdev(gains) if len(gains) > 1 else 0.0 for _, gains in bars]
        colours = [NEITHER if name.startswith(BASE) or name.endswith("as wide") else PAYS if m > 0 else LOSES
                   for (name, _), m in zip(bars, means)]
        axis.barh(range(len(bars)), means, xerr=errors, color=colours, ecolor="black")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(bars)), [f"{name} ({len(gains)} seed{'s' * (len(gains) > 1)})" for name, gains in bars])
        axis.set_title(title, loc="left", fontsize="medium")
        axis.set_xlabel(unit)
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=6)
    figure.savefig(arguments.out, dpi=110)
    print(arguments.out)


if __name__ == "__main__":
    main()
