"""`fxgrow evolve`: a search from a TOML file and options, its progress, and its report."""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fxgrow.cli import EXAMPLE, console, json_option, print_json, print_table
from fxgrow.common import quantity
from fxgrow.experiments.settings import TrainError, read_toml
from fxgrow.experiments.train import summary_writer

if TYPE_CHECKING:
    from fxgrow.experiments.evolve import Scored, Search, SearchResult

# Settings that have an option of their own, with the type that click reads.
OPTIONS: dict[str, tuple[Any, str]] = {
    "model": (str, "The base network: a MODEL as elsewhere."), "data": (str, "The data set, as for fxgrow train."),
    "root": (str, "The folder of the data sets that are not built in."),
    "seed": (int, "Of everything."), "rounds": (int, "Rounds of selection, mutation and training."),
    "keep": (int, "How many are selected in a round."), "children": (int, "How many are made of them."),
    "first_steps": (int, "Steps of the base network."), "steps": (int, "Steps of a round, shared out among its members."),
    "final_steps": (int, "Steps of the best network at the end."),
    "rungs": (int, "Parts of a round, after each of which the worse half is dropped."),
    "weights": (click.Choice(["inherit", "share"]), "Numbers of its own for each child, or its parent's."),
    "momentum": (click.Choice(["anew", "inherit"]), "Of a training: begun anew, or gone on with, grown with the network."),
    "statistics": (int, "Batches for estimating running statistics anew before an evaluation."),
    "init": (click.Choice(["drawn", "hypernetwork"]), "Of new numbers that a pass leaves free."),
    "selection": (click.Choice(["best", "aging", "nsga2", "diverse", "hill", "random"]), "How the ones to keep are chosen."),
    "mode": (click.Choice(["rounds", "steady"]), "Round after round, or a new child whenever a worker is free."),
    "adapt": (bool, "Draw more of the mutations whose children gain more per FLOP."),
    "predictor": (click.Choice(["none", "forest", "gp", "embedding"]), "Choose among more children by their forecasts."),
    "total_flops": (float, "End when so many FLOPs are spent in training.")}


def _settings(command):
    for name, (kind, words) in reversed(OPTIONS.items()):
        flag = f"--{name.replace('_', '-')}"
        given = {"default": None} if kind is bool else {"type": kind}
        command = click.option(f"{flag}/--no-{name}" if kind is bool else flag, name, help=words, **given)(command)
    return command


@click.command(epilog=EXAMPLE + "fxgrow evolve search.toml -o runs/evolved\n"
               "  fxgrow evolve --preset cpu --model zoo:residual3 --data digits --seed 1 -o runs/small\n"
               "  fxgrow evolve --resume runs/small")
@click.argument("settings", required=False, metavar="[SEARCH.toml]")
@click.option("-o", "--out", metavar="DIR", help="The folder of the search.")
@_settings
@click.option("--preset", type=click.Choice(["report", "cpu"]), default="report", show_default=True, help="Sizes where "
              "nothing else is said: those of the report (15 rounds of 5,000 steps), or some that end in minutes on a CPU.")
@click.option("--engine", type=click.Choice(["serial", "processes", "ray"]), default="serial", show_default=True,
              help="Where networks are trained.")
@click.option("--workers", type=click.IntRange(min=1), help="How many are trained at a time (processes, ray).")
@click.option("--gpus", type=click.FloatRange(min=0), help="What each takes of a GPU (ray): with 0.25 four share one.")
@click.option("--address", help="Of a running Ray cluster; without it one is started here.")
@click.option("--resume", metavar="DIR", help="Go on with the search in DIR, with its own settings.")
@click.option("--tensorboard", is_flag=True, help="Write scalars for TensorBoard into the folder.")
@json_option
def evolve(settings: str | None, out: str | None, preset: str, engine: str, workers: int | None, gpus: float | None,
           address: str | None, resume: str | None, tensorboard: bool, as_json: bool, **options) -> None:
    """Search architectures by evolving networks that descend from one.

    The base network is trained; then, round after round, the best are selected, children are made of them by passes that
    change nothing, and all are trained on; at the end the best one is trained for longer. Children that are too large,
    of a known structure, or not equal to their parent are discarded before anything is trained.

    SEARCH.toml holds the settings (see docs/evolve.md), `[train]` those of the trainer, `[[mutations]]` the passes to draw;
    options override it. Every finished training is on disk before it counts: --resume goes on after any interruption.
    """
    import fxgrow
    from fxgrow.experiments import evolve as evolution
    chosen = {name: value for name, value in options.items() if value is not None}
    config, folder = settings_of(settings, out, resume, preset, chosen)
    with evolution.engine(engine, workers, address, gpus) as running, _progress(as_json) as shown:
        watch = [shown, Scalars()] if tensorboard else [shown]
        try:
            result = evolution.Search(config, folder, running, watch).run()
        except KeyboardInterrupt:
            raise TrainError(f"interrupted: go on with --resume {folder}; what had been finished is kept") from None
    report = summary(result)
    fxgrow.save(result.model(), report["file"])
    if as_json:
        print_json(report)
    else:
        _print(report)


def settings_of(settings: str | None, out: str | None, resume: str | None, preset: str, chosen: dict[str, Any]):
    """Return the settings of a search and its folder, from the command line."""
    from fxgrow.experiments.evolve import CPU_PRESET, SearchConfig, resumed
    if resume is not None:
        if settings or out or chosen:
            raise click.UsageError("--resume goes on with the settings of the search; it takes no others")
        return resumed(resume), resume
    if out is None:
        raise click.UsageError("say with -o where the search goes, or with --resume which one to go on with")
    usual = CPU_PRESET if preset == "cpu" else {}
    written = read_toml(settings) if settings else {}
    try:
        return SearchConfig.of({**usual, **written, **chosen}, settings or "the options"), out
    except TrainError as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def _progress(as_json: bool) -> Iterator:
    """Show a bar on stderr, and (not for JSON) a line for each training."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(stderr=True), transient=True,
                  redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("evolving")

        def show(search: Search, s: Scored | None) -> None:
            c = search.config
            a_round = c.children if c.mode == "steady" else sum(c.rung_sizes)
            most = 1 + c.rounds * a_round + (1 if c.final_steps else 0)
            best = max((x.accuracy for x in search.scored), default=0.0)
            bar.update(task, total=most, completed=len(search.scored),
                       description=f"best {best:.4f}, {quantity(search.spent, 'FLOP')}")
            if s is not None and not as_json:
                print(line(s), flush=True)  # which the bar on the same terminal sees
        yield show


def line(s: Scored) -> str:
    """Return a training in one line."""
    step = s.member.step or {}
    what = f"{step['pass']} {step.get('where', '')}".strip() + f" of {s.member.parent}" if step else "base"
    state = f"accuracy {s.accuracy:.4f}" if s.archive else "failed"
    return f"round {s.round:<3} network {s.number:<4} {state}  {s.member.parameters:>11,} parameters  {what}"


class Scalars:
    """Accuracy, cost and the best so far, for TensorBoard; after an interruption, on from where it was."""
    writer: Any = None

    def __call__(self, search: Search, s: Scored | None) -> None:
        """Write the numbers of a training."""
        at = len(search.scored)
        if self.writer is None:
            self.writer = summary_writer(search.store.folder, at + 1 if s is None else at)
        if s is not None:
            values = {"accuracy": s.accuracy, "best": max(x.accuracy for x in search.scored), "flops": s.member.flops,
                      "parameters": s.member.parameters, "spent": search.spent, "round": s.round}
            for name, value in values.items():
                self.writer.add_scalar(f"search/{name}", value, at)
            self.writer.flush()


def summary(result: SearchResult) -> dict[str, Any]:
    """Return the outcome as data; the test part is looked at here alone."""
    from fxgrow.experiments.evolve import Store, data_of, evaluate
    c = result.config
    accuracy, loss, _ = evaluate(result.model(), data_of(c.data, c.root, c.limit, c.seed).test)
    with contextlib.closing(Store(result.folder)) as store:
        discarded = len(store.discarded())

    def row(s: Scored) -> dict[str, Any]:
        return {**s.member.to_json(), "round": s.round, "accuracy": s.accuracy, "loss": s.loss}
    return {"folder": str(result.folder), "file": str(result.folder / "best.pt"), "best": row(result.best),
            "test": {"accuracy": accuracy, "loss": loss}, "population": [row(s) for s in result.population],
            "networks": len({s.number for s in result.evaluations}), "trainings": len(result.evaluations),
            "discarded": discarded, "spent": sum(s.spent for s in result.evaluations)}


def _print(report: dict[str, Any]) -> None:
    print_table("The last population", ("network", "parent", "pass", "accuracy", "parameters", "FLOPs"), [
        (p["number"], "" if p["parent"] is None else p["parent"], (p["step"] or {}).get("pass", "base"),
         f"{p['accuracy']:.4f}", f"{p['parameters']:,}", quantity(p["flops"])) for p in report["population"]])
    best = report["best"]
    click.echo(f"best        network {best['number']}: accuracy {best['accuracy']:.4f} on the validation part, "
               f"{report['test']['accuracy']:.4f} on the test part, {best['parameters']:,} parameters")
    click.echo(f"spent       {quantity(report['spent'], 'FLOP')} in {report['trainings']} trainings of {report['networks']} "
               f"networks; {report['discarded']} mutations led to nothing")
    click.echo(f"written     {report['file']}, and all networks in {report['folder']}")
