"""Several runs of one architecture at a time: their networks are stacked, and one kernel does what each took one for.

What lives here: the steps of a stack (`torch.func`). What does not: all else of a run, which its own trainer does.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxgrow.common import one_line
from fxgrow.errors import FxgrowError
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import prediction
from fxgrow.experiments.train.config import TrainConfig
from fxgrow.experiments.train.prepare import autocast, optimizer_over
from fxgrow.experiments.train.trainer import Interrupted, Trainer

Batch = tuple[Tensor, Tensor]


class Stack:
    """Equal networks of several trainers: their numbers are views of tensors [networks, ...], which one optimizer trains."""

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers, self.models = list(trainers), [t.model for t in trainers]
        self.config, self.device = trainers[0].config, trainers[0].device
        self.parameters = self._joined([dict(m.named_parameters()) for m in self.models])
        self.buffers = self._joined([dict(m.named_buffers()) for m in self.models])
        trained = [(name, p) for name, p in self.parameters.items() if p.requires_grad]
        self.optimizer = optimizer_over(self.config, trained)
        for name, p in trained:
            states = [t.optimizer.state.get(m.get_parameter(name)) for t, m in zip(self.trainers, self.models)]
            if states[0]:
                self.optimizer.state[p] = {key: _stacked([s[key] for s in states], p[0]) for key in states[0]}  # type: ignore
        self.losses = torch.vmap(self._loss, randomness="error")
        self._shared = False

    @torch.no_grad()
    def _joined(self, named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors by name, stacked, of which those given are views from now on."""
        joined = {name: torch.stack([tensors[name] for tensors in named]) for name in named[0]}
        for i, tensors in enumerate(named):
            for name, whole in joined.items():
                tensors[name].data = whole[i]
        return {name: whole.requires_grad_(named[0][name].requires_grad) for name, whole in joined.items()}

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = prediction(functional_call(self.models[0], (parameters, buffers), (x,)))
        return self.trainers[0].task.loss(out, y, self.config.label_smoothing)

    def step(self, batches: Sequence[Batch]) -> list[float]:
        """Take a step of each network with its own batch, and return the losses."""
        for model in self.models:
            if not model.training:
                model.train()
        x = torch.stack([t.there(x) for t, (x, _) in zip(self.trainers, batches)])
        y = torch.stack([y.to(self.device, non_blocking=True) for _, y in batches])
        try:
            with autocast(self.config, self.device):
                losses = self.losses(self.parameters, self.buffers, x, y)
        except (RuntimeError, NotImplementedError) as error:
            why = one_line(error)
            if "randomness" in why:
                why = "it draws random numbers, dropout say, which would be others than those of a run alone"
            raise TrainError(f"networks of this architecture cannot be stacked ({why}): leave --stacked out") from error
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.config.clip is not None:
            self._clip(self.config.clip)
        self.trainers[0].set_rates(self.optimizer)
        self.optimizer.step()
        if not self._shared:  # views, which later steps fill
            self._share()
        return losses.tolist()

    def _clip(self, most: float) -> None:
        """Scale the gradient of each network to a norm of at most `most`, as `clip_grad_norm_` does."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (most / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *[1] * (g.ndim - 1)))

    def _share(self) -> None:
        """Let each trainer's own optimizer hold the states of its network."""
        for name, whole in self.parameters.items():
            for i, (trainer, model) in enumerate(zip(self.trainers, self.models)):
                if whole in self.optimizer.state:
                    trainer.optimizer.state[model.get_parameter(name)] = {
                        key: value[i] if isinstance(value, Tensor) and value.shape == whole.shape else value
                        for key, value in self.optimizer.state[whole].items()}
        self._shared = True

    @torch.no_grad()
    def release(self) -> None:
        """Give each trainer numbers and states of its own."""
        for trainer in self.trainers:
            for tensor in (*trainer.model.parameters(), *trainer.model.buffers()):
                tensor.data = tensor.data.clone()
            for state in trainer.optimizer.state.values():
                state.update((key, value.clone()) for key, value in state.items() if isinstance(value, Tensor))


def _stacked(values: Sequence[Any], like: Tensor) -> Any:
    """Return the states of one kind of networks that have taken the same steps, as one optimizer holds them."""
    first = values[0]
    if not isinstance(first, Tensor):
        return first
    return torch.stack(list(values)) if first.shape == like.shape and like.ndim else first.clone()


def fit_stacked(trainers: Sequence[Trainer]) -> list[FxgrowError | None]:
    """Train as `fit` of each trainer does, those whose networks have one structure in one stack; return what stopped each.

    Numbers are those of runs alone but for rounding. Networks that have grown at other steps, or whose growth has effects on
    single numbers (freeze, parts), take their steps alone meanwhile.

    Raises:
        TrainError: the settings, or what the networks do, cannot be stacked; says why.
        Interrupted: by Ctrl-C or SIGTERM; each has written a checkpoint.
    """
    for trainer in trainers:
        _insist_stackable(trainer, trainers[0])
    with trainers[0].signals() if trainers else contextlib.nullcontext():
        return _Together(trainers).run()


def _insist_stackable(trainer: Trainer, first: Trainer) -> None:
    """Raise TrainError if the settings of a run cannot be those of one in a stack."""
    config, why = trainer.config, ""
    other = [f.name for f in fields(TrainConfig) if getattr(config, f.name) != getattr(first.config, f.name)]
    if not {"seed", "grow"}.issuperset(other):
        raise TrainError(f"runs that are stacked differ in their seeds and growths alone, and here in {', '.join(other)}")
    if config.precision == "fp16":
        why = "fp16 scales the losses of all by one number"
    elif config.compile:
        why = "a compiled network is one alone"
    elif config.channels_last:
        why = "convolutions of several networks have another form of memory than channels_last"
    elif trainer.group.size > 1:
        why = "DistributedDataParallel is around one network"
    if why:
        raise TrainError(f"these runs cannot be stacked: {why}; leave it out, or --stacked")


class _Together:
    """Courses of several trainers, a step of each at a time."""

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers, self.batches = trainers, {}  # type: tuple[Sequence[Trainer], dict[Trainer, Batch]]
        self.errors: dict[Trainer, FxgrowError] = {}
        self.stacks: list[Stack] = []
        self.known: dict[Trainer, tuple[nn.Module, Any]] = {}

    def run(self) -> list[FxgrowError | None]:
        """Take all steps, and return what stopped each trainer."""
        with contextlib.ExitStack() as stack:
            self.courses = {t: stack.enter_context(contextlib.closing(t.course())) for t in self.trainers}
            stack.callback(self._released)
            for trainer in self.trainers:
                self._go_on(trainer)
            while self.batches:
                first = min(t.step for t in self.batches)
                now = [t for t in self.batches if t.step == first]
                for group in self._grouped(now):
                    self._take(group)
                asked = self.trainers[0].asked_to_stop
                for trainer in now:
                    trainer.asked_to_stop |= asked
                    self._go_on(trainer)
        stopped = next((e for e in self.errors.values() if isinstance(e, Interrupted)), None)
        if stopped is not None:
            raise stopped
        return [self.errors.get(t) for t in self.trainers]

    def _go_on(self, trainer: Trainer) -> None:
        """Let a trainer do what lies between two steps, and take its next batch."""
        self.batches.pop(trainer, None)
        if trainer in self.errors:
            return
        with self._noting(trainer), contextlib.suppress(StopIteration):
            self.batches[trainer] = next(self.courses[trainer])

    @contextlib.contextmanager
    def _noting(self, trainer: Trainer) -> Iterator[None]:
        """Note what stops a trainer, and let the others go on."""
        try:
            with trainer.explained():
                yield
        except FxgrowError as error:
            self.errors[trainer] = error

    def _grouped(self, trainers: Sequence[Trainer]) -> list[list[Trainer]]:
        """Return trainers whose networks can be stacked, together."""
        groups: dict[Any, list[Trainer]] = {}
        for trainer in trainers:
            x, y = self.batches[trainer]
            alone = trainer if trainer.grower.effects else None
            groups.setdefault((alone, self._form(trainer), x.shape, y.shape), []).append(trainer)
        return list(groups.values())

    def _form(self, trainer: Trainer) -> Any:
        """Return what networks of one stack have in common: graph, layers, tensors, and when they have grown."""
        known = self.known.get(trainer)
        if known is None or known[0] is not trainer.model:
            model, grown = trainer.model, (*(g["step"] for g in trainer.history.growths), astuple(trainer.grower.rates))
            tensors = tuple((name, t.shape, t.dtype) for name, t in (*model.named_parameters(), *model.named_buffers()))
            known = self.known[trainer] = model, (repr(model), str(model.graph), tensors, grown)
        return known[1]

    def _take(self, group: list[Trainer]) -> None:
        """Take the step of trainers whose networks are equal."""
        stack = next((s for s in self.stacks if s.trainers == group and s.models == [t.model for t in group]), None)
        if stack is None:
            for old in [s for s in self.stacks if not set(group).isdisjoint(s.trainers)]:
                old.release()
                self.stacks.remove(old)
            if len(group) > 1:
                stack = Stack(group)
                self.stacks.append(stack)
        if stack is None:
            with self._noting(group[0]):
                group[0].train_step(*self.batches[group[0]])
            return
        for trainer, loss in zip(group, stack.step([self.batches[t] for t in group])):
            with self._noting(trainer):
                trainer.insist_finite(loss)
                trainer.taken(loss)

    def _released(self) -> None:
        for stack in self.stacks:
            stack.release()
