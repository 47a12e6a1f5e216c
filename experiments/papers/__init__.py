"""The papers' experiments: each is a small declaration of what is trained, when and how it grows, and at which scales.

`fxgrow experiment NAME` runs one. A file beside this one whose name has no underscore in front registers experiments.
"""
import importlib
import pkgutil

from fxgrow.experiments.papers.cost import Cost, costs
from fxgrow.experiments.papers.declaration import (
    Arm,
    Experiment,
    ExperimentError,
    Network,
    Scale,
    get_experiment,
    list_experiments,
    register,
)
from fxgrow.experiments.papers.results import COLUMNS, cells
from fxgrow.experiments.papers.running import Setup, file_name, finished, in_process, insist_writable

for _file in pkgutil.iter_modules(__path__):
    if not _file.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Arm", "COLUMNS", "Cost", "Experiment", "ExperimentError", "Network", "Scale", "Setup", "cells", "costs",
           "file_name", "finished", "get_experiment", "in_process", "insist_writable", "list_experiments", "register"]
