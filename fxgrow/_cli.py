"""The command line: `fxgrow COMMAND ...`, one function a command.

What lives here: the commands, and how an error becomes one line and an exit code (0 done, 1 it could not be done, 2 usage).
What does not: how a MODEL is found (fxgrow/_models.py), how passes become options (fxgrow/_pass_options.py), how reports
are printed (fxgrow/_cli_report.py). Torch is imported inside the commands, so that help comes at once. Other packages
add commands through `fxgrow.commands`.
"""
from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import click

from fxgrow import _pass_options
from fxgrow._cli_report import (
    console,
    describe_model,
    describe_step,
    notes,
    print_json,
    print_table,
    size,
    status,
    summarise,
)
from fxgrow.errors import FxgrowError

EXAMPLE = "\b\nExample:\n  "


class Main(click.Group):
    """The group of all commands: ours, those of other packages, and one way of telling errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(e.name for e in entry_points(group="fxgrow.commands"))})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = super().get_command(ctx, name)
        if command is None:
            entry = next((e for e in entry_points(group="fxgrow.commands") if e.name == name), None)
            if entry is None:
                return None
            command = entry.load()
        if not any(p.name == "traceback" for p in command.params):
            command.params.append(click.Option(["--traceback"], is_flag=True, expose_value=False, is_eager=True,
                                               callback=_remember_traceback, help="Show where an error comes from."))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.format_message()} The commands are {names}.", ctx) from None

    def invoke(self, ctx: click.Context):
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get("fxgrow.traceback"):
                raise
            click.echo(f"error: {one_line(error)}", err=True)
            ctx.exit(1)


def _remember_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["fxgrow.traceback"] = ctx.meta.get("fxgrow.traceback") or value


def one_line(error: BaseException) -> str:
    """What went wrong, where, and what to do about it, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, FxgrowError):
        return text
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before it was done"
    if type(error) is Exception and error.__cause__ is not None:  # torch's pass manager wraps what a pass raises
        return one_line(error.__cause__)
    if isinstance(error, MemoryError) or "t allocate memory" in text or "not enough memory" in text:
        return "out of memory: grow fewer layers (--where) or by a smaller factor, or use a machine with more memory"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or text}: free space or choose another place; no half-written file is left"
    return f"{type(error).__name__}: {text[:300] or 'no message'}; this was not foreseen, see where with --traceback"


# --- pieces that commands share -----------------------------------------------------------------------------------


def _inputs_option(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuses a malformed --input as wrong usage."""
    if value is not None:
        from fxgrow._models import ModelError, parse_inputs
        try:
            parse_inputs(value)
        except ModelError as error:
            raise click.BadParameter(str(error).removeprefix("--input").lstrip(": ")) from None
    return value


def model_options(command: Callable) -> Callable:
    """The options that say what a MODEL is made of."""
    for option in (
            click.option("--trust-pickle", is_flag=True, help="Let a pickled MODEL file run its own code while it loads."),
            click.option("--input", "input_shape", metavar="SHAPE", callback=_inputs_option,
                         help="Shape of the input where MODEL does not say it: 1,3,224,224. Several inputs: "
                         "1,3,224,224;1,10:int64."),
            click.option("--weights", metavar="FILE", help="A state_dict for MODEL, or DEFAULT for torchvision's and "
                         "timm's own. Without it such a model gets random weights, the same each time.")):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


def _load(model: str, **options):
    from fxgrow._models import load_model
    with status(f"Loading {model}"):
        return load_model(model, **options)


# --- the commands -------------------------------------------------------------------------------------------------


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fxgrow")
def main() -> None:
    """Make a trained PyTorch network wider or deeper without changing what it computes.

    MODEL is a file (written by fxgrow or by torch.save), torchvision:NAME, timm:NAME, zoo:NAME, or
    package.module:factory for a function of your own that returns a module.

    \b
    Example:
      fxgrow transform torchvision:resnet18 --pass widen --factor 1.5 -o big.pt
    """


class TransformCommand(click.Command):
    """Takes `--pass NAME` and the options behind it out of the words, in order, before click sees the rest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, named = _pass_options.split(args)
        asked = []
        for name, words in named:
            cls, arguments, left = _pass_options.parse(name, words)
            asked.append((cls, arguments))
            rest += left
        try:
            left = super().parse_args(ctx, rest)
        except click.NoSuchOption as error:
            advice = _pass_options.advice(error.option_name)
            raise click.NoSuchOption(error.option_name, error.format_message() + advice, ctx=ctx) from None
        if not asked and not ctx.resilient_parsing:
            raise click.UsageError("say what to do: at least one --pass NAME; `fxgrow passes` lists them", ctx)
        ctx.meta["fxgrow.transform"] = [cls(**arguments) for cls, arguments in asked]
        return left

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        for name in _pass_options.found():
            cls = _pass_options.load_pass(name)
            records = [r for o in _pass_options.options(cls) if (r := o.get_help_record(ctx)) is not None]
            with formatter.section(f"Options behind --pass {name}"):
                formatter.write_dl(records)


@main.command(cls=TransformCommand, epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --where 'layer1.*' "
              "--factor 2 --method r2r -o wide.pt")
@click.argument("model")
@click.option("--pass", "named", metavar="NAME", multiple=True, expose_value=False,
              help="What to do; repeatable, done in the order given. The options of a pass stand behind it.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the grown model goes; fxgrow.load reads it.")
@click.option("--explain", is_flag=True, help="Show every axis class: what was done, and why it is exact or was left alone.")
@model_options
@json_option
@click.pass_context
def transform(ctx: click.Context, model: str, output: str, explain: bool, as_json: bool, **options) -> None:
    """Grow MODEL by one pass or several and write it to FILE.

    The grown model is compared with MODEL before it is written. If they do not compute the same, nothing is written and
    the exit code is 1, unless a pass was asked not to preserve (--method random, or --noise).
    """
    import fxgrow
    from fxgrow._archive import check
    from fxgrow._models import try_out

    passes = ctx.meta["fxgrow.transform"]
    check_writable(output)
    module, inputs = _load(model, **options)
    with status(f"Running {model}"):
        try_out(model, module, inputs)
    with status(f"Capturing {model}"):
        captured = check(module, inputs)
    with status(f"Growing {model}"):
        grown = fxgrow.transform(captured, inputs, passes)
    extended = [f"{o.name} has {o.after} outputs, the first {o.before} of them as before"
                for o in grown.outcomes if o.method == "extend"]
    with status("Comparing both on the same input"):
        checked = fxgrow.verify(module, grown.model, inputs, extended=bool(extended))
    inexact = [type(p).__name__.lower() for p in passes if getattr(p, "method", "") == "random" or getattr(p, "noise", 0)]
    if not checked.ok and not inexact:
        raise FxgrowError(f"the grown {model} does not compute the same ({checked}{notes(checked)}), so nothing was "
                          "written: please report it, and try another --method or fewer layers with --where")
    with status(f"Writing {output}"):
        fxgrow.save(grown, output, example_inputs=inputs)
    before, after = size(module), size(grown.model)
    if as_json:
        print_json({"model": model, "file": output, "parameters": {"before": before, "after": after},
                     "preserves": not (inexact or extended), "verification": checked.to_json(), "outcomes": grown.to_json(),
                     "lineage": grown.record.lineage})
        return
    if explain:
        console().print(grown.table())
    else:
        print_table("What was done", ("classes", "such as", "method", "why"), summarise(grown.outcomes))
    click.echo(f"parameters  {before:,} -> {after:,} ({after / max(before, 1):.2f}x)")
    click.echo(f"compared    {checked}{notes(checked)}")
    if inexact:
        click.echo(f"NOT function preserving: {', '.join(inexact)} was asked to draw numbers that change what is computed")
    if extended:
        click.echo(f"NOT function preserving: {'; '.join(extended)}, and the others are drawn")
    click.echo(f"written     {output} ({os.path.getsize(output):,} bytes)")


def check_writable(path: str) -> None:
    """Finds out before the long work whether FILE can be written."""
    target = Path(path)
    if target.is_char_device():
        return
    if not path or target.exists() and not target.is_file():
        raise FxgrowError(f"{path!r} is a folder, not a file: name a file with -o")
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise FxgrowError(f"{path} cannot be written ({error.strerror}): choose another place with -o") from error


@main.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --factor 2 -o big.pt\n  "
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
    import fxgrow
    from fxgrow._record import record_in

    check_writable(output)
    module, inputs = _load(model, **options)
    record = record_in(module)
    if record is None or not record.lineage:
        raise FxgrowError(f"{model} has not grown, so there is no smaller network in it; name a file that `fxgrow "
                          "transform` wrote")
    with status(f"Shrinking {model}"):
        small = record.shrink(module)
    with status("Comparing both on the same input"):
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
    click.echo(f"written     {output} ({os.path.getsize(output):,} bytes)")


@main.command(epilog=EXAMPLE + "fxgrow verify torchvision:resnet18 big.pt")
@click.argument("before")
@click.argument("after")
@click.option("--after-weights", metavar="FILE", help="A state_dict for AFTER (--weights is that of BEFORE).")
@model_options
@json_option
def verify(before: str, after: str, after_weights: str | None, weights: str | None, input_shape: str | None,
           trust_pickle: bool, as_json: bool) -> None:
    """Compare what two models compute.

    Both get the same input, in eval and in train mode. They are equal when the largest difference between their outputs
    in eval mode is at most 1e-4 of the largest output (1e-9 in float64); otherwise the exit code is 1. The input is drawn
    by a fixed seed in the shape that BEFORE, or else AFTER, was made for.
    """
    import fxgrow
    from fxgrow._models import try_out

    first, inputs = _load(before, weights=weights, input_shape=input_shape, trust_pickle=trust_pickle, need_inputs=False)
    second, others = _load(after, weights=after_weights, input_shape=input_shape, trust_pickle=trust_pickle,
                           need_inputs=not inputs)
    with status("Comparing both on the same input"):
        for name, module in ((before, first), (after, second)):
            try_out(name, module, inputs or others)
        checked = fxgrow.verify(first, second, inputs or others)
    if as_json:
        print_json({"before": before, "after": after, **checked.to_json()})
    else:
        rows = [(mode, f"{error:.2e}", "yes" if mode in checked.exact_in else "no")
                for mode, error in checked.errors.items()]
        print_table(f"{before} and {after}", ("mode", "max error, relative", "equal"), rows)
        click.echo(f"{checked}{notes(checked)}")
    if not checked.ok:
        raise FxgrowError(f"{before} and {after} do not compute the same{notes(checked)}: if one is a stock model, did "
                          "both have the same --weights?")


@main.command(epilog=EXAMPLE + "fxgrow axes torchvision:resnet18")
@click.argument("model")
@model_options
@json_option
def axes(model: str, as_json: bool, **options) -> None:
    """Show which axes of MODEL must grow together.

    Each row is one class of axes: its size, the layers that produce and consume it, the methods that are exact for it, and
    why others are not. The names in it are what --where takes.
    """
    import fxgrow

    module, inputs = _load(model, **options)
    with status(f"Analysing {model}"):
        report = fxgrow.axes(module, inputs)
    if as_json:
        print_json({"model": model, "classes": report.to_json()})
    else:
        console().print(report.table())


def picture_options(command: Callable) -> Callable:
    """The options that say how much of a model is drawn."""
    for option in (
            click.option("--columns", type=click.IntRange(min=1), metavar="N", help="Columns of a long picture; without it, "
                         "as many as make it about as wide as it is high."),
            click.option("--repeats/--no-repeats", default=None, help="Equal blocks that follow each other once, with their "
                         "number; without it, where a model has more than 60 boxes."),
            click.option("--collapse", multiple=True, metavar="GLOB", help="Modules whose path matches are one box each; "
                         "repeatable."),
            click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Modules so many levels deep are one box "
                         "each; 0: every level. Without it, as deep as 60 boxes allow.")):
        command = option(command)
    return command


@main.command(epilog=EXAMPLE + "fxgrow draw torchvision:resnet18 -o arch.svg")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the picture goes: .svg, .png, .pdf, .dot or "
              ".html.")
@picture_options
@click.option("--heat", type=click.Choice(["flops", "params", "memory"]), help="Colour by share of the cost instead of by "
              "kind of operation.")
@click.option("--logdir", metavar="DIR", help="Write the picture and a table of its boxes to TensorBoard as well.")
@model_options
def draw(model: str, output: str, depth: int | None, collapse: tuple[str, ...], repeats: bool | None, heat: str | None,
         columns: int | None, logdir: str | None, **options) -> None:
    """Draw MODEL as a diagram.

    Modules are frames, layers are boxes with their settings and the shape of what they give, coloured by kind; the legend
    says which. In an .html page modules open and close; svg, png and pdf need Graphviz's program `dot`.
    """
    import fxgrow

    check_writable(output)
    module, inputs = _load(model, **options)
    with status(f"Drawing {model}"):
        fxgrow.draw(module, inputs, output, depth=depth, collapse=collapse, repeats=repeats, heat=heat, columns=columns,
                    logdir=logdir)
    click.echo(f"written     {output} ({os.path.getsize(output):,} bytes)")


@main.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --where 'layer1.*' --factor 2 -o big.pt\n"
              "  fxgrow diff big.pt -o diff.svg")
@click.argument("before")
@click.argument("after", required=False)
@click.option("-o", "--output", metavar="FILE", help="Where the picture goes, if one is wanted: .svg, .png, .pdf, .dot or "
              ".html.")
@click.option("--all", "every", is_flag=True, help="List untouched layers too.")
@picture_options
@click.option("--after-weights", metavar="FILE", help="A state_dict for AFTER (--weights is that of BEFORE).")
@model_options
@json_option
def diff(before: str, after: str | None, output: str | None, every: bool, depth: int | None, collapse: tuple[str, ...],
         repeats: bool | None, columns: int | None, after_weights: str | None, weights: str | None, as_json: bool,
         **options) -> None:
    """Show what stands where in two models, and what a growth did.

    BEFORE alone is a grown model: it is compared with the one that it grew from. The table says for each layer that changed
    its sizes, parameters and FLOPs before and after; in the picture untouched layers are grey, new numbers hatched, and
    inserted layers framed.
    """
    import fxgrow

    if output is not None:
        check_writable(output)
    first, inputs = _load(before, weights=weights, need_inputs=after is None, **options)
    second, others = (None, ()) if after is None else _load(after, weights=after_weights, need_inputs=not inputs, **options)
    with status("Comparing"):
        found = fxgrow.diff(first, second, inputs or others)
    if output is not None:
        with status(f"Drawing {output}"):
            found.draw(output, depth=depth, collapse=collapse, repeats=repeats, columns=columns)
    if as_json:
        print_json({"before": before, "after": after, "file": output, **found.to_json()})
        return
    console().print(found.table(every))
    if output is not None:
        click.echo(f"written     {output} ({os.path.getsize(output):,} bytes)")


@main.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --where 'layer1.*' --factor 2 -o big.pt\n"
              "  fxgrow report big.pt -o report.html")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the page goes: an .html file.")
@click.option("--before", metavar="MODEL", help="The model to compare with; without it, of a grown MODEL the small network "
              "that is in it.")
@click.option("--before-weights", metavar="FILE", help="A state_dict for the model of --before.")
@model_options
def report(model: str, output: str, before: str | None, before_weights: str | None, **options) -> None:
    """Write one page about MODEL that opens in any browser, without a network.

    It holds the diagram (drag and zoom, open and close modules, search by name), and what each module costs, as a tree and
    as an icicle. Of a grown MODEL also what grew, why that is exact, how far it is from the network that it grew from, the
    growth record, and the filters of the first convolution before and after.
    """
    import fxgrow

    if before_weights and not before:
        raise click.UsageError("--before-weights is for the model of --before: name it")
    check_writable(output)
    module, inputs = _load(model, **options)
    small = None if before is None else _load(before, **{**options, "weights": before_weights}, need_inputs=False)[0]
    with status(f"Reporting on {model}"):
        fxgrow.report(module, inputs, output, before=small, title=model)
    click.echo(f"written     {output} ({os.path.getsize(output):,} bytes)")


@main.command(epilog=EXAMPLE + "fxgrow info torchvision:resnet18")
@click.argument("model")
@model_options
@json_option
def info(model: str, as_json: bool, **options) -> None:
    """Show the size, inputs, growth and layers of MODEL."""
    module, inputs = _load(model, need_inputs=False, **options)
    report = {"model": model, **describe_model(module, inputs)}
    if as_json:
        print_json(report)
        return
    click.echo(f"{model}: {report['class']}")
    click.echo(f"parameters  {report['parameters']:,} and {report['buffers']:,} numbers in buffers")
    click.echo(f"size        {report['bytes']:,} bytes of {', '.join(report['dtypes'])}")
    click.echo(f"inputs      {'; '.join(report['inputs']) or 'not known'}")
    for i, step in enumerate(report["lineage"], 1):
        click.echo(f"growth {i:<4} {describe_step(step)}")
    print_table("Layers", ("layer", "kind", "weights", "parameters"),
           [(r["name"], r["kind"], r["weights"], f"{r['parameters']:,}") for r in report["layers"]])


@main.command(epilog=EXAMPLE + "fxgrow flops torchvision:resnet18 --input 8,3,224,224 --depth 2 --sort total")
@click.argument("model")
@click.option("--ops", type=click.Choice(["matmul", "all"]), default="matmul", show_default=True, help="Count matrix "
              "products, convolutions and attention, or also norms, activations, pooling, softmax and arithmetic.")
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Modules down to this level (0: the whole alone).")
@click.option("--sort", type=click.Choice(["forward", "total", "params", "memory"]), help="The costliest of each level "
              "first; without it in the model's own order.")
@click.option("--train", is_flag=True, help="Count MODEL in train mode: with dropout masks and auxiliary heads.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the rows, in plain numbers, to FILE (-: to stdout).")
@model_options
@json_option
def flops(model: str, ops: str, depth: int | None, sort: str | None, train: bool, csv_file: str | None, as_json: bool,
          **options) -> None:
    """Count what a forward and a backward pass of MODEL cost.

    Each row is a module with all below it: FLOPs (a multiply-add is two) forward and backward, its share of them, its
    parameters, the memory that it keeps for the backward pass, and FLOPs for each byte that its forward pass moves.
    --input sets the batch and the size.
    """
    import fxgrow
    from fxgrow._flops_report import csv_text, lines

    if csv_file is not None and as_json:
        raise click.UsageError("--csv and --json: choose one of them")
    if csv_file not in (None, "-"):
        check_writable(csv_file)
    module, inputs = _load(model, **options)
    with status(f"Counting {model}"):
        count = fxgrow.count_flops(module.train(train), inputs, ops)
    if as_json:
        print_json({"model": model, **count.to_json()})
    elif csv_file == "-":
        click.echo(csv_text(count, depth, sort), nl=False)
    elif csv_file is not None:
        from fxgrow._atomic import atomic_write
        with atomic_write(csv_file) as file:
            file.write(csv_text(count, depth, sort).encode())
        click.echo(f"written     {csv_file} ({os.path.getsize(csv_file):,} bytes)")
    else:
        console().print(count.table(depth, sort))
        for line in lines(count):
            click.echo(line)


@main.command(epilog=EXAMPLE + "fxgrow passes")
@json_option
def passes(as_json: bool) -> None:
    """List the passes and their options."""
    described = [_pass_options.describe(name) for name in _pass_options.found()]
    if as_json:
        print_json({"passes": described})
        return
    for d in described:
        print_table(f"{d['name']}: {d['does']}", ("option", "what it says"),
               [(o["option"] + (" (repeatable)" if o["repeatable"] else ""), o["help"]) for o in d["options"]])
