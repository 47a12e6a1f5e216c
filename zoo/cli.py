"""`fxgrow zoo`: the architectures, with their options."""
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path

import click

from fxgrow.cli import print_json, print_table
from fxgrow.common import Declarations, plugins


def describe(build: Callable, input_shape: tuple[int, ...], parameters: int) -> dict:
    """Return what a model is, its input without the batch, its number of parameters and its options."""
    what = inspect.cleandoc(build.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    options = {name: option.default for name, option in inspect.signature(build).parameters.items()}
    return {"name": build.__name__, "what": what, "input": list(input_shape), "parameters": parameters, "options": options}


def own_models() -> list[dict] | None:
    """Describe fxgrow's own models as their files declare them, without torch; None where one does not say what it takes."""
    files = [file.name for file in pkgutil.iter_modules([str(Path(__file__).parent)]) if not file.name.startswith("_")]
    builders = [build for file in files for build in Declarations(f"{__package__}.{file}").decorated("register").values()]
    facts = [build.made_by["register"] for build in builders]  # type: ignore[attr-defined]
    return [describe(build, **each) for build, each in zip(builders, facts)] if all(facts) else None


def built_models() -> list[dict]:
    """Build every model, those of other packages too, and describe it."""
    import torch

    from .registry import BUILDERS, list_models

    with torch.device("meta"):
        models = {name: BUILDERS[name]() for name in list_models()}
    return [describe(BUILDERS[name], model.input_shape, sum(p.numel() for p in model.parameters()))
            for name, model in models.items()]


@click.command(epilog="Example:\n\n  fxgrow info zoo:cifar_resnet18:r=2**-3,num_classes=100")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def zoo(as_json: bool) -> None:
    """List the architectures that zoo:NAME names, with their options.

    Options go behind a colon: zoo:NAME:key=value,key=value.
    """
    added = any(not entry.attr for entry in plugins("fxgrow.models").values())  # by packages whose code is not read
    models = sorted((None if added else own_models()) or built_models(), key=lambda m: m["name"])
    if as_json:
        print_json(models)
        return
    rows = [(f"zoo:{m['name']}", ",".join(map(str, m["input"])), f"{m['parameters']:,}",
             " ".join(f"{k}={v}".replace(", ", ",") for k, v in m["options"].items()), m["what"]) for m in models]
    print_table("Architectures", ("model", "input", "parameters", "options", "what it is"), rows)
