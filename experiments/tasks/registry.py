"""The names of tasks, and what a task says of outputs and targets."""
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxgrow.common import load_plugin, nearest, plugins
from fxgrow.errors import FxgrowError
from fxgrow.experiments.settings import TrainError

GROUP = "fxgrow.tasks"
ENTRIES = ("logits", "out")  # of outputs with several parts: transformers' and torchvision's words
Sums = Mapping[str, Tensor]


@dataclass(frozen=True)
class Metric:
    """A number beside the loss: the history's column `val_NAME`, and what an axis and a table say of it.

    kind: `percent` for shares, else empty. higher: whether more of it is better.
    """
    name: str
    label: str
    unit: str = ""
    kind: str = ""
    higher: bool = False


class Task:
    """A kind of problem. Outputs are what `prediction` finds in those of the network; targets come from the data.

    metrics: the first is the one that plots show. smooths: whether the loss knows label smoothing.
    """
    name: str
    metrics: tuple[Metric, ...] = ()
    smooths = False

    def check(self, out: Tensor, inputs: Tensor, data: Any) -> None:
        """Raise TrainError with a sentence unless the network's output for `inputs` fits these data."""
        raise NotImplementedError

    def loss(self, out: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of a batch, through which the network learns. Shape []."""
        raise NotImplementedError

    def sums(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return what `scores` needs of a batch, float32 outputs given, as tensors that are added up over batches."""
        raise NotImplementedError

    def scores(self, sums: Sums, part: Any) -> Sequence[float]:
        """Return the mean loss and each metric, of the sums over a part of the data."""
        raise NotImplementedError


TASKS: dict[str, Task] = {}


def register(cls: Callable[[], Task]) -> Callable[[], Task]:
    """Register a task, as a decorator of its class; a package of your own names it in the group `fxgrow.tasks`."""
    task = cls()
    TASKS[task.name] = task
    return cls


def list_tasks() -> list[str]:
    """Return the names that `get_task` takes, those of installed packages among them."""
    return sorted({*TASKS, *plugins(GROUP)})


def get_task(name: str) -> Task:
    """Return a task by its name; TrainError if there is none."""
    installed = plugins(GROUP)
    if name not in TASKS and name in installed:
        cls = load_plugin(installed[name], f"the task {name}")
        if name not in TASKS:
            register(cls)
    if name not in TASKS:
        raise TrainError(f"there is no task {name!r}{nearest(name, list_tasks())}; there are {', '.join(list_tasks())}")
    return TASKS[name]


def task_of(data: Any, name: str | None = None) -> Task:
    """Return the task by this name; without one, the task that the data are made for."""
    return get_task(str(name or getattr(data, "task", "classification")))


def metric_of(column: str) -> Metric | None:
    """Return what a column of the history holds, `val_bits_per_byte` say, if it is a metric of a task that can be had."""
    for name in [*TASKS, *(plugins(GROUP).keys() - TASKS.keys() if column.startswith("val_") else ())]:
        with contextlib.suppress(FxgrowError):  # an installed task that cannot be loaded
            found = next((m for m in get_task(name).metrics if f"val_{m.name}" == column), None)
            if found is not None:
                return found
    return None


def prediction(out: Any) -> Any:
    """Return what is compared with the targets: the output itself, or its entry `logits` or `out`."""
    if isinstance(out, Tensor):
        return out
    if isinstance(out, Mapping):
        return next((out[name] for name in ENTRIES if name in out), out)
    return getattr(out, "logits", out)
