"""The results of an experiment as data and as a table: means and spreads over seeds, and the way to the reference."""
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fxgrow.common import atomic_write, quantity
from fxgrow.experiments.papers.declaration import Arm
from fxgrow.experiments.papers.running import Setup

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # by the keys of arms
COLUMNS = ("arm", "parameters", "test accuracy", "test loss", "validation accuracy", "updates", "FLOPs",
           "with the teacher's", "reaches the reference after", "FLOPs to there")


def spread(numbers: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and standard deviation (of a sample; None of a single value) of the numbers that are there."""
    values = [number for number in numbers if number is not None]
    return {"mean": statistics.fmean(values) if values else None,
            "sd": statistics.stdev(values) if len(values) > 1 else None}


def summary(setup: Setup, runs: Runs) -> list[dict[str, Any]]:
    """Return a row for each arm, in the experiment's order.

    An arm reaches the reference at the first evaluation from which its mean validation accuracy is at least the
    reference's last mean less its standard deviation over seeds. FLOPs to there include the teacher's; `ratio` is their
    share of what the reference itself took by the same rule.
    """
    experiment, rows = setup.declared, []
    for arm in sorted(experiment.arms, key=lambda arm: experiment.groups.index(arm.group)):
        reference = runs[Arm(experiment.reference, "", group=arm.group).key]
        last = spread([run["rows"][-1]["val_accuracy"] for run in reference])
        level = (last["mean"] or 0.0) - (last["sd"] or 0.0)
        at, base = reaching(runs[arm.key], level), reaching(reference, level)
        ratio = at["flops"] / base["flops"] if at and base and base["flops"] else None
        rows.append({**_row(arm, runs[arm.key]), "reached": at, "ratio": ratio})
    return rows


def _row(arm: Arm, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = statistics.fmean(run["flops"] for run in runs)
    return {"arm": arm.key, "group": arm.group, "seeds": [run["seed"] for run in runs],
            "parameters": statistics.fmean(run["parameters"] for run in runs),
            "test_accuracy": spread([run["test"]["accuracy"] for run in runs]),
            "test_loss": spread([run["test"]["loss"] for run in runs]),
            "val_accuracy": spread([run["rows"][-1]["val_accuracy"] for run in runs]),
            "train_loss": spread([_last_train_loss(run["rows"]) for run in runs]),
            "diverged": sum(run["diverged"] is not None for run in runs),
            "steps": statistics.fmean(run["rows"][-1]["step"] for run in runs), "flops": own,
            "flops_with_teacher": own + statistics.fmean(run["teacher_flops"] for run in runs)}


def _last_train_loss(rows: Sequence[Mapping[str, Any]]) -> float | None:
    return next((row["train_loss"] for row in reversed(rows) if row["train_loss"] is not None), None)


def reaching(runs: Sequence[Mapping[str, Any]], level: float) -> dict[str, float] | None:
    """Return the step, and the FLOPs with the teacher's, at which the mean validation accuracy first is `level`."""
    for rows in zip(*({row["step"]: row for row in run["rows"]}.values() for run in runs)):  # behind growths at one step
        if statistics.fmean(row["val_accuracy"] for row in rows) >= level:
            return {"step": statistics.fmean(row["step"] for row in rows),
                    "flops": statistics.fmean(row["flops"] + run["teacher_flops"] for row, run in zip(rows, runs))}
    return None


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row of the summary as text, under `COLUMNS`."""
    name, loss, at = row["arm"], row["test_loss"]["mean"], row["reached"]
    if row["diverged"]:
        name += f" ({row['diverged']} of {len(row['seeds'])} diverged)"
    reached, cost = "not reached", ""
    if at is not None:
        reached, cost = f"{at['step']:,.0f} updates", quantity(at["flops"], "FLOP")
        if row["ratio"] is not None:
            cost += f" ({row['ratio']:.2f} x)"
    return (name, f"{row['parameters']:,.0f}", percent(row["test_accuracy"]), "" if loss is None else f"{loss:.3f}",
            percent(row["val_accuracy"]), f"{row['steps']:,.0f}", quantity(row["flops"], "FLOP"),
            quantity(row["flops_with_teacher"], "FLOP"), reached, cost)


def percent(value: Mapping[str, float | None], sign: str = "") -> str:
    """Return a `spread` in %, with its sign where `sign` is +."""
    sd = value["sd"]
    return f"{100 * (value['mean'] or 0.0):{sign}.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the summary as a table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cells(row)) + " |" for row in rows]) + "\n"


def write_results(setup: Setup, command: str, seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], runs: Runs,
                  figures: Sequence[str], sentences: Sequence[str] = ()) -> dict[str, Any]:
    """Write `results.json` and `table.md`; return what the first holds, its curves aside."""
    experiment = setup.declared
    head = {"experiment": experiment.name, "title": experiment.title, "source": experiment.source, "scale": setup.scale,
            "data": setup.data or setup.preset.data, "seeds": list(seeds), "reference": experiment.reference,
            "command": command, "summary": list(rows), "figures": list(figures), "conclusions": list(sentences)}
    curves = {key: [{k: run[k] for k in ("seed", "rows", "growths", "teacher_flops")} for run in found]
              for key, found in runs.items()}
    with atomic_write(setup.out / "results.json") as file:
        file.write(json.dumps({**head, "runs": curves}, indent=1).encode())
    text = [f"# {experiment.title}", "", experiment.source, "", f"Data: {head['data']}, scale {setup.scale}, "
            f"{len(seeds)} seeds (mean ± standard deviation). Accuracies in %. Made by", "", f"    {command}", "",
            markdown(rows), *sentences]
    with atomic_write(setup.out / "table.md") as file:
        file.write("\n".join(text).encode())
    return head
