"""Architectures of the papers that fxgrow follows: one family a file, each with its citation.

A file beside this one whose name has no underscore in front is imported here, so that its models are registered.
"""
import importlib
import pkgutil

from fxgrow.zoo._registry import ZooError, create_model, list_models, model_options, options_for, parse_options, register

for _file in pkgutil.iter_modules(__path__):
    if not _file.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["ZooError", "create_model", "list_models", "model_options", "options_for", "parse_options", "register"]
