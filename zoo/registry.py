"""The names of the zoo: models are registered, listed and built here, and their options read from text."""
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxgrow.common import load_installed, nearest
from fxgrow.errors import ModelError
from fxgrow.models import options_in

BUILDERS: dict[str, Callable[..., nn.Module]] = {}
LARGEST = 2 ** 31  # no size in a network comes near it


class ZooError(ModelError):
    """The zoo has no such model, or the model no such option or value."""


def register(build: Callable[..., nn.Module] | None = None, *, input_shape: tuple[int, ...] = (),
             parameters: int = 0) -> Callable[..., Any]:
    """Register a function, as a decorator: its name becomes a model's name, its keyword arguments the model's options.

    Args:
        build: the function.
        input_shape, parameters: what the model takes and has with the defaults of its options. `fxgrow zoo` reads them off
            the source; without them, and for other packages, it builds the models.

    Every argument needs a default; a value that a user passes must be of the default's kind: a whole number of at least
    one, a positive number where the default is a float, a bool, or a tuple of whole numbers. The module that the function
    returns says in `input_shape` what it takes, without the batch: `(3, 32, 32)`; in `input_dtype`, if it is no fractions.
    """
    if build is None:
        return register
    name = build.__name__
    if name in BUILDERS:
        raise ZooError(f"the zoo has a model {name!r} already: give the new one another name")
    for option, parameter in inspect.signature(build).parameters.items():
        if type(parameter.default) not in (int, float, bool, tuple):
            raise ZooError(f"model {name!r}: option {option!r} needs a default that is a number, a bool or a tuple")
    BUILDERS[name] = build
    return build


def list_models() -> list[str]:
    """Return the names of all models, in alphabetical order.

    Those of the modules that installed packages name in the group `fxgrow.models` are among them (a function there is a
    source with a prefix).
    """
    load_installed("fxgrow.models", modules=True)
    return sorted(BUILDERS)


def model_options(name: str) -> dict[str, Any]:
    """Return the options of a model and their defaults; raise ZooError where there is no such model."""
    if name not in list_models():
        raise ZooError(f"the zoo has no model {name!r}{nearest(name, list_models())}; it has {', '.join(list_models())}")
    return {option: p.default for option, p in inspect.signature(BUILDERS[name]).parameters.items()}


def create_model(name: str, **options) -> nn.Module:
    """Build a model of `list_models()` with `model_options`; torch's global generator draws its weights.

    Raises:
        ZooError: there is no such model, no such option, or a value makes no sense.
    """
    defaults = model_options(name)
    for option, value in options.items():
        if option not in defaults:
            raise ZooError(f"model {name!r} has no option {option!r}{nearest(option, list(defaults))}; "
                           f"it has {', '.join(defaults)}")
        options[option] = _checked(f"{name}: {option}", value, defaults[option])
    return BUILDERS[name](**options)


def options_for(name: str, input_shape: tuple[int, ...], num_classes: int) -> dict[str, Any]:
    """Return the options that make a model take inputs of this shape (without the batch) and tell so many classes apart.

    >>> options_for("cifar_resnet18", (1, 8, 8), 10)
    {'num_classes': 10, 'in_channels': 1, 'size': 8}
    """
    options = model_options(name)
    offered = {"input_shape": tuple(input_shape), "in_channels": input_shape[0], "size": max(input_shape[1:], default=1),
               "num_classes": num_classes, "vocabulary": num_classes, "length": input_shape[-1]}
    if "input_shape" not in options:
        with torch.device("meta"):
            takes = BUILDERS[name]().input_shape
        if len(takes) != len(input_shape):
            raise ZooError(f"model {name!r} takes inputs such as {takes}; the data are of shape {tuple(input_shape)}")
        if len(set(input_shape[1:])) > 1:
            raise ZooError(f"model {name!r} takes square images; the data are of shape {tuple(input_shape)}: pad them")
    return {option: offered[option] for option in options if option in offered}


def parse_options(text: str) -> dict[str, Any]:
    """Read `r=2**-3,num_classes=10,hidden=(64,64)`; what is no option is a ZooError, and nothing in the text is ever run."""
    try:
        return options_in(text)
    except ModelError as error:
        raise ZooError(str(error)) from None


def _checked(where: str, value: Any, default: Any) -> Any:
    """Return `value` if it is of the kind that `default` is of."""
    kind = next(kind for kind in _KINDS if isinstance(default, kind))
    fits, takes = _KINDS[kind]
    if not fits(value):
        raise ZooError(f"{where} is {value!r}; it takes {takes.format(default)}")
    return kind(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < LARGEST


_KINDS: dict[type, tuple[Callable[[Any], bool], str]] = {  # the first that the default is of
    bool: (lambda value: isinstance(value, bool), "True or False"),
    tuple: (lambda value: isinstance(value, (tuple, list)) and all(map(_is_size, value)), "several whole numbers, as {}"),
    float: (lambda value: type(value) in (int, float) and 0 < value < LARGEST, "a positive number, as {}"),  # no infinity
    int: (_is_size, "a whole number of at least one, as {}"),
}
