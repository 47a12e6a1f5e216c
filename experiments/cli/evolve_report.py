"""`fxgrow evolve-report`: one page about a search."""
from pathlib import Path

import click

from fxgrow.cli import EXAMPLE, check_writable, console, echo_written, json_option, print_json


@click.command("evolve-report", epilog=EXAMPLE + "fxgrow evolve-report runs/small -o search.html")
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", required=True, metavar="FILE", help="The page, an .html file.")
@click.option("--title", default="", metavar="TEXT", help="The page's heading.  [default: the folder's name]")
@click.option("--changes", type=click.Choice(["all", "line", "none"]), default="all", show_default=True,
              help="Whose layers are compared with their parents': all networks', those of the best one and its ancestors, "
              "or nobody's.")
@click.option("--thorough", is_flag=True, help="Check the stored networks by putting each together, not by the "
              "checksums of their files alone.")
@json_option
def evolve_report(run: str, output: str, title: str, changes: str, thorough: bool, as_json: bool) -> None:
    """Write a page about the search in the folder RUN, whether it has ended, runs or was cut off.

    The page needs no network: who descends from whom by which pass, Pareto fronts, curves, what each step did, the best
    network's diagram, what was discarded and why, settings and seeds. Networks whose files are damaged are told; all else
    that is known of them is kept.
    """
    check_writable(output)
    from rich.progress import Progress

    from fxgrow.experiments.evolve import report
    screen = console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("comparing networks", total=None)
        data = report(run, output, title=title, changes=changes, thorough=thorough,  # type: ignore[arg-type]
                      progress=lambda done, all: bar.update(task, completed=done, total=all))
    if as_json:
        print_json({"file": output, "bytes": Path(output).stat().st_size, "state": data["state"], **data["facts"],
                    "damaged": data["damaged"]})
        return
    click.echo(f"search      {data['state']}")
    for name, value in data["facts"].items():
        click.echo(f"{name:<11} {value}")
    for d in data["damaged"]:
        click.echo(f"warning: the network #{d['number']} of round {d['round']} is damaged: {d['reason']}", err=True)
    echo_written(output)
