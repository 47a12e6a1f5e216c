"""Options and checks that several commands share."""
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from fxgrow.cli.output import status
from fxgrow.errors import FxgrowError, ModelError

EXAMPLE = "\b\nExample:\n  "


def _inputs_option(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a malformed --input as wrong usage."""
    if value:
        from fxgrow.models import parse_inputs
        try:
            parse_inputs(value)
        except ModelError as error:
            raise click.BadParameter(str(error).removeprefix("--input").lstrip(": ")) from None
    return value


def _together(*options: Callable) -> Callable:
    """Return a decorator that adds several options."""
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


source_options = _together(  # what a MODEL is made of
    click.option("--weights", metavar="FILE", help="A state_dict for MODEL, or DEFAULT for torchvision's and timm's own. "
                 "Without it such a model gets random weights, the same each time."),
    click.option("--input", "input_shape", metavar="[NAME=]SHAPE", multiple=True, callback=_inputs_option,
                 help="Shape of an input where MODEL does not say it: 1,3,224,224, or with its type 1,16:int64; repeatable. "
                 "By the names that forward has: --input input_ids=1,16:int64 --input attention_mask=1,16:int64."),
    click.option("--trust-pickle", is_flag=True, help="Let a pickled MODEL file run its own code while it loads."))
model_options = _together(source_options, click.option(
    "--into", metavar="MODULE:FACTORY", help="For a MODEL file of a network with code of its own, which no file holds: "
    "package.module:factory makes a fresh instance of its class, which gets the file's sizes and numbers."))
picture_options = _together(  # how much of a model is drawn
    click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Modules so many levels deep are one box each; 0: "
                 "every level. Without it, as deep as 60 boxes allow."),
    click.option("--collapse", multiple=True, metavar="GLOB", help="Modules whose path matches are one box each; "
                 "repeatable."),
    click.option("--repeats/--no-repeats", default=None, help="Equal blocks that follow each other once, with their number; "
                 "without it, where a model has more than 60 boxes."),
    click.option("--columns", type=click.IntRange(min=1), metavar="N", help="Columns of a long picture; without it, as many "
                 "as make it about as wide as it is high."),
    click.option("--direction", type=click.Choice(["down", "right"]), default="down", show_default=True, help="Where values "
                 "go."),
    click.option("--font-size", type=click.FloatRange(1, 200), metavar="POINTS", help="Size of letters.  [10]"),
    click.option("--legend/--no-legend", default=True, help="Whether the meaning of the colours stands above."),
    click.option("--style", type=click.Choice(["screen", "paper"]), default="screen", show_default=True, help="paper: a "
                 "column of a printed page, in greys that can be told apart; with -o x.pdf, letters are embedded."))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


def load(model: str, **options):
    """Load MODEL; see `load_model` for what is returned and raised."""
    from fxgrow.models import load_model
    with status(f"Loading {model}"):
        return load_model(model, **options)


def check_writable(path: str, folder: bool = False) -> None:
    """Check before the long work that FILE can be written, or an empty folder filled; raise FxgrowError if not."""
    target = Path(path)
    if target.is_char_device():
        return
    if folder and target.is_dir() and not any(target.iterdir()):
        return
    if not path or (target.exists() and not target.is_file()):
        raise FxgrowError(f"{path!r} is a folder{' with something in it' if folder else ', not a file'}: name a "
                          f"{'new folder or file' if folder else 'file'} with -o")
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise FxgrowError(f"{path} cannot be written ({error.strerror}): choose another place with -o") from error
