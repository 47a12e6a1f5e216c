"""`fxgrow zoo`: the architectures, with their options."""
import inspect

import click

from fxgrow.cli import print_json, print_table


def describe(name: str) -> dict:
    """Return what a model is, its input without the batch, its number of parameters and its options."""
    import torch

    from fxgrow.zoo import create_model, model_options

    from .registry import BUILDERS

    with torch.device("meta"):
        model = create_model(name)
    return {"name": name, "what": inspect.cleandoc(BUILDERS[name].__doc__ or "").partition("\n\n")[0].replace("\n", " "),
            "input": list(model.input_shape), "parameters": sum(p.numel() for p in model.parameters()),
            "options": model_options(name)}


@click.command(epilog="Example:\n\n  fxgrow info zoo:cifar_resnet18:r=2**-3,num_classes=100")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def zoo(as_json: bool) -> None:
    """List the architectures that zoo:NAME names, with their options.

    Options go behind a colon: zoo:NAME:key=value,key=value.
    """
    from fxgrow.zoo import list_models

    models = [describe(name) for name in list_models()]
    if as_json:
        print_json(models)
        return
    rows = [(f"zoo:{m['name']}", ",".join(map(str, m["input"])), f"{m['parameters']:,}",
             " ".join(f"{k}={v}".replace(", ", ",") for k, v in m["options"].items()), m["what"]) for m in models]
    print_table("Architectures", ("model", "input", "parameters", "options", "what it is"), rows)
