"""The zoo as a source of models: `zoo:NAME`, by the entry point `zoo` of the group `fxgrow.models`."""
from torch import nn

from fxgrow.models import Input, split_options
from fxgrow.zoo import ZooError, create_model


def load(text: str, pretrained: bool) -> tuple[nn.Module, list[Input]]:
    """Build `NAME`, `NAME:key=value,key=value` or `NAME?key=value&key=value`, and say what it takes."""
    if pretrained:
        raise ZooError(f"zoo:{text} has no DEFAULT weights; pass --weights FILE")
    name, options = split_options(text)
    module = create_model(name, **options)
    return module, [Input((1, *module.input_shape), getattr(module, "input_dtype", None))]
