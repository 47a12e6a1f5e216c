"""Data sets: `load_data(name)` gives train, validation and test parts, `loader` batches of one.

What lives here: one file a data set, found by its name. What does not: training on them (train).
"""
import importlib
import pkgutil

from fxgrow.experiments.data.arrays import Arrays, as_data
from fxgrow.experiments.data.batches import loader
from fxgrow.experiments.data.registry import (
    Data,
    DataError,
    Examples,
    Request,
    list_data,
    load_data,
    register,
    stratified_split,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Arrays", "Data", "DataError", "Examples", "Request", "as_data", "list_data", "load_data", "loader", "register",
           "stratified_split"]
