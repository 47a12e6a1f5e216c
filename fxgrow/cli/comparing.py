"""Commands that compare two networks: `verify` and `diff`."""
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

import fxgrow
from fxgrow.cli.options import EXAMPLE, check_writable, json_option, load, model_options, picture_options
from fxgrow.cli.output import echo_written, notes, print_json, print_table, show, status
from fxgrow.errors import FxgrowError


@click.command(epilog=EXAMPLE + "fxgrow verify torchvision:resnet18 big.pt")
@click.argument("before")
@click.argument("after")
@click.option("--after-weights", metavar="FILE", help="A state_dict for AFTER (--weights is that of BEFORE).")
@model_options
@json_option
def verify(before: str, after: str, after_weights: str | None, weights: str | None, as_json: bool, **options) -> None:
    """Compare what two models compute.

    Both get the same inputs twice in a row, in eval and in train mode, and in eval mode inputs of other sizes that BEFORE
    takes. They are equal when each output differs in eval mode by at most 1e-4 of its largest number (1e-9 in float64), and
    the gradients of the inputs agree; otherwise the exit code is 1. The input is drawn by a fixed seed in the shape that
    BEFORE, or else AFTER, was made for. Models of two types are compared in the less exact one.
    """
    from fxgrow.models import fault_of, try_out

    first, inputs = load(before, weights=weights, need_inputs=False, **options)
    second, others = load(after, weights=after_weights, need_inputs=not inputs, **options)
    with status("Comparing both on the same input"):
        models = (before, first), (after, second)
        shared, told = in_one_type(models, inputs or others)
        for name, module in models:
            try_out(name, module, shared)
        checked = fxgrow.verify(first, second, shared)
    checked = replace(checked, notes=(*checked.notes, *told))
    if as_json:
        print_json({"before": before, "after": after, **checked.to_json()})
    else:
        rows = [(mode, f"{error:.2e}", "yes" if mode in checked.exact_in else "no")
                for mode, error in checked.errors.items()]
        print_table(f"{before} and {after}", ("mode", "max error, relative", "equal"), rows)
        click.echo(f"{checked}{notes(checked)}")
    if not checked.ok:
        ill = next((f"{name} itself {fault}, and nothing is equal to that" for name, module in models
                    if (fault := fault_of(module, shared))), "if one is a stock model, did both have the same --weights?")
        raise FxgrowError(f"{before} and {after} do not compute the same{notes(checked)}: {ill}")


def in_one_type(models: Sequence[tuple[str, Any]], inputs: Any) -> tuple[Any, list[str]]:
    """Cast models of different floating types, and their inputs, to the least exact of these, and say so."""
    import torch

    from fxgrow.aten import cast
    from fxgrow.models import dtype_of

    kinds = [dtype_of(model) for _, model in models]
    coarse = max(kinds, key=lambda kind: torch.finfo(kind).eps)
    if set(kinds) == {coarse}:
        return inputs, []
    for _, model in models:
        model.to(coarse)
    words = " and ".join(f"{name} computes in {kind}" for (name, _), kind in zip(models, kinds))
    return cast(inputs, coarse), [f"{words}: both were compared in {coarse}".replace("torch.", "")]


@click.command(epilog=EXAMPLE + "fxgrow transform torchvision:resnet18 --pass widen --where 'layer1.*' --factor 2 "
               "-o big.pt\n  fxgrow diff big.pt -o diff.svg")
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
         repeats: bool | None, columns: int | None, direction: str, font_size: float | None, legend: bool, style: str,
         after_weights: str | None, weights: str | None, as_json: bool, **options) -> None:
    """Show what stands where in two models, and what a growth did.

    BEFORE alone is a grown model: it is compared with the one that it grew from. The table says for each layer that changed
    its sizes, parameters and FLOPs before and after; in the picture untouched layers are grey, new numbers hatched, and
    inserted layers framed.
    """
    if output is not None:
        check_writable(output)
    first, inputs = load(before, weights=weights, need_inputs=after is None, **options)
    second, others = (None, ()) if after is None else load(after, weights=after_weights, need_inputs=not inputs, **options)
    with status("Comparing"):
        difference = fxgrow.diff(first, second, inputs or others)
    if output is not None:
        with status(f"Drawing {output}"):
            difference.draw(output, depth=depth, collapse=collapse, repeats=repeats, columns=columns, direction=direction,
                            font_size=font_size or 10, legend=legend, style=style)
    if as_json:
        print_json({"before": before, "after": after, "file": output, **difference.to_json()})
        return
    show(difference.table(every))
    if output is not None:
        echo_written(output)
