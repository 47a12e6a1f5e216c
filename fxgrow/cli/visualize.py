"""`fxgrow visualize`: filters, saliency, attention and activation maximisation, one model beside the other."""
from collections import Counter
from pathlib import Path
from typing import Any

import click

import fxgrow
from fxgrow.cli.options import EXAMPLE, check_writable, json_option, load, model_options
from fxgrow.cli.output import console, echo_written, print_json, print_table, status

WHAT = ("filters", "saliency", "class", "channel", "attention")
IMAGES = WHAT[1:4]
ONLY = {"layer": ("filters", "channel", "attention"), "target": ("saliency", "class"),  # what each option is for
        "image": ("saliency",), "attribution": ("saliency",), "channels": ("channel",), "steps": IMAGES,
        "seed": ("class", "channel", "attention"), "mean": IMAGES, "std": IMAGES, "size": IMAGES}


class Numbers(click.ParamType):
    """Numbers with commas between them."""
    name = "numbers"

    def __init__(self, kind: type, least: float = float("-inf")):
        self.kind, self.least = kind, least

    def convert(self, value, param, ctx):
        """Return the numbers as a tuple."""
        try:
            numbers = tuple(self.kind(word) for word in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(self.least <= n < float("inf") for n in numbers):
            self.fail(f"{value!r}: give numbers with commas between them")
        return numbers


@click.command(epilog=EXAMPLE + "fxgrow visualize torchvision:resnet18 -o filters.png\n  "
               "fxgrow visualize torchvision:resnet18 --what class --target 3 --steps 20 -o class.png")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="FILE", help="Where the picture goes: a .png file.")
@click.option("--what", type=click.Choice(WHAT), default="filters", show_default=True, help="Weights of convolutions; what "
              "of a photograph speaks for a class; an image that raises a class's logit; images that raise channels; "
              "what the heads of a transformer look at, in an input drawn by --seed.")
@click.option("--layer", metavar="NAME", help="filters: convolutions by name or glob; attention: layers by name or glob; "
              "channel: a layer, module or node.  [default: the first convolution; attention: all]")
@click.option("--channels", type=Numbers(int, 0), metavar="N,N", help="channel: which.  [default: some old and "
              "some new ones]")
@click.option("--target", type=click.IntRange(min=0), metavar="CLASS", help="The number of a class.  [saliency: "
              "the likeliest by the first MODEL; class: needed]")
@click.option("--image", type=click.Path(), metavar="FILE", help="saliency: the photograph.")
@click.option("--attribution", type=click.Choice(["saliency", "integrated-gradients", "input-x-gradient", "guided-backprop",
              "occlusion"]),
              default="saliency", show_default=True, help="saliency: by which method.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps of the ascent (128), or of integrated "
              "gradients (50).")
@click.option("--seed", type=click.IntRange(0, 2 ** 63 - 1), default=0, show_default=True, help="Of the ascent's "
              "start and shifts, or of the input of attention.")
@click.option("--mean", type=Numbers(float), metavar="R,G,B", help="Of the pixels that MODEL was trained on.  [ImageNet's]")
@click.option("--std", type=Numbers(float), metavar="R,G,B", help="Their standard deviation.  [ImageNet's]")
@click.option("--size", type=Numbers(int, 1), metavar="N or H,W", help="Size of the image.  [that of MODEL's input]")
@click.option("--logdir", metavar="DIR", help="Write the picture to TensorBoard as well.")
@model_options
@json_option
@click.pass_context
def visualize(ctx: click.Context, models: tuple[str, ...], output: str, what: str, logdir: str | None,
              weights: str | None, as_json: bool, **options: Any) -> None:
    """Show what MODELs have learned, side by side.

    Of a single grown MODEL, the small network that is in it stands beside it, and new filters are framed. --weights is for
    the first MODEL, --input for all.
    """
    from fxgrow.record import captured
    from fxgrow.visual import check_suffix

    _check_usage(ctx, what, options)
    check_suffix(output)
    check_writable(output)
    loading = {key: options.pop(key) for key in ("input_shape", "trust_pickle", "into")}
    shown = {}
    for i, (name, model) in enumerate(zip(_names(models), models)):
        module, inputs = load(model, weights=None if i else weights, **loading)
        with status(f"Capturing {model}"):
            shown[name] = captured(module, inputs)[1]
    arguments = {key: value for key, value in options.items() if what in ONLY[key] and value is not None}
    if "size" in arguments:
        arguments["size"] = (arguments["size"] * 2)[:2]
    if what == "filters":
        picture = fxgrow.plot_filters(shown, **arguments)
    elif what == "attention":
        with status("Running"):
            picture = fxgrow.plot_attention(shown, **arguments)
    elif what == "saliency":
        with status("Attributing"):
            picture = fxgrow.plot_saliency(shown, arguments.pop("image"), **arguments)
    else:
        picture = _features(shown, arguments)
    picture.save(output)
    if logdir is not None:
        picture.log(logdir, f"visualize/{what}")
    if as_json:
        print_json({"what": what, "file": output, "panels": picture.facts})
        return
    rows = [f for f in picture.facts if f["model"] is not None]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    print_table(picture.title, tuple(k.replace("_", " ") for k in keys),
                [tuple(_cell(r.get(k)) for k in keys) for r in rows])
    echo_written(output)


def _check_usage(ctx: click.Context, what: str, options: dict[str, Any]) -> None:
    """Refuse options that would have no effect, and ask for those that are needed."""
    for key, kinds in ONLY.items():
        asked = ctx.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
        if asked and what not in kinds:
            raise click.UsageError(f"--{key} is for --what {' or '.join(kinds)}, not for {what}")
    for kind, key in (("saliency", "image"), ("class", "target")):
        if what == kind and options[key] is None:
            raise click.UsageError(f"--what {kind} needs --{key}")
    if what == "saliency" and options["steps"] is not None and options["attribution"] != "integrated-gradients":
        raise click.UsageError("--steps is for --attribution integrated-gradients, or for --what class or channel")
    if options["size"] is not None and len(options["size"]) > 2:
        raise click.UsageError("--size is one number, or height and width")


def _names(models: tuple[str, ...]) -> list[str]:
    """Return what stands above each column: files by their last part, and what is named alike in full and numbered."""
    short = [Path(m).name if Path(m).exists() else m for m in models]
    seen: Counter[str] = Counter(short)
    full = [m if seen[s] > 1 else s for m, s in zip(models, short)]
    return [f"{n} ({full[:i].count(n) + 1})" if full.count(n) > 1 else n for i, n in enumerate(full)]


def _features(shown: dict[str, Any], arguments: dict[str, Any]):
    """Raise activations, with a bar of steps on terminals."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=screen,
                  transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("Raising activations: steps", total=None)
        return fxgrow.plot_features(shown, tick=lambda total: progress.update(task, advance=1, total=total), **arguments)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)}: {value[0]} to {value[-1]}"
    return "" if value is None else str(value)
