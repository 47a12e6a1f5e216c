"""What is done with one network in one round: a function of its arguments alone, so that it can run anywhere."""
from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.experiments.data import Data, load_data, loader
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.evolve.mutation import grow
from fxgrow.experiments.evolve.store import from_bytes, to_bytes
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import Interrupted, Trainer


@dataclass(frozen=True)
class Task:
    """A network (`network`, as `to_bytes` gives it, or, with a `step`, its parent), to be trained for `steps`."""
    number: int
    round: int
    network: Any
    step: Mapping[str, Any] | None
    steps: int
    seed: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The trained network, and how well it does on the validation part."""
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


def run(task: Task) -> Outcome:
    """Mutates if there is a step, trains, and evaluates. The same task gives the same outcome, its seconds aside."""
    began = time.monotonic()
    config = SearchConfig.of(task.config)
    data = data_of(config.data, config.root, config.limit, config.seed)
    model = from_bytes(task.network)
    if task.step is not None:
        inputs = torch.stack([data.train[i][0] for i in range(min(2, len(data.train)))])
        model = grow(model, inputs, task.step).model  # type: ignore[assignment]
    trainer = Trainer(model, data, config.trainer(task.steps, task.seed))
    try:
        trainer.fit()
    except Interrupted:  # nothing is wrong with the network: it is to be trained another time
        raise KeyboardInterrupt from None
    except TrainError as error:  # a loss that is not finite, say: the search goes on without this network
        return Outcome(task.number, task.round, b"", 0.0, math.inf, "", trainer.flops, trainer.step,
                       time.monotonic() - began, str(error))
    trained = trainer.model.cpu()
    return Outcome(task.number, task.round, to_bytes(trained), *evaluate(trained, data.validation), trainer.flops,
                   task.steps, time.monotonic() - began)


@functools.lru_cache(maxsize=2)
def data_of(name: str, root: str | None, limit: int | None, seed: int) -> Data:
    """The data of a search, read once a process."""
    return load_data(name, root=root, limit=limit, seed=seed)


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Any) -> tuple[float, float, str]:
    """Share of right answers, mean cross-entropy, and a 1 for each sample that is labelled right, else a 0."""
    model.eval()
    loss, right = 0.0, ""
    for x, y in loader(dataset, 512):
        logits = model(x)
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        right += "".join("1" if bit else "0" for bit in (logits.argmax(1) == y).tolist())
    return right.count("1") / max(len(right), 1), loss / max(len(right), 1), right
