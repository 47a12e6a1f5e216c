"""`fxgrow ensemble`: the members of a search, put together."""
import click

from fxgrow.cli import EXAMPLE, json_option, print_json, print_table, status
from fxgrow.common import quantity


@click.command(epilog=EXAMPLE + "fxgrow ensemble runs/evolved --members 5")
@click.argument("run")
@click.option("--members", type=click.IntRange(min=1), default=5, show_default=True, help="Up to so many are put together.")
@click.option("--data", "part", type=click.Choice(["test", "validation"]), default="test", show_default=True,
              help="What accuracies are of; of validation, the half that members are chosen on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the validation part's split and the stack.")
@json_option
def ensemble(run: str, members: int, part: str, seed: int, as_json: bool) -> None:
    """Put the members of the search in the folder RUN together, and say how well ensembles do for their FLOPs.

    One half of the validation part chooses members: the best ones, and a diverse choice (one after the other, the one that
    is right where those before it are not). The other half fits: weights by likelihood (weighted) and by forward selection
    (greedy), and a small network over the members' outputs (stacked). The table is kept as RUN/ensembles.json.
    """
    from fxgrow.experiments import evolve
    with status("Running the members"):
        table = evolve.ensemble(run, members, part, seed)
    if as_json:
        print_json(table)
        return
    size = table["samples"]
    rows = [(r["chosen"], r["count"], r["by"], f"{100 * r['accuracy']:.2f}", f"{r['loss']:.4f}",
             quantity(r["flops"], "FLOP"), " ".join(map(str, r["members"]))) for r in table["rows"]]
    print_table(f"Ensembles of {run}: {part} part, {size['reported on']} samples",
                ("chosen", "members", "by", "accuracy (%)", "loss", "FLOPs of a sample", "numbers"), rows)
    click.echo(f"validation  {size['chosen on']} samples to choose members on, {size['fitted on']} others to fit on")
    for number, why in table["lost"].items():
        click.echo(f"left out    network {number}: {why}")
    click.echo(f"written     {run}/{evolve.ENSEMBLES}")
