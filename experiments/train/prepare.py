"""The start of a run: the device, a captured copy of the model that fits the data, and an optimizer."""
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

import fxgrow
from fxgrow.common import did_you_mean, one_line
from fxgrow.experiments.data import Data, DataError
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import Task, get_task, prediction, task_of
from fxgrow.experiments.train.config import TrainConfig
from fxgrow.experiments.train.processes import cuda_of_process
from fxgrow.graph import clone_structure

GRAPHS = "reduce-overhead"  # torch's name for inductor with CUDA graphs, which save what a launch costs
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer over a model's parameters."""
    return optimizer_over(config, [(name, p) for name, p in model.named_parameters() if p.requires_grad])


def optimizer_over(config: TrainConfig, named: Sequence[tuple[str, Tensor]]) -> Optimizer:
    """Return the optimizer over tensors and their names."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(named, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov,
                               weight_decay=config.weight_decay, fused=config.fused or None)
    return torch.optim.AdamW(named, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay,
                             fused=config.fused or None)


def capture_for(task: Task, model: nn.Module, inputs: Tensor, data: Data, targets: Tensor | None = None) -> GraphModule:
    """Return a captured copy of the model on the CPU; TrainError unless what it gives fits the task and the data."""
    gm = cpu_copy(fxgrow.capture(model, inputs))
    with in_mode(gm, training=False), torch.no_grad():
        out = prediction(gm(inputs))
        task.check(out, inputs, data)
        if targets is not None:
            _try_out(task, out, targets)
    return gm


def _try_out(task: Task, out: Tensor, targets: Tensor) -> None:
    """Raise TrainError unless the task makes one loss, and sums, of these outputs and targets."""
    try:
        loss = task.loss(out, targets)
        task.sums(out.float(), targets)
    except (RuntimeError, ValueError, IndexError) as error:
        raise TrainError(f"there is no loss for {task.name} of outputs {tuple(out.shape)} and targets "
                         f"{tuple(targets.shape)} of {targets.dtype} ({one_line(error)}): choose the task that the "
                         "data are made for") from error
    if not isinstance(loss, Tensor) or loss.ndim:
        given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainError(f"the loss of the task {task.name} is {given}: it gives the mean over a batch, of shape []")


def capture_classifier(model: nn.Module, inputs: Tensor, data: Data) -> GraphModule:
    """Return a captured copy of the model on the CPU; TrainError unless it gives one logit for each class of the data."""
    insist_classes(data)
    return capture_for(get_task("classification"), model, inputs, data)


def insist_classes(data: Data) -> None:
    """Raise DataError unless the data are for classification."""
    task = task_of(data).name
    if task != "classification":
        targets = getattr(data.train[0][1], "dtype", "whole numbers")
        raise DataError(f"these data are for {task}, with targets of {targets}: searches compare classifiers, "
                        "fxgrow train takes any")


def autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context in which a forward runs in the precision of the settings."""
    dtype = PRECISIONS[config.precision]
    return torch.autocast(device.type, dtype) if dtype is not torch.float32 else contextlib.nullcontext()


def runnable(config: TrainConfig, model: nn.Module) -> Callable[..., Any]:
    """Return what runs a model: itself, or compiled as the settings say."""
    if config.compile == GRAPHS:
        return torch.compile(model, mode=GRAPHS)
    return torch.compile(model, backend=config.compile) if config.compile else model


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Keep a model in train or in eval mode for a while."""
    was = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was)


def cpu_copy(gm: GraphModule) -> GraphModule:
    """Return a copy of a captured module that shares nothing with it."""
    new: GraphModule = clone_structure(gm, lambda t: t.detach().cpu().clone())  # type: ignore[assignment]
    new.recompile()
    return new


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that `config.device` means; TrainError if it is not here, or does not do what else is asked for."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(d for d in there if there[d]) if config.device == "auto" else config.device
    if not there[name]:
        raise TrainError(f"there is no {name} device here: use device auto")
    if config.compile == GRAPHS and name != "cuda":
        raise TrainError(f"compile {GRAPHS} is for CUDA graphs, and the device is {name}: use inductor")
    if config.compile and config.compile not in (known := [*torch.compiler.list_backends(()), GRAPHS]):
        raise TrainError(f"compile is {config.compile!r}, which is no backend of torch.compile"
                         f"{did_you_mean(config.compile, known)}; there are {', '.join(known)}")
    if config.precision == "fp16" and name != "cuda":
        raise TrainError(f"fp16 needs a CUDA device: use bf16 or fp32 on {name}")
    return cuda_of_process() if name == "cuda" else torch.device(name)
