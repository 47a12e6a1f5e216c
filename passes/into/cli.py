"""`fxgrow grow SMALL --into BIG`: a warm start for a bigger stock model."""
from pathlib import Path
from typing import Any

import click

from fxgrow import cli
from fxgrow.common import without_collector

MOST = 8  # tensors that are named one by one


@click.command(epilog=cli.EXAMPLE + "fxgrow grow torchvision:resnet18 --into torchvision:resnet34 --plan\n  "
               "fxgrow grow torchvision:resnet50 --weights DEFAULT --into torchvision:resnet101 -o resnet101.pth\n  "
               "fxgrow grow SmolLM-135M --set num_hidden_layers=45 -o deeper")
@click.argument("small")
@click.option("--into", "big", metavar="MODEL", help="The bigger model, its folder or its config.json. Its numbers are what "
              "new ones start from.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="In place of --into, or on top of its "
              "config.json: how the configuration of SMALL changes, as --set num_hidden_layers=48; repeatable.")
@click.option("-o", "--output", metavar="FILE", help="Where the state_dict goes: BIG.load_state_dict(torch.load(FILE)) "
              "takes it; safetensors by the suffix .safetensors. Without a suffix, of a model of transformers, a new folder "
              "that from_pretrained loads.")
@click.option("--plan", "only_plan", is_flag=True, help="Show the steps and stop.")
@click.option("--method", type=click.Choice(["r2r", "net2net", "netmorph"]), help="How numbers are made that change "
              "nothing; where it cannot be exact, another one is taken, and named. Without it r2r; of 16-bit numbers "
              "net2net, which rounds least, and whose copies learn alike (to train on in 16 bits: r2r).")
@click.option("--place", type=click.Choice(["end", "spread", "interleave"]), default="end", show_default=True,
              help="Where in a stage new blocks stand.")
@click.option("--approximate", is_flag=True, help="Where no way is exact, take the closest, and tell the error.")
@click.option("--extend", is_flag=True, help="Let BIG give more numbers than SMALL; the first are as before.")
@click.option("--noise", type=click.FloatRange(min=0), default=0.0, metavar="PART", help="Add so much of their numbers' "
              "deviation to experts that start equal to another one, which tells them apart and is not exact.")
@click.option("--seed", type=click.IntRange(0, 2 ** 63 - 1), default=0, show_default=True, help="Of every random choice.")
@click.option("--into-weights", metavar="FILE", help="A state_dict for BIG (--weights is that of SMALL).")
@cli.source_options
@cli.json_option
@without_collector()  # which takes a fifth of the time that torch and transformers need to be imported
def grow(small: str, big: str | None, changes: tuple[str, ...], output: str | None, only_plan: bool, method: str | None,
         place: str, approximate: bool, extend: bool, noise: float, seed: int, into_weights: str | None, as_json: bool,
         **options) -> None:
    """Give a bigger stock model numbers by which it computes what SMALL does.

    What is written is a plain state_dict that the class of BIG loads with strict=True. Both graphs are matched: blocks that
    SMALL has not start as the identity, kernels get zero taps, and axes are widened. Where that is not exact, the layer and
    the reason are told, nothing is written, and the exit code is 1.
    """
    from fxgrow.models import dtype_of
    from fxgrow.passes.into.growing import Into
    from fxgrow.passes.into.plan import Options
    from fxgrow.passes.into.sources import bigger_by_words
    from fxgrow.passes.support import default_method

    if big is None and not changes:
        raise click.UsageError("say what the bigger model is: --into MODEL, or changes of the configuration by --set")
    if output is None and not only_plan:
        raise click.UsageError("say where the state_dict goes with -o FILE, or ask for the steps alone with --plan")

    def by(best: str) -> Options:
        return Options(method or best, place, approximate, extend, seed, noise)  # type: ignore[arg-type]  # click checks them

    if output is not None:
        cli.check_writable(output, folder=True)
        done = _streamed(small, big, changes, output, by, bool(into_weights or any(options.values())))
        if done is not None:
            _tell_streamed(done, small, big or ", ".join(changes), output, as_json)
            return
    first, inputs = cli.load(small, **options)
    second = bigger_by_words(first, big, changes, seed, {**options, "weights": into_weights})
    big = big or ", ".join(changes)
    with cli.status(f"Matching {small} and {big}"):
        into = Into(first, second, inputs, by(default_method(dtype_of(first))))
    plan = into.plan
    if only_plan:
        if as_json:
            cli.print_json({"small": small, "big": big, "steps": plan.to_json()})
        else:
            cli.show(plan.table())
        return
    with cli.status(f"Growing {small}"):
        grown = into.grow()
    with cli.status("Training two steps to see which new numbers learn"):
        still = grown.unreached(inputs)
    with cli.status(f"Writing {output}"):
        grown.save(output)  # type: ignore[arg-type]
    checked: Any = grown.verification
    new = sum(int(grown.record.new_mask(n, t).sum()) for n, t in grown.model.named_parameters())
    if as_json:
        sizes = {"before": cli.size(first), "after": cli.size(grown.model), "new": new}
        cli.print_json({"small": small, "big": big, "file": output, "steps": plan.to_json(),
                        "verification": checked.to_json(), "parameters": sizes, "unreached": still})
        return
    cli.show(plan.table())
    click.echo(f"parameters  {cli.size(first):,} -> {cli.size(grown.model):,} ({new:,} new)")
    click.echo(f"compared    {checked}{cli.notes(checked)}")
    for name in plan.approximate:
        click.echo(f"NOT exact   {name}: the closest way was taken")
    click.echo(f"trains      {reached(still, new)}")
    cli.echo_written(output)  # type: ignore[arg-type]


def _streamed(small: str, big: str | None, changes: tuple[str, ...], output: str, options: Any, more: bool) -> Any:
    """Grow from folder to folder a tensor at a time; None where that cannot be: both models are then taken as a whole."""
    from fxgrow.common import Refusal
    from fxgrow.models import is_folder, parse_changes
    from fxgrow.passes.into.streaming import grow_folder

    known = Path(small).is_dir() and is_folder(small) and (big is None or (Path(big).exists() and is_folder(big)))
    if more or not known or Path(output).suffix:
        return None
    try:
        with cli.status(f"Growing {small}, a tensor at a time"):
            return grow_folder(small, big, parse_changes(changes), output, options)
    except Refusal:
        return None


def _tell_streamed(done: Any, small: str, big: str, output: str, as_json: bool) -> None:
    before, after = done.sizes
    checked = done.verification
    if as_json:
        cli.print_json({"small": small, "big": big, "file": output, "steps": done.plan.to_json(), "rounding": done.rounding,
                        "verification": checked.to_json(), "parameters": {"before": before, "after": after}})
        return
    cli.show(done.plan.table())
    click.echo(f"parameters  {before:,} -> {after:,}")
    click.echo(f"compared    {checked}{cli.notes(checked)}")
    for name in done.plan.approximate:
        click.echo(f"NOT exact   {name}: the closest way was taken")
    cli.echo_written(output)


def reached(still: dict[str, int], new: int) -> str:
    """Return in words which new numbers learn."""
    if not still:
        return f"a gradient reaches each of the {new:,} new numbers within two steps"
    some = ", ".join(f"{name} ({count:,})" for name, count in list(still.items())[:MOST])
    more = f" and {len(still) - MOST} more tensors" if len(still) > MOST else ""
    return f"within two steps no gradient reaches {sum(still.values()):,} of {new:,} new numbers: {some}{more}"
