"""Grown graphs put back into the class of transformers that they came from, where their shapes are a configuration's."""
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

from fxgrow.compare import copy_of
from fxgrow.errors import CaptureError, GrowthError
from fxgrow.graph import as_call, uncached
from fxgrow.models import configurations_for, fresh, results_alone, shapes_of, with_layers
from fxgrow.passes.into.growing import grow_into
from fxgrow.passes.into.mixtures import run_everywhere
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.sources import folder_of
from fxgrow.passes.into.stock_mixtures import is_mixture, put_into_mixture
from fxgrow.record import Grown
from fxgrow.tracing import compare_outputs

LOOKED_AT, TRIED = 48, 4  # configurations with the same shapes: heads and their width may change places
NEAR = 0.05


def put_back(grown: Grown, model: nn.Module, example_inputs: Any = None, *, kind: str | None = None) -> GrownInto:
    """Return a grown model as one of the class that it came from, which generates, has a loss and is saved as a folder.

    Of the class, the numbers in its configuration that lead to the grown shapes are looked for; what its constants (a norm's
    eps) make different, weights make up for. Both are compared. Where perceptrons became experts, it is one of a class of
    mixtures (Mixtral, Qwen-MoE) that computes the same.

    Args:
        grown: what `transform` returned.
        model: the model of transformers that was given to it.
        example_inputs: as for `transform`; None: those that the growth was made with.
        kind: of a mixture, the `model_type` of the class, as `mixtral`; None: the first that fits.

    Raises:
        GrowthError: no configuration has these shapes, or a model of it cannot compute the same; says why.
    """
    if not hasattr(model, "config") or not hasattr(model, "save_pretrained"):
        raise GrowthError(f"{type(model).__name__} is no class with a configuration")
    kept, inputs = _kept_layers(grown), grown.example_inputs if example_inputs is None else example_inputs
    if is_mixture(grown):
        return put_into_mixture(grown, model, inputs, kind)
    if kind is not None:
        raise GrowthError(f"no perceptron became experts, so the model is no {kind}")
    configurations = (other for config in configurations_for(model, shapes_of(grown.model))
                      for other in with_layers(config, model.config, kept))
    reasons: list[tuple[float, str]] = []  # with how far a model is apart
    for distance, config in _nearest(configurations, grown, model, inputs):
        try:
            found = grow_into(grown.model, fresh(type(model), config, model), inputs, seed=0)
        except (GrowthError, CaptureError) as why:
            reasons.append((distance, str(why)))
            continue
        found.record, found.source = grown.record.then(found.record), folder_of(model)
        return found
    raise GrowthError(min(reasons)[1] if reasons else f"no configuration of {type(model).__name__} has the grown shapes; "
                      "`fxgrow grow` makes the sizes that one has (--set NAME=VALUE)")


def _nearest(configurations: Iterator[Any], grown: Grown, model: Any, inputs: Any) -> Iterator[tuple[float, Any]]:
    """Yield configurations with the grown shapes: at once those that compute nearly the same, then some of the others.

    Each is told with how far a model of it that has the grown numbers is apart from the grown one: what is left where it is
    the right one is what constants (a norm's eps) make different.
    """
    left: list[tuple[float, int, Any]] = []
    args, kwargs = as_call(inputs)
    with torch.no_grad(), results_alone(model):
        wanted = copy_of(grown.model).eval()(*args, **kwargs)
    for at, config in enumerate(islice(configurations, LOOKED_AT)):
        other = run_everywhere(fresh(type(model), config, model).eval())
        other.load_state_dict(grown.model.state_dict(), strict=False)
        with torch.no_grad(), uncached(other), results_alone(other):
            distance = compare_outputs(wanted, other(*args, **kwargs), 0.0).relative
        if distance <= NEAR:
            yield distance, config
        else:
            left.append((distance, at, config))
    for distance, _, config in sorted(left, key=lambda entry: entry[:2])[:TRIED]:
        yield distance, config


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
