"""`fxgrow experiment`: tells the cost of an experiment, runs what has not been run, and reports."""
from __future__ import annotations

import concurrent.futures
import multiprocessing
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxgrow.cli import console, json_option, print_json, print_table, status
from fxgrow.common import quantity
from fxgrow.experiments import train

if TYPE_CHECKING:
    from fxgrow.experiments.papers import ArmCost, Setup


@click.command(epilog="\b\nExamples:\n  fxgrow experiment --list\n  "
               "fxgrow experiment convergence-widen --data digits --seeds 5 --scale small --out results/widen")
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the experiments.")
@click.option("--data", metavar="NAME", help="A data set (digits, mnist1d, cifar10, ...), a FILE.npz or imagefolder:PATH; "
              "without it, the one of the scale.")
@click.option("--model", metavar="MODEL", help="neighbours, evolution: the architecture, zoo:NAME[:options].")
@click.option("--count", type=click.IntRange(min=1), help="neighbours: how many (10); evolution: children of a round.")
@click.option("--root", metavar="DIR", help="The folder of the data sets that are not built in.")
@click.option("--download", is_flag=True, help="Fetch the data into root where they are missing.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each arm, with the seeds "
              "0, 1, ...")
@click.option("--scale", type=click.Choice(["smoke", "small", "paper"]), default="small", show_default=True,
              help="smoke: seconds, to see that it runs; small: minutes on one core; paper: the original setup.")
@click.option("-o", "--out", metavar="DIR", help="The result folder  [default: results/NAME-SCALE-DATA].")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, of one thread each.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True,
              help="What it is trained on.")
@click.option("--results", metavar="FILE", help="pays-...: a results.json, of which tables and figures are made; nothing is "
              "run.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and train nothing.")
@json_option
def experiment(name: str | None, listing: bool, data: str | None, root: str | None, download: bool, seeds: int, scale: str,
               out: str | None, jobs: int, device: str, dry_run: bool, as_json: bool, model: str | None,
               count: int | None, results: str | None) -> None:
    """Run the experiment NAME of the papers on function-preserving growth.

    Every arm is trained with every seed; scratch and random padding are always among the arms. A finished run is a file
    in the result folder and is not run again: after an interruption the same command goes on. At the end the folder holds
    results.json, table.md and figures.
    """
    from fxgrow.experiments import papers
    if listing:
        _list(as_json)
        return
    if name is None:
        raise click.UsageError("name an experiment; `fxgrow experiment --list` lists them")
    try:
        declared = papers.get_experiment(name)
    except papers.ExperimentError as error:
        raise click.UsageError(str(error)) from error
    where = data or declared.scale(scale).data
    folder = Path(out or f"results/{name}-{scale}-{papers.file_name(Path(where).stem)}")
    if results:
        papers.insist_writable(folder)
        _show(folder, papers.redrawn_report(Path(results), folder), as_json)
        return
    own = {k: v for k, v in {"model": model, "count": count}.items() if v is not None}
    if own and not hasattr(declared.setup, "model"):
        raise click.UsageError(f"experiment {name} has networks of its own: --model and --count are for neighbours and "
                               "evolution")
    setup: Setup = (declared.setup or papers.Setup)(name, scale, folder, data or "", root, download, device, **own)
    numbers = list(range(seeds))
    with status(f"Counting what {name} costs"):
        planned = papers.costs(setup, numbers)
    costs = [{"arm": c.arm.key, "todo": c.todo, "flops": c.flops} for c in planned]
    if not as_json:
        _print_costs(setup, planned, jobs)
    if dry_run:
        if as_json:
            print_json({"experiment": name, "scale": scale, "costs": costs})
        return
    papers.insist_writable(folder)
    run_all(setup, planned, jobs)
    words = ["fxgrow", "experiment", name, "--data", where, "--seeds", str(seeds), "--scale", scale,
             *(word for option, value in own.items() for word in (f"--{option}", str(value)))]
    with status("Drawing"):
        report = papers.report(setup, shlex.join(words), numbers)
    _show(folder, {**report, "costs": costs}, as_json)


def _list(as_json: bool) -> None:
    from fxgrow.experiments import papers
    experiments = papers.list_experiments()
    if as_json:
        print_json({"experiments": [{"name": e.name, "title": e.title, "source": e.source,
                                     "arms": [arm.key for arm in e.arms]} for e in experiments]})
    else:
        print_table("Experiments", ("name", "what is compared", "follows", "arms"),
                    [(e.name, e.title, e.source, len(e.arms) or "") for e in experiments])


def _print_costs(setup: Setup, planned: Sequence[ArmCost], jobs: int) -> None:
    rows = [(c.arm.key, len(c.todo), quantity(c.flops, "FLOP"), _duration(c.seconds)) for c in planned]
    print_table(f"What it will cost: {setup.experiment}, scale {setup.scale}",
                ("arm", "runs to do", "FLOPs of a run", "about"), rows)
    runs = sum(len(c.todo) for c in planned)
    flops = sum(len(c.todo) * c.flops for c in planned)
    click.echo(f"in all      {runs} runs, {quantity(flops, 'FLOP')} of training, about "
               f"{_duration(sum(len(c.todo) * c.seconds for c in planned) / jobs)}")


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


class _Steps(train.Watcher):
    """Moves a bar by the share of a run that each step is."""

    def __init__(self, bar, task, seconds: float):
        self.bar, self.task, self.seconds = bar, task, seconds

    def stepped(self, trainer: train.TrainingState, loss: float) -> None:
        self.bar.advance(self.task, self.seconds / trainer.total)


def run_all(setup: Setup, planned: Sequence[ArmCost], jobs: int) -> None:
    """Make every run that has not been made, teachers first, with a bar on terminals; finished ones survive any error."""
    from rich import progress

    from fxgrow.experiments.papers import ExperimentError
    cost = {c.arm.key: c for c in planned}
    bar = progress.Progress(progress.TextColumn("{task.description}"), progress.BarColumn(),
                            progress.TaskProgressColumn(), progress.TimeRemainingColumn(),
                            console=console(stderr=True), transient=True)
    task = bar.add_task(setup.experiment, total=sum(len(c.todo) * c.seconds for c in planned))
    if bar.console.is_terminal:
        bar.start()
    try:
        levels = [[(arm.key, seed) for arm in level for seed in cost[arm.key].todo] for level in setup.declared.levels()]
        if jobs == 1:
            for key, seed in (pair for level in levels for pair in level):
                bar.update(task, description=f"{setup.experiment}: {key}, seed {seed}")
                setup.run(setup.declared.arm(key), seed, [_Steps(bar, task, cost[key].seconds)])
        else:
            for key in _side_by_side(setup, levels, jobs):
                bar.advance(task, cost[key].seconds)
    except (train.Interrupted, KeyboardInterrupt) as error:
        raise ExperimentError("interrupted: the runs that are finished are kept, and the same command goes on") from error
    finally:
        bar.stop()


def _side_by_side(setup: Setup, levels: Sequence[Sequence[tuple[str, int]]], jobs: int) -> Iterator[str]:
    """Run in processes, a level behind the one that it needs; give the arm of each run as it is done."""
    from fxgrow.experiments.papers import in_process
    pool = concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        for level in levels:
            left = {pool.submit(in_process, setup, key, seed): key for key, seed in level}
            for future in concurrent.futures.as_completed(left):
                future.result()
                yield left[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _show(folder: Path, report: dict[str, Any], as_json: bool) -> None:
    from fxgrow.experiments.papers import COLUMNS, cells
    if as_json:
        print_json(report)
        return
    if report["summary"]:
        print_table(f"{report['title']} ({report['data']}, {len(report['seeds'])} seeds, accuracies in %)", COLUMNS,
                    [cells(row) for row in report["summary"]])
    for sentence in report["conclusions"]:
        click.echo(sentence)
    click.echo(f"written     {folder}: results.json, table.md, {', '.join(report['figures'])}")
