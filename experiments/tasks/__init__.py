"""Tasks: what a network is trained for, its loss and its metrics, one file each, found by its name.

What lives here: what is made of outputs and targets. What does not: data (data), the loop (train).
"""
import importlib
import pkgutil

from fxgrow.experiments.tasks.registry import (
    Metric,
    Task,
    get_task,
    list_tasks,
    metric_of,
    prediction,
    register,
    task_of,
)

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Metric", "Task", "get_task", "list_tasks", "metric_of", "prediction", "register", "task_of"]
