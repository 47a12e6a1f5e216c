"""Tables of a comparison of searches: networks and ensembles, differences from the base network, and a figure."""
import statistics
from pathlib import Path

from fxgrow.common import quantity
from fxgrow.experiments.papers.results import Runs, percent, spread
from fxgrow.experiments.plots import curves

BASE, APART = "base", "base, several"  # arms without a search
TEST = "test accuracy (%)"
WAYS = ("average", "weighted", "stacked")


def figure(runs: Runs, path: Path, title: str, unit: float) -> None:
    """Draw test accuracy against spent FLOPs, to the nearest multiple of `unit`, as seeds differ by a training step."""
    shown = {key: [[{"flops": unit * round(row["flops"] / unit), TEST: 100 * row["test_accuracy"]} for row in run["rows"]
                    if row["step"]] for run in found] for key, found in runs.items()}
    curves(shown, path, y=TEST, title=title)


def table(runs: Runs) -> str:
    """Return one network and ensembles of each arm: test accuracy in %, mean ± standard deviation over seeds."""
    rows = ["| arm | one network | parameters | average | weighted | stacked | parameters | FLOPs spent |", "|---" * 8 + "|"]
    for key, found in runs.items():
        ensembles = [run["ensemble"] for run in found if "ensemble" in run]
        many = [percent(spread([e[way]["accuracy"] for e in ensembles])) for way in WAYS] if ensembles else [""] * 3
        one = ["", ""] if key == APART else [percent(spread([run["test"]["accuracy"] for run in found])),
                                             f"{statistics.fmean(run['parameters'] for run in found):,.0f}"]
        total = f"{statistics.fmean(e['parameters'] for e in ensembles):,.0f}" if ensembles else ""
        spent = quantity(statistics.fmean(run["flops"] for run in found), "FLOP")
        rows.append(f"| {' | '.join([key, *one, *many, total, spent])} |")
    return "\n".join(rows)


def verdicts(runs: Runs) -> list[str]:
    """Tell how far each arm's one network, and the average of its ensemble, are from the base network of the same seed."""
    lines, base = [], {run["seed"]: run["test"]["accuracy"] for run in runs[BASE]}
    for key, found in runs.items():
        ends = {"one network": {run["seed"]: run["test"]["accuracy"] for run in found if key not in (BASE, APART)},
                "average": {run["seed"]: run["ensemble"]["average"]["accuracy"] for run in found if "ensemble" in run}}
        for what, accuracies in ends.items():
            gains = [accuracies[seed] - base[seed] for seed in sorted(accuracies.keys() & base)]
            if gains:
                lines.append(f"{key}, {what}: {percent(spread(gains), '+')} points from base, above it with "
                             f"{sum(g > 0 for g in gains)} of {len(gains)} seeds")
    return lines
