"""Architectures of the papers that fxgrow follows: one family a file, each with its citation.

Files beside this one without an underscore register their models when a name is first used: help does not wait for torch.
"""
import importlib
import pkgutil
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from ._layers import init_convolutions
    from .registry import ZooError, create_model, list_models, model_options, options_for, parse_options, register

_load, __dir__, __all__ = lazy_exports(__name__, {
    "_layers": "init_convolutions",
    "registry": "ZooError create_model list_models model_options options_for parse_options register",
})


def __getattr__(name: str):
    found = _load(name)
    for file in pkgutil.iter_modules(__path__):
        if not file.name.startswith("_"):
            importlib.import_module(f"{__name__}.{file.name}")
    return found
