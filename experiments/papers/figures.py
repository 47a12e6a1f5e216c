"""The figures of an experiment: accuracy against updates and against FLOPs, and filters of the first layer."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import fxgrow
from fxgrow.common import atomic_write
from fxgrow.experiments.papers.declaration import Arm, ExperimentError
from fxgrow.experiments.papers.results import Runs
from fxgrow.experiments.papers.running import Setup, grown_through, start_of
from fxgrow.experiments.plots import curves
from fxgrow.record import record_in
from fxgrow.visual import filter_grid, filter_limits, first_convolution

COLUMNS = {"updates": "step", "flops": "flops"}


def draw_figures(setup: Setup, runs: Runs, seeds: Sequence[int]) -> list[str]:
    """Write the figures into the result folder and return their names."""
    names = []
    for group in setup.declared.groups:
        arms = [arm for arm in setup.declared.arms if arm.group == group]
        taught = any(arm.teacher for arm in arms)
        later = any(growth["step"] for arm in arms for run in runs[arm.key] for growth in run["growths"])
        for suffix, x in COLUMNS.items():
            name = "-".join(filter(None, ["accuracy", "".join(c if c.isalnum() else "-" for c in group), suffix])) + ".png"
            shown = {arm.name: [_all_costs(run) if x == "flops" else run["rows"] for run in runs[arm.key]] for arm in arms}
            title = (group or setup.declared.name) + (", teachers' FLOPs included" if x == "flops" and taught else "")
            curves(shown, setup.out / name, x=x, y="val_accuracy", title=title, growths=later)
            names.append(name)
    if setup.declared.filters:
        names.append(_filters(setup, seeds[0]))
    return names


def _all_costs(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a run, whose FLOPs start with what its teacher cost."""
    return [{**row, "flops": row["flops"] + run["teacher_flops"]} for row in run["rows"]]


def _filters(setup: Setup, seed: int) -> str:
    """Draw a row for each arm: the first layer before training (grown already, new filters framed), and after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    arms = setup.declared.arms
    pairs = [_first_layers(setup, arm, seed) for arm in arms]
    limits = filter_limits([weight for pair in pairs for weight, _ in pair])
    grids = [[filter_grid(weight, new, columns=8, limits=limits) for weight, new in pair] for pair in pairs]
    heights = [max(grid.shape[0] / grid.shape[1] for grid in row) for row in grids]
    figure = Figure(figsize=(8, 4 * sum(heights) + 0.4 * len(arms)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(arms), 2, squeeze=False, height_ratios=heights)
    for arm, row, places in zip(arms, grids, axes):
        for grid, place, when in zip(row, places, ("before training", "after training")):
            place.imshow(grid, interpolation="nearest")
            place.set_axis_off()
            place.set_title(f"{arm.name}, {when}", fontsize=9, parse_math=False)
    with atomic_write(setup.out / "filters.png") as file:
        figure.savefig(file, format="png")
    return "filters.png"


def _first_layers(setup: Setup, arm: Arm, seed: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Return the first convolution's weight and which of its numbers are new, as training begins and at its end."""
    data = setup.load(seed)
    start = start_of(setup, arm, seed)
    if arm.teacher:
        start = grown_through(start, setup.config(arm, data, seed).grow, data, seed)  # type: ignore[arg-type]
    layers = []
    for model in (start, fxgrow.load(setup.model_file(arm, seed))):
        name = first_convolution(model)  # type: ignore[arg-type]
        if name is None:
            raise ExperimentError(f"arm {arm.key} has no convolution, so its filters cannot be drawn: choose other --data")
        weight, record = model.get_parameter(name).detach(), record_in(model)
        layers.append((weight, None if record is None else record.new_mask(name, weight)))
    return layers
