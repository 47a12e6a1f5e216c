"""Commands that show a network: `axes`, `draw`, `report`, `info`, `flops`; and `passes`."""
import click

import fxgrow
from fxgrow.cli import pass_options
from fxgrow.cli.options import EXAMPLE, check_writable, json_option, load, model_options, picture_options
from fxgrow.cli.output import echo_written, print_json, print_table, show, size, status
from fxgrow.common import atomic_write, times


@click.command(epilog=EXAMPLE + "fxgrow axes torchvision:resnet18")
@click.argument("model")
@model_options
@json_option
def axes(model: str, as_json: bool, **options) -> None:
    """Show which axes of MODEL must grow together.

    Each row is one class of axes: its size, the layers that produce and consume it, the methods that are exact for it, and
    why others are not. The names in it are what --where takes.
    """
    module, inputs = load(model, **options)
    with status(f"Analysing {model}"):
        report = fxgrow.axes(module, inputs)
    if as_json:
        print_json({"model": model, "classes": report.to_json()})
    else:
        show(report.table())


@click.command(epilog=EXAMPLE + "fxgrow draw torchvision:resnet18 -o arch.svg")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the picture goes: .svg, .png, .pdf, .dot or "
              ".html.")
@picture_options
@click.option("--heat", type=click.Choice(["flops", "params", "memory"]), help="Colour by share of the cost instead of by "
              "kind of operation.")
@click.option("--logdir", metavar="DIR", help="Write the picture and a table of its boxes to TensorBoard as well.")
@model_options
@json_option
def draw(model: str, output: str, depth: int | None, collapse: tuple[str, ...], repeats: bool | None, heat: str | None,
         columns: int | None, logdir: str | None, direction: str, font_size: float | None, legend: bool, style: str,
         as_json: bool, **options) -> None:
    """Draw MODEL as a diagram.

    Modules are frames, layers are boxes with their settings and the shape of what they give, coloured by kind; the legend
    says which. In an .html page modules open and close; svg, png and pdf need Graphviz's program `dot`.
    """
    from fxgrow.diagram import Look, boxes_of, write

    check_writable(output)
    module, inputs = load(model, **options)
    with status(f"Drawing {model}"):
        drawn = write(module, inputs, output, depth=depth, collapse=collapse, repeats=repeats, heat=heat, columns=columns,
                      logdir=logdir, look=Look(direction, font_size or 10, legend, style))
    if as_json:
        print_json({"model": model, "file": output, "note": drawn.note, "boxes": boxes_of(drawn)})
        return
    if drawn.note:
        click.echo(drawn.note)
    echo_written(output)


@click.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --where 'layer1.*' --factor 2 "
               "-o big.pt\n  fxgrow report big.pt -o report.html")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the page goes: an .html file.")
@click.option("--before", metavar="MODEL", help="The model to compare with; without it, of a grown MODEL the small network "
              "that is in it.")
@click.option("--before-weights", metavar="FILE", help="A state_dict for the model of --before.")
@model_options
@json_option
def report(model: str, output: str, before: str | None, before_weights: str | None, as_json: bool, **options) -> None:
    """Write one page about MODEL that opens in any browser, without a network.

    It holds the diagram (drag and zoom, open and close modules, search by name), and what each module costs, as a tree and
    as an icicle. Of a grown MODEL also what grew, why that is exact, how far it is from the network that it grew from, the
    growth record, and the filters of the first convolution before and after.
    """
    from fxgrow.visual import write_report

    if before_weights and not before:
        raise click.UsageError("--before-weights is for the model of --before: name it")
    check_writable(output)
    module, inputs = load(model, **options)
    small = None if before is None else load(before, **{**options, "weights": before_weights}, need_inputs=False)[0]
    with status(f"Reporting on {model}"):
        told = write_report(module, inputs, output, before=small, title=model)
    if as_json:
        print_json({**told, "model": model, "file": output, "facts": told["model"]})
    else:
        echo_written(output)


@click.command(epilog=EXAMPLE + "fxgrow info torchvision:resnet18")
@click.argument("model")
@model_options
@json_option
def info(model: str, as_json: bool, **options) -> None:
    """Show the size, inputs, growth and layers of MODEL."""
    from fxgrow.record import describe_step

    module, inputs = load(model, need_inputs=False, **options)
    report = {"model": model, **_describe_model(module, inputs)}
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


@click.command(epilog=EXAMPLE + "fxgrow flops torchvision:resnet18 --input 8,3,224,224 --depth 2 --sort total")
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
    from fxgrow.cost import gaps, lines, to_csv

    if csv_file is not None and as_json:
        raise click.UsageError("--csv and --json: choose one of them")
    if csv_file not in (None, "-"):
        check_writable(csv_file)
    module, inputs = load(model, **options)
    with status(f"Counting {model}"):
        count = fxgrow.count_flops(module.train(train), inputs, ops)
    if as_json:
        print_json({"model": model, **count.to_json()})
    elif csv_file == "-":
        click.echo(to_csv(count, depth, sort), nl=False)
    elif csv_file is not None:
        with atomic_write(csv_file) as file:
            file.write(to_csv(count, depth, sort).encode())
        echo_written(csv_file)
    else:
        for line in gaps(count):
            click.echo(line)
        show(count.table(depth, sort))
        for line in lines(count):
            click.echo(line)


@click.command(epilog=EXAMPLE + "fxgrow passes")
@json_option
def passes(as_json: bool) -> None:
    """List the passes and their options."""
    classes = pass_options.loaded_passes(load=pass_options.declared_pass)
    described = [pass_options.describe(name, cls) for name, cls in classes.items()]
    if as_json:
        print_json({"passes": described})
        return
    for d in described:
        print_table(f"{d['name']}: {d['does']}", ("option", "what it says"),
                    [(o["option"] + (" (repeatable)" if o["repeatable"] else ""), o["help"]) for o in d["options"]])


def _describe_model(module, inputs) -> dict:
    """Return what `info` reports, as data."""
    from fxgrow.models import describe
    from fxgrow.record import record_in

    tensors = [*module.parameters(), *module.buffers()]
    record = record_in(module)
    layers = []
    for name, m in module.named_modules():
        own = dict(m.named_parameters(recurse=False))
        if own:
            shapes = ", ".join(f"{k} {times(p.shape)}" for k, p in own.items())
            layers.append({"name": name, "kind": type(m).__name__, "weights": shapes,
                           "parameters": sum(p.numel() for p in own.values())})
    return {"class": type(module).__name__, "parameters": size(module), "buffers": sum(b.numel() for b in module.buffers()),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
            "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in tensors}),
            "inputs": [text for text in describe(inputs).split(";") if text],
            "lineage": record.lineage if record else [], "layers": layers}
