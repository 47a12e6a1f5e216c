"""The state of a training run between two steps, as a checkpoint holds it: gathered as tensors and JSON, and restored."""
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.experiments.data import Data
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import Task
from fxgrow.experiments.train import checkpoint
from fxgrow.experiments.train.config import TrainConfig
from fxgrow.experiments.train.history import History
from fxgrow.experiments.train.processes import Group
from fxgrow.loops import Grower, LastGrowth, Rates, insist_groups
from fxgrow.record import GrowthRecord

PLAIN = ("step", "flops", "eval_flops", "seconds", "stopped", "loss_sum", "loss_count")
GROWN = ("fired", "since")  # of the grower


class TrainingState:
    """A run between two steps: checkpoints hold it, watchers read it, and the trainer advances it."""
    config: TrainConfig
    data: Data
    task: Task
    out: Path | None
    model: GraphModule
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    group: Group
    grower: Grower
    history: History
    step = 0
    total: int      # steps in all
    batch: int      # examples of a step
    per_epoch: int  # steps of an epoch
    flops = 0       # FLOPs spent in training
    eval_flops = 0  # and in evaluations
    seconds = 0.0
    stopped = ""    # why training stopped early
    loss_sum, loss_count = 0.0, 0  # of training, since the last row
    random_states: tuple[dict[str, Tensor], dict[str, Any]] | None = None  # of generators, to start from
    checkpoint_step: int | None = None  # the step of the last checkpoint

    @property
    def fired(self) -> list[int]:
        """Return the entries of the schedule that have been, in the order in which they fired."""
        return self.grower.fired

    def evaluate(self, dataset: Any) -> tuple[float, ...]:
        """Return the mean loss and the task's metrics in their order, in eval mode."""
        raise NotImplementedError


def gather(trainer: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all that it takes to go on from here."""
    (tensors, random), *others = trainer.group.gathered(checkpoint.random_states())
    tensors |= {f"{rank}/{name}": t for rank, (states, _) in enumerate(others, 1) for name, t in states.items()}
    moments, optimizer = _optimizer_state(trainer.optimizer)
    grower, last = trainer.grower, None
    if grower.last is not None:
        tensors |= {f"growth/{name}": t for name, t in grower.last.record.to_tensors().items()}
        last = {"record": grower.last.record.to_json(), "options": grower.last.options, "step": grower.last.step}
    state = {"config": trainer.config.to_json(), "data": fingerprint(trainer.data), "rates": asdict(grower.rates),
             "last": last, "history": asdict(trainer.history), "scaler": trainer.scaler.state_dict(), "random": random,
             "others": [other for _, other in others],
             "optimizer": optimizer, **{name: getattr(trainer, name) for name in PLAIN},
             "auto": grower.auto and grower.auto.state(), **{name: getattr(grower, name) for name in GROWN}}
    return tensors | moments, state


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer with one group by the names of parameters, whose order is kept."""
    plain: dict[str, dict[str, Any]] = {}
    group, = optimizer.param_groups
    for name, parameter in zip(group["param_names"], group["params"]):
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                plain.setdefault(name, {})[key] = value
    tensors = {f"optimizer/{path}": tensor for path, tensor in moments_of(optimizer).items()}
    return tensors, {"names": group["param_names"], "state": plain, "group": {k: group[k] for k in ("lr", "weight_decay")}}


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors that an optimizer with one group keeps, by kind and parameter: `kind/name`."""
    group, = optimizer.param_groups
    return {f"{key}/{name}": value for name, parameter in zip(group["param_names"], group["params"])
            for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)}


def give_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Bring a new optimizer over the same network to what `moments_of` returned."""
    group, = optimizer.param_groups
    parameters = dict(zip(group["param_names"], group["params"]))
    for path, tensor in moments.items():
        key, name = path.split("/", 1)
        # torch's optimizers keep their count of steps on the CPU, fused ones with the parameters
        stays = key == "step" and not group.get("fused")
        optimizer.state[parameters[name]][key] = tensor if stays else tensor.to(parameters[name].device)


def restore(trainer: TrainingState, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Bring a new trainer over the checkpoint's network into the gathered state; TrainError if its data are others."""
    if state["data"] != fingerprint(trainer.data):
        raise TrainError(f"the run in {trainer.out} was made with other data: {state['data']}, and not "
                         f"{fingerprint(trainer.data)} (samples to train on, to validate, classes, shape); give the same")
    for name in PLAIN:
        setattr(trainer, name, state[name])
    trainer.history, grower = History(**state["history"]), trainer.grower
    for name in GROWN:
        setattr(grower, name, state[name])
    grower.done, grower.rows, grower.rates = trainer.step, trainer.history.rows, Rates(**state["rates"])
    grower.restore_auto(state)
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.checkpoint_step, rank = trainer.step, trainer.group.rank
    trainer.random_states = (tensors, state["random"])
    if 0 < rank <= len(others := state.get("others", [])):
        own = {path.removeprefix(f"{rank}/"): t for path, t in tensors.items() if path.startswith(f"{rank}/")}
        trainer.random_states = (own, others[rank - 1])
    insist_groups(trainer.optimizer, trainer.model, [state["optimizer"]["names"]])
    trainer.optimizer.param_groups[0].update(state["optimizer"]["group"])
    parameters = dict(trainer.model.named_parameters(remove_duplicate=False))
    for name, entries in state["optimizer"]["state"].items():
        trainer.optimizer.state[parameters[name]].update(entries)
    give_moments(trainer.optimizer, {path.removeprefix("optimizer/"): tensor for path, tensor in tensors.items()
                                     if path.startswith("optimizer/")})
    last = state["last"]
    if last is not None:
        record = {path.removeprefix("growth/"): t for path, t in tensors.items() if path.startswith("growth/")}
        grower.last = LastGrowth(GrowthRecord.rebuild(last["record"], record), last["options"], last["step"])


def fingerprint(data: Data) -> list[Any]:
    """Return what tells other data from these."""
    return [len(data.train), len(data.validation), data.classes, list(data.input_shape)]
