"""Grown graphs put back into the class of transformers that they came from, where their shapes are a configuration's."""
import re
from itertools import islice
from typing import Any

from torch import nn

from fxgrow.errors import CaptureError, GrowthError
from fxgrow.models import configurations_for, fresh, shapes_of, with_layers
from fxgrow.passes.into.growing import grow_into
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.sources import folder_of
from fxgrow.record import Grown

TRIED = 8  # configurations with the same shapes: heads and their width may change places


def put_back(grown: Grown, model: nn.Module, example_inputs: Any = None) -> GrownInto:
    """Return a grown model as one of the class that it came from, which generates, has a loss and is saved as a folder.

    Of the class, the numbers in its configuration that lead to the grown shapes are looked for; what its constants (a norm's
    eps) make different, weights make up for. Both are compared.

    Args:
        grown: what `transform` returned.
        model: the model of transformers that was given to it.
        example_inputs: as for `transform`; None: those that the growth was made with.

    Raises:
        GrowthError: no configuration has these shapes, or a model of it cannot compute the same; says why.
    """
    if not hasattr(model, "config") or not hasattr(model, "save_pretrained"):
        raise GrowthError(f"{type(model).__name__} is no class with a configuration")
    reasons, kept = [], _kept_layers(grown)
    configurations = (other for config in configurations_for(model, shapes_of(grown.model))
                      for other in with_layers(config, model.config, kept))
    for config in islice(configurations, TRIED):
        try:
            found = grow_into(grown.model, fresh(type(model), config, model),
                              grown.example_inputs if example_inputs is None else example_inputs, seed=0)
        except (GrowthError, CaptureError) as why:
            reasons.append(str(why))
            continue
        found.record, found.source = grown.record.then(found.record), folder_of(model)
        return found
    raise GrowthError(reasons[0] if reasons else f"no configuration of {type(model).__name__} has the grown shapes")


def _kept_layers(grown: Grown) -> dict[int, int]:
    """Return, by the number of a layer that is not new, the number that it had."""
    found = {}
    for name in shapes_of(grown.model):
        entry = grown.record.parameters.get(name)
        source = name if entry is None else entry.source
        numbers = [re.search(r"\.(\d+)\.", text) for text in (name, source or "")]
        if all(numbers):
            new, old = (int(match[1]) for match in numbers)  # type: ignore[index]
            found[new] = old
    return found
