"""The work on one network in one round: a function of its task alone, so that it can run anywhere."""
import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.common import brief
from fxgrow.experiments.data import Data, load_data, loader
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.mutation import costs, grow
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import (
    Interrupted,
    TrainConfig,
    Trainer,
    TrainingState,
    Watcher,
    give_moments,
    make_optimizer,
    moments_of,
)
from fxgrow.graph import running_copy
from fxgrow.loops import measure_statistics
from fxgrow.record import record_in

Fitness = Callable[[nn.Module, Data], float]  # of a trained network in eval mode, the higher the better


@dataclass(frozen=True)
class Task:
    """A network to be trained for `steps`: `network` as `to_bytes` gives it or, with a `step`, its parent so.

    data, fitness: those of a search that was given objects. moments: of the optimizer that trained this network, as
    safetensors; empty: they begin anew. made: what the step makes of the network, where its numbers are given (`to_bytes`).
    """
    number: int
    round: int
    network: Any
    step: Mapping[str, Any] | None
    steps: int
    seed: int
    config: Mapping[str, Any]
    data: Data | None = None
    fitness: Fitness | None = None
    moments: bytes = b""
    made: bytes = b""


@dataclass(frozen=True)
class TaskResult:
    """The trained network and how well it does on the validation part, or why its training failed.

    moments: of its optimizer, if they are to be inherited.
    """
    number: int
    round: int
    network: bytes
    accuracy: float
    loss: float
    correct: str
    spent: int
    steps: int
    seconds: float
    error: str = ""
    fitness: float | None = None
    moments: bytes = b""

    @classmethod
    def failure(cls, task: Task, error: str, spent: int = 0, steps: int = 0, seconds: float = 0.0) -> "TaskResult":
        """Return the result of a training that failed."""
        return cls(task.number, task.round, b"", 0.0, math.inf, "", spent, steps, seconds, error)


def run(task: Task) -> TaskResult:
    """Mutate the network if there is a step, train and evaluate it; the same task gives the same result, seconds aside."""
    began = time.monotonic()
    config = SearchConfig.of(task.config)
    data = task.data or data_of(config.data, config.root, config.limit, config.seed)
    model = from_bytes(task.network)
    settings = config.trainer(task.steps, task.seed, task.round)
    moments = safetensors.torch.load(task.moments) if task.moments else {}
    if task.step is not None:
        child = from_bytes(task.made) if task.made else grow(model, data.first(2), task.step).model
        if moments:
            record = record_in(child)
            moments = moments_of(record.migrate_optimizer(_optimizer(settings, model, moments), child, model))  # type: ignore
        model = child  # type: ignore[assignment]
    mean = Mean(config.average if task.round != config.last_round else 0.0)
    trainer = Trainer(model, data, settings, watchers=[mean])
    give_moments(trainer.optimizer, moments)
    try:
        trainer.fit()
        mean.give(trainer.model)
        extra = reestimate(trainer.model, data, config, task.seed, trainer.device)
        trained = trainer.model.cpu()
        fitness = fitness_of(trained, data, task.fitness)
    except Interrupted:  # nothing is wrong with the network: it is to be trained another time
        raise KeyboardInterrupt from None
    except TrainError as error:  # a loss that is not finite, say: the search goes on without this network
        return TaskResult.failure(task, str(error), trainer.flops, trainer.step, time.monotonic() - began)
    inherited = moments_of(trainer.optimizer) if config.momentum == "inherit" else {}
    kept = safetensors.torch.save({name: t.cpu().contiguous() for name, t in inherited.items()}) if inherited else b""
    return TaskResult(task.number, task.round, to_bytes(trained), *evaluate(trained, data.validation), trainer.flops + extra,
                      task.steps, time.monotonic() - began, fitness=fitness, moments=kept)


class Mean(Watcher):
    """The mean of a network's numbers over the last share of its steps."""

    def __init__(self, share: float):
        self.share, self.count = share, 0
        self.mean: dict[str, Tensor] = {}

    def stepped(self, trainer: TrainingState, loss: float) -> None:
        """Take the numbers as they are after a step."""
        if trainer.step < (1 - self.share) * trainer.total:
            return
        self.count += 1
        for name, now in trainer.model.state_dict().items():
            if now.is_floating_point():
                self.mean.setdefault(name, now.clone()).lerp_(now, 1 / self.count)

    def give(self, model: nn.Module) -> None:
        """Give a network the mean, if there is one."""
        model.load_state_dict(self.mean, strict=False)


def _optimizer(settings: TrainConfig, model: nn.Module, moments: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    optimizer = make_optimizer(settings, model)
    give_moments(optimizer, moments)
    return optimizer


def reestimate(model: nn.Module, data: Data, config: SearchConfig, seed: int, device: torch.device | None = None) -> int:
    """Estimate the running statistics of batch norms anew on `config.statistics` batches, and return the FLOPs of that.

    They are those of the weights as they are now, not of all that the weights were meanwhile.
    """
    if not config.statistics:
        return 0
    batch = min(config.trainer(1, 0).batch_size, len(data.train))  # type: ignore[arg-type]
    epochs = itertools.repeat(loader(data.train, batch, shuffle=True, seed=seed, drop_last=True, device=device or "cpu"))
    batches = (x for x, _ in itertools.islice(itertools.chain.from_iterable(epochs), config.statistics))
    seen = measure_statistics(model, batches) * batch
    return seen * costs(running_copy(model).cpu(), data.first(1))[1] if seen else 0


def fitness_of(model: nn.Module, data: Data, fitness: Fitness | None) -> float | None:
    """Return what a search's own fitness gives for a trained network; raise TrainError where it is no number."""
    if fitness is None:
        return None
    with torch.no_grad():
        value = fitness(running_copy(model).eval(), data)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TrainError(f"fitness gave {brief(value)}; it must give a finite number, the higher the better")
    return number


@functools.lru_cache(maxsize=2)
def data_of(name: str, root: str | None, limit: int | None, seed: int) -> Data:
    """Return the data of a search, read once a process."""
    return load_data(name, root=root, limit=limit, seed=seed)


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Any) -> tuple[float, float, str]:
    """Return the share of right answers, the mean cross-entropy, and a 1 or 0 for each sample: right or wrong."""
    model.eval()
    loss, right = 0.0, ""
    for x, y in loader(dataset, 512):
        logits = model(x)
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        right += "".join("1" if bit else "0" for bit in (logits.argmax(1) == y).tolist())
    return right.count("1") / max(len(right), 1), loss / max(len(right), 1), right


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with this many threads, which decides how it sums up, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
