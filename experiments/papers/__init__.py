"""The papers' experiments: each is a small declaration of what is trained, when and how it grows, and at which scales.

`fxgrow experiment NAME` runs one. A file beside this one whose name has no underscore in front registers experiments.
"""
import importlib
import pkgutil

from fxgrow.experiments.papers._declare import (
    Arm,
    Experiment,
    ExperimentError,
    Network,
    Scale,
    get_experiment,
    list_experiments,
    register,
)

for _file in pkgutil.iter_modules(__path__):
    if not _file.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Arm", "Experiment", "ExperimentError", "Network", "Scale", "get_experiment", "list_experiments", "register"]
