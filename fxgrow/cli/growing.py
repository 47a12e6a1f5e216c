"""Commands that change a network: `transform` and `shrink`."""
import dataclasses
import re
from typing import Any

import click

import fxgrow
from fxgrow.cli import pass_options
from fxgrow.cli.options import EXAMPLE, check_writable, json_option, load, model_options
from fxgrow.cli.output import echo_written, notes, print_json, print_table, show, size, status
from fxgrow.errors import FxgrowError


class TransformCommand(click.Command):
    """Takes `--pass NAME` and the options behind it out of the words, in order, before click sees the rest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the passes asked for in the context; click parses the other words."""
        rest, named = pass_options.split(args)
        asked = []
        for name, words in named:
            cls, arguments, left = pass_options.parse_pass(name, words)
            asked.append((cls, arguments))
            rest += left
        try:
            left = super().parse_args(ctx, rest)
        except click.NoSuchOption as error:
            advice = pass_options.advice(error.option_name)
            raise click.NoSuchOption(error.option_name, error.format_message() + advice, ctx=ctx) from None
        if not asked and not ctx.resilient_parsing:
            raise click.UsageError("say what to do: at least one --pass NAME; `fxgrow passes` lists them", ctx)
        ctx.meta["fxgrow.transform"] = [cls(**arguments) for cls, arguments in asked]
        return left

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the options of each installed pass to the help."""
        super().format_options(ctx, formatter)
        for name, cls in pass_options.loaded_passes(load=pass_options.declared_pass).items():
            records = [option.get_help_record(ctx) for option in pass_options.options_of(cls)]
            with formatter.section(f"Options behind --pass {name}"):
                formatter.write_dl([record for record in records if record is not None] or [("none", "")])


@click.command(cls=TransformCommand, epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen "
               "--where 'layer1.*' --factor 2 --method r2r -o wide.pt")
@click.argument("model")
@click.option("--pass", "named", metavar="NAME", multiple=True, expose_value=False,
              help="What to do; repeatable, done in the order given. The options of a pass stand behind it.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the grown model goes; fxgrow.load reads it. "
              "Without a suffix, of a folder of transformers, a new folder where the result is of its class.")
@click.option("--explain", is_flag=True, help="Show every axis class: what was done, and why it is exact or was left alone.")
@click.option("--mixture", metavar="KIND", help="Of a folder whose perceptrons become experts, the class of the new one by "
              "its model_type, as mixtral or qwen2_moe; without it the first that fits.")
@model_options
@json_option
@click.pass_context
def transform(ctx: click.Context, model: str, output: str, explain: bool, mixture: str | None, as_json: bool,
              **options) -> None:
    """Grow MODEL by one pass or several and write it to FILE.

    The grown model is compared with MODEL before it is written. If they do not compute the same, nothing is written and
    the exit code is 1, unless a pass was asked not to preserve (--method random or copy, or --noise).
    """
    from fxgrow.archive import check
    from fxgrow.graph import Captured
    from fxgrow.growth import INEXACT
    from fxgrow.models import can_be_folder, results_alone, try_out
    from fxgrow.record import record_in

    passes = ctx.meta["fxgrow.transform"]
    check_writable(output, folder=True)
    module, inputs = load(model, **options)
    lost = next((name for name, p in module.named_parameters() if p.isnan().any()), None)
    if lost is not None:
        raise FxgrowError(f"{model} itself has NaN in {lost}, so that nothing was grown: give it weights of before it "
                          "diverged, with --weights FILE")
    with status(f"Running {model}"):
        try_out(model, module, inputs)
    alone = [module] if can_be_folder(module, output) else []
    with status(f"Capturing {model}"), results_alone(*alone):
        captured = check(module, inputs)
        if captured is not module and (earlier := record_in(module)) is not None:  # of a folder that has grown before
            Captured(captured).record = earlier
    with status(f"Growing {model}"):
        grown = fxgrow.transform(captured, inputs, passes)
    extended = [f"{o.name} has {o.after} outputs, the first {o.before} of them as before"
                for o in grown.outcomes if o.method == "extend"]
    with status("Comparing both on the same input"), results_alone(*alone):
        checked = fxgrow.verify(module, grown.model, inputs, extended=bool(extended))
    inexact = [type(p).__name__.lower() for p in passes if getattr(p, "method", "") in INEXACT or getattr(p, "noise", False)]
    if not checked.ok and not inexact:
        raise FxgrowError(f"the grown {model} does not compute the same ({checked}{notes(checked)}), so nothing was "
                          f"written: {_way_out(model, module, inputs, passes)}")
    remark = ""
    if alone:
        remark, found = _write_folder(grown, module, inputs, output, mixture, bool(extended))
        checked = found or checked
    else:
        with status(f"Writing {output}"):
            fxgrow.save(grown, output, example_inputs=inputs)
    before, after = size(module), size(grown.model)
    if as_json:
        print_json({"model": model, "file": output, "remark": remark, "parameters": {"before": before, "after": after},
                    "preserves": not (inexact or extended), "verification": checked.to_json(), "outcomes": grown.to_json(),
                    "lineage": grown.record.lineage})
        return
    if explain:
        show(grown.table())
    else:
        print_table("What was done", ("classes", "such as", "method", "why"), _summarise(grown.outcomes))
    click.echo(f"parameters  {before:,} -> {after:,} ({after / max(before, 1):.2f}x)")
    click.echo(f"compared    {checked}{notes(checked)}")
    if inexact:
        click.echo(f"NOT function preserving: {', '.join(inexact)} was asked for numbers that change what is computed")
    if extended:
        click.echo(f"NOT function preserving: {'; '.join(extended)}, and the others are drawn")
    if remark:
        click.echo(f"no folder   {remark}")
    echo_written(output)


def _write_folder(grown, module, inputs, output: str, mixture: str | None, extended: bool) -> tuple[str, Any]:
    """Write the folder of the stock class that a grown model is, and return how far it is from the first one.

    Where it is none, write an archive, and return why.
    """
    from fxgrow.models import results_alone

    try:
        with status("Looking for the configuration that has these shapes"):
            stock = fxgrow.put_back(grown, module, inputs, kind=mixture)
    except FxgrowError as why:
        if mixture:
            raise
        with status(f"Writing {output}"):
            fxgrow.save(grown, output, example_inputs=inputs)
        return f"this is a file that fxgrow.load reads, as {why}", None
    with status("Comparing both on the same input"), results_alone(module, stock.model):
        checked = fxgrow.verify(module, stock.model, inputs, extended=extended)
    said = stock.verification.notes if stock.verification else ()
    notes = (n for n in said if n not in checked.notes and not n.startswith("in "))
    stock.verification = dataclasses.replace(checked, notes=(*checked.notes, *notes))
    with status(f"Writing {output}"):
        stock.save(output)
    return "", stock.verification


def _way_out(model: str, module, inputs, passes) -> str:
    """Tell what to do about a growth that is not exact, by its cause as far as it is known."""
    from fxgrow.models import fault_of

    fault = fault_of(module, inputs)
    if fault:
        return f"{model} itself {fault}, and nothing is equal to that: mend it, or give it other weights with --weights FILE"
    others = [type(p).__name__ for p in passes if type(p).__module__.partition(".")[0] != "fxgrow"]
    if others:
        return f"{' and '.join(others)}: no pass of fxgrow's own, so mend it, or leave it out"
    return "please report it, and try another --method or fewer layers with --where"


@click.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --factor 2 -o big.pt\n  "
               "fxgrow shrink big.pt -o small.pt")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the small model goes; fxgrow.load reads it.")
@model_options
@json_option
def shrink(model: str, output: str, as_json: bool, **options) -> None:
    """Take the network that MODEL grew from out of it and write it to FILE.

    MODEL is a file that `fxgrow transform` or fxgrow.save wrote. The small network has the numbers that MODEL has now at
    the old places: if MODEL was not trained since it grew, or with its old numbers frozen, those that it grew from. Under
    net2net, what was shared out among copies is added up. It is compared with MODEL, and the outcome is told: they are
    equal until the new numbers of MODEL have learned something.
    """
    from fxgrow.models import origin_in, results_alone
    from fxgrow.record import describe_step, record_in

    check_writable(output)
    module, inputs = load(model, **options)
    record = record_in(module)
    if record is not None and not record.origin:
        record.origin = origin_in(model)
    if record is None or not record.lineage:
        raise FxgrowError(f"{model} has not grown, so there is no smaller network in it; name a file that `fxgrow "
                          "transform` wrote")
    with status(f"Shrinking {model}"):
        small = record.shrink(module)
    with status("Comparing both on the same input"), results_alone(module):
        checked = fxgrow.verify(small, module, inputs, extended=True)
    with status(f"Writing {output}"):
        fxgrow.save(small, output, example_inputs=inputs)
    before, after = size(module), size(small)
    if as_json:
        print_json({"model": model, "file": output, "parameters": {"before": before, "after": after},
                    "verification": checked.to_json(), "lineage": record.lineage})
        return
    click.echo(f"parameters  {before:,} -> {after:,} ({after / max(before, 1):.2f}x)")
    for i, step in enumerate(record.lineage, 1):
        click.echo(f"undone {i:<4} {describe_step(step)}")
    click.echo(f"compared    {checked}{notes(checked)}")
    if not checked.ok:
        click.echo(f"NOT the same function: {model} was trained since it grew, or a pass was not preserving, and what its "
                   "new numbers do is cut off")
    echo_written(output)


def _summarise(outcomes, most: int = 12) -> list[tuple]:
    """Put axis classes that were treated alike in one row: how many, some names, the method, why."""
    alike: dict[tuple[str, str], list] = {}
    for o in outcomes:
        alike.setdefault((o.method, re.sub(r"\d+|\bin \S+", "", o.certificate or o.reason)), []).append(o)
    rows: list[tuple] = []
    for (method, _), members in alike.items():
        names = ", ".join(f"{o.name} {o.before} -> {o.after}" if method else o.name for o in members[:2])
        rows.append((len(members), names, method or "left alone", members[0].certificate or members[0].reason))
    rows.sort(key=lambda row: row[2] == "left alone")
    if len(rows) > most:
        rows[most:] = [("", f"{len(rows) - most} more rows: see --explain", "", "")]
    return rows
