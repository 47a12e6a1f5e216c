"""The papers' experiments: each file declares what is trained, when and how it grows, and at which scales.

What lives here: declarations, and how they are run and summed up. What does not: one training (train), searches (evolve).
"""
import importlib
import pkgutil

from fxgrow.experiments.papers.cost import ArmCost, costs
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
from fxgrow.experiments.papers.reports import redrawn_report, report
from fxgrow.experiments.papers.results import COLUMNS, cells
from fxgrow.experiments.papers.running import Setup, file_name, finished, in_process, insist_writable, run

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["COLUMNS", "Arm", "ArmCost", "Experiment", "ExperimentError", "Network", "Scale", "Setup", "cells", "costs",
           "file_name", "finished", "get_experiment", "in_process", "insist_writable", "list_experiments", "redrawn_report",
           "register", "report", "run"]
