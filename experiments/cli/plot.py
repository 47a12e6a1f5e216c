"""`fxgrow plot`: curves of runs, from their folders and TensorBoard's files."""
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fxgrow.cli import EXAMPLE, check_writable, echo_written, json_option, print_json, print_table, status
from fxgrow.common import atomic_write, csv_text, quantity
from fxgrow.experiments import plots  # whose names load NumPy when they are first used

Groups = Mapping[str, Sequence["plots.StoredRun"]]


@click.command(epilog=EXAMPLE + "fxgrow plot runs -x flops -y val_accuracy -o accuracy.svg\n  "
               "fxgrow plot runs -x step -y train_loss --smooth 0.6 --log-y -o loss.png\n  "
               "fxgrow plot runs --group grow --bars -o final.pdf")
@click.argument("runs", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="The picture: .png (800 pixels wide), .svg or .pdf.")
@click.option("-x", metavar="COLUMN", help="What the curves run over: step, epoch, samples, flops, seconds, or a scalar of "
              "TensorBoard's.  [default: flops where all runs have it, else step]")
@click.option("-y", metavar="COLUMN", help="What is drawn: val_accuracy or another metric of the task (val_bits_per_byte, "
              "val_rmse, val_mean_iou), val_loss, train_loss, lr, parameters, or a scalar of TensorBoard's.  [default: the "
              "task's first metric; val_loss for runs of several tasks]")
@click.option("--group", metavar="WHAT", help="What is drawn as one curve: runs with the same value of this setting (grow, "
              "lr, model ...), or a regular expression: runs in whose names it finds the same ('(.*)-[0-9]+').  [default: "
              "runs that differ in their seed alone]")
@click.option("--band", type=click.Choice(["sd", "ci", "range", "none"]), default="sd", show_default=True, help="Around the "
              "mean: standard deviation, 95 % confidence interval of the mean, lowest to highest, or nothing.")
@click.option("--smooth", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="W", help="Weight of the past in "
              "an exponential moving average over each run (0: none).")
@click.option("--log-x", is_flag=True, help="A logarithmic x axis.")
@click.option("--log-y", is_flag=True, help="A logarithmic y axis.")
@click.option("--title", default="", metavar="TEXT", help="Above the picture.")
@click.option("--growths/--no-growths", default=True, show_default=True, help="Mark when a run grew, and what.")
@click.option("--bars", "as_bars", is_flag=True, help="Draw the last value of each run instead, its mean and spread.")
@click.option("--list", "listing", is_flag=True, help="Show the runs, how they are grouped, and what can be plotted.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write what is plotted, in plain numbers, to FILE (-: to stdout).")
@json_option
def plot(runs: tuple[str, ...], output: str | None, x: str | None, y: str | None, group: str | None, listing: bool,
         as_bars: bool, csv_file: str | None, as_json: bool, **style: Any) -> None:
    """Draw curves of RUNS.

    RUNS are folders: those that `fxgrow train -o` writes, TensorBoard's, or any above them. A curve is the mean over runs
    that differ in their seed alone; the band around it is their spread, drawn where at least two have data.
    """
    if csv_file is not None and as_json:
        raise click.UsageError("--csv and --json: choose one of them")
    if not (output or listing or csv_file or as_json):
        raise click.UsageError("name the picture with -o, or ask for --list, --csv or --json")
    files = [file for file in (output, csv_file) if file not in (None, "-")]
    for file in files:
        check_writable(file)
    if output is not None:
        plots.check_suffix(output)
    with status("Reading runs"):
        groups = plots.group_runs(plots.read_runs(runs), group)
    if listing:
        _list(groups, as_json)
        return
    columns = [plots.columns(run.rows) for members in groups.values() for run in members]
    x = x or ("flops" if all("flops" in names for names in columns) else "step")
    metrics = [name for name in columns[0] if name.startswith("val_") and name != "val_loss"]
    y = y or next((name for name in [*metrics, "val_loss"] if all(name in names for names in columns)), "val_accuracy")
    drawn = [plots.curve(label, [run.rows for run in members], x, y, style["band"], style["smooth"])
             for label, members in groups.items()]
    last = {label: [float(plots.points(run.name, run.rows, x, y)[1][-1]) for run in members]
            for label, members in groups.items()}
    if output is not None:
        with status(f"Drawing {output}"):
            _draw(output, drawn, last if as_bars else None, x, y, style)
    ends = ((label, run.name, value) for label, members in groups.items() for run, value in zip(members, last[label]))
    text = csv_text(("label", "run", y), ends) if as_bars else plots.to_csv(drawn)
    if csv_file not in (None, "-"):
        with atomic_write(csv_file) as target:
            target.write(text.encode())
    if as_json:
        names = {label: [run.name for run in members] for label, members in groups.items()}
        curves = [{**c.to_json(), "names": names[c.label], "last": last[c.label]} for c in drawn]
        print_json({"x": x, "y": y, "band": style["band"], "smooth": style["smooth"], "curves": curves, "file": output})
    elif csv_file == "-":
        click.echo(text, nl=False)
    else:
        _print(drawn, x, y, files)


def _draw(output: str, drawn: Sequence["plots.Curve"], last: Mapping[str, Sequence[float]] | None, x: str, y: str,
          style: Mapping[str, Any]) -> None:
    if last is None:
        plots.draw_curves(drawn, output, x=x, y=y, **style)
    else:
        plots.bars(last, output, y=y, title=style["title"], band=style["band"])


def _print(drawn: Sequence["plots.Curve"], x: str, y: str, files: Sequence[str]) -> None:
    rows = [(c.label, c.runs, len(c.x), quantity(float(c.x[-1])), f"{c.mean[-1]:.4g}",
             "one run, no band" if c.count[-1] == 1 else f"{c.low[-1]:.4g} to {c.high[-1]:.4g}",
             "; ".join(f"{what} at {quantity(at)}" for at, what in c.growths)) for c in drawn]
    _table(f"{y} over {x}", ("label", "runs", "points", f"last {x}", f"mean {y} there", "band there", "growths"), rows)
    for file in files:
        echo_written(file)


def _list(groups: Groups, as_json: bool) -> None:
    runs = [{"label": label, "run": run.name, "folder": str(run.folder), "source": run.source, "rows": len(run.rows),
             "columns": plots.columns(run.rows)} for label, members in groups.items() for run in members]
    if as_json:
        print_json({"runs": runs})
        return
    _table("Runs", ("label", "run", "read from", "rows"), [(r["label"], r["run"], r["source"], r["rows"]) for r in runs])
    counts = Counter(name for r in runs for name in r["columns"])  # type: ignore[attr-defined]
    _table("What can be plotted", ("column", "in runs"), list(counts.items()))


def _table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    """Print a table of names that may hold anything, brackets too, which rich would take for styles."""
    from rich.markup import escape
    print_table(escape(title), tuple(map(escape, columns)), [tuple(escape(str(cell)) for cell in row) for row in rows])
