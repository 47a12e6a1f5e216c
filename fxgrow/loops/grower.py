"""Growth in a training loop of one's own: a few lines in it, and whatever holds the optimizer goes on with it."""
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fxgrow.cost import count_flops
from fxgrow.errors import GrowthError, TrainError
from fxgrow.loops import moving
from fxgrow.loops.effects import Effects, LastGrowth
from fxgrow.loops.schedule import CheckedGrowth, Entry, grow_by_entry, parse_growth, seed_for
from fxgrow.loops.structure import pack, unpack
from fxgrow.loops.wrappers import become, inside, wrap_anew, wrapped_as
from fxgrow.record import GrowthRecord

PLAIN = ("done", "fired", "since", "rows", "flops", "rates", "rewarm")  # of the state: numbers, and lists and dicts of them


class Grower:
    """Grow a model while a loop of the user's own trains it.

        grower = fxgrow.Grower(model, optimizer, "step=100: widen factor=2", example_inputs=x)
        for step, (x, y) in enumerate(loader):
            loss = ...                                     # the loop's own forward, backward, optimizer and scheduler steps
            model = grower.step(step, loss)                # the same model, or the grown one

    The optimizer stays the same object: its groups get the grown model's parameters, with the states that training has
    gathered, so that schedulers, a gradient scaler and wrappers around it go on as they are; the average too. The model is a
    new one, wrapped as it was. Between two growths nothing is done.

    Args:
        model: what is trained: a module that `fxgrow.transform` takes, also inside torch.compile, DataParallel or
            DistributedDataParallel.
        optimizer: that of the model, or several; in each, parameters that are not the model's stay.
        grow: an entry of the schedule, `step=100 lr=ratio: widen factor=2`, or several (docs/training.md has the words).
        example_inputs: as for `transform`; None: those of the first call of the model.
        scheduler: only checked: that its optimizer is one of these.
        ema: an average of the model's numbers: torch's AveragedModel, what else keeps a copy as `.module` (timm), or a dict
            of tensors by name.
        seed: of every growth.
        steps_per_epoch: for entries of `epoch=`. total_steps: for those of `fraction=`.
        wrap: makes of a grown model what is trained, where wrapping it as it was is not enough (blocks compiled one by one).
        in_place: the grown model takes the place of the small one in the same object, for frameworks that hold on to it.

    Raises:
        TrainError: an entry is not understood, or speaks of what the loop does not tell.
        GrowthError: the optimizer is not the model's, or the model's parameters are sharded.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], grow: str | Sequence[str],
                 example_inputs: Any = None, *, scheduler: Any = None, ema: Any = None, seed: int = 0,
                 steps_per_epoch: int | None = None, total_steps: int | None = None,
                 wrap: Callable[[nn.Module], nn.Module] | None = None, in_place: bool = False):
        self.model, self.inputs, self.ema, self.seed = model, example_inputs, ema, seed
        self.optimizers = [moving.innermost(o) for o in (optimizer if isinstance(optimizer, Sequence) else [optimizer])]
        self.entries = [parse_growth(text) for text in ([grow] if isinstance(grow, str) else grow)]
        self.steps_per_epoch, self.total_steps, self.wrap, self.in_place = steps_per_epoch, total_steps, wrap, in_place
        self.growths: list[CheckedGrowth] = []  # of this process, in order
        self.done, self.since, self.flops = 0, 0, 0  # steps; the first row behind the last growth; FLOPs of all steps
        self.fired: list[int] = []
        self.rows: list[dict[str, Any]] = []  # one for each evaluation
        self.rates = {"lr": 1.0, "weight_decay": 1.0}
        self.rewarm = [0, 0]  # the step that a second warm-up began with, and how many it takes
        self.last: LastGrowth | None = None
        self._inner, self._effects, self._structure = inside(model, wrap), Effects(), None
        self._loss: list[Tensor | float] = []
        self._evaluated, self._awaited = False, None
        self._check(scheduler)
        for one in self.optimizers:
            moving.scale_rates(one, self._factors)
        if example_inputs is None:
            self._inner.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _check(self, scheduler: Any) -> None:
        for entry in self.entries:
            self._check_entry(entry)
        if self.ema is not None:
            moving.insist_average(self.ema)
        named = {id(p) for p in self._inner.parameters()}
        if not any(id(p) in named for o in self.optimizers for g in o.param_groups for p in g["params"]):
            raise GrowthError("the optimizer trains no parameter of the model: make it of model.parameters()")
        held = getattr(getattr(scheduler, "scheduler", scheduler), "optimizer", None)  # accelerate's is around another
        if scheduler is not None and (held is None or moving.innermost(held) not in self.optimizers):
            raise GrowthError(f"the {type(scheduler).__name__} sets the rates of another optimizer: give both that belong "
                              "together")

    def _check_entry(self, entry: Entry) -> None:
        needs = {"epoch": ("steps_per_epoch", self.steps_per_epoch), "fraction": ("total_steps", self.total_steps)}
        name, given = needs.get(entry.trigger, ("", 1))
        if not given:
            raise TrainError(f"growth {entry.text!r}: {entry.trigger}= needs {name}=, which the loop alone knows")
        if self._at(entry) == 0:
            raise TrainError(f"growth {entry.text!r} is due before the first step: grow by fxgrow.transform, and make the "
                             "optimizer of the grown model")
        if entry.options["lr"] == "restart" or (entry.options["lr"] == "rewarm" and not entry.options["rewarm"]):
            raise TrainError(f"growth {entry.text!r}: the rates are the loop's own: lr=constant, ratio, parts, or lr=rewarm "
                             "with rewarm=STEPS; for a restart make the scheduler anew")
        if entry.options["decay"] == "parts" and not all(isinstance(o, (SGD, AdamW)) for o in self.optimizers):
            raise TrainError(f"growth {entry.text!r}: decay=parts is for SGD and AdamW")

    def _at(self, entry: Entry) -> int | None:
        return entry.at(self.steps_per_epoch or 0, self.total_steps or 0)

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.inputs is None:
            self.inputs = moving.as_inputs(module, args, kwargs)

    def _factors(self) -> dict[str, float]:
        start, steps = self.rewarm
        warm = min(1.0, (self.done - start + 1) / steps) if steps else 1.0
        return {**self.rates, "lr": self.rates["lr"] * warm}

    def step(self, step: int, loss: Tensor | float | None = None) -> nn.Module:
        """Tell of a step that was just taken, and return the model to go on with: the same, or the grown one.

        Call it once the optimizer, the scheduler and the average have taken the step; gradients are dropped by a growth.

        Args:
            step: its number, from 0: `step=100` grows behind step 99.
            loss: of its batch; only `slope=` looks at it.

        Raises:
            GrowthError: a growth that is due is not exact though nothing random was asked for.
            SelectionError: its `where` names nothing that can grow.
        """
        self.done = step + 1
        if any(e.trigger == "slope" for e in self.entries):
            self._count(loss)
        if self._effects.frozen and self.last is not None and self.done >= self.last.thaws:
            self._renew()
            if "torch._dynamo" in sys.modules:  # torch 2.8's compiled code keeps the hooks that it was made with
                torch.compiler.reset()
        for index in self._due():
            self._grow(index)
        return self.model

    def evaluated(self, val_loss: float, train_loss: float | None = None) -> None:
        """Tell of an evaluation: `plateau=` and `slope=` decide by these at the next step.

        Args:
            val_loss: the validation loss; over the processes of a group its mean counts.
            train_loss: the mean training loss since the last evaluation; None: of the losses given to `step`.
        """
        losses = [float(x) for x in self._loss]
        mean = sum(losses) / len(losses) if losses and train_loss is None else train_loss
        self._loss.clear()
        if mean is None and any(e.trigger == "slope" for e in self.entries):
            raise TrainError("slope= looks at the training loss: give it to step(step, loss), or to evaluated")
        self.rows.append({"val_loss": _over_all(val_loss, self._device), "flops": self.flops,
                          "train_loss": None if mean is None else _over_all(mean, self._device)})
        self._evaluated = True

    @property
    def _device(self) -> torch.device:
        return next(self._inner.parameters()).device

    def _count(self, loss: Tensor | float | None) -> None:
        if loss is not None:
            self._loss.append(loss.detach() if isinstance(loss, Tensor) else loss)
        if self._flops is None:
            self._flops = count_flops(self._inner, self.inputs).total
        self.flops += self._flops

    _flops: int | None = None  # of a step

    @property
    def waits_for_losses(self) -> bool:
        """Tell whether a growth is still to come that depends on `evaluated`."""
        return any(self._at(e) is None for i, e in enumerate(self.entries) if i not in self.fired)

    def _due(self) -> list[int]:
        """Return the entries whose moment has come."""
        timed = {i: self._at(e) for i, e in enumerate(self.entries) if i not in self.fired}
        due = [i for i, at in timed.items() if at is not None and at <= self.done]
        waiting = [i for i, at in timed.items() if at is None]
        if self._evaluated and waiting and self.entries[waiting[0]].due(self.rows[self.since:]):
            due.append(waiting[0])
        self._evaluated = False
        return due

    def _grow(self, index: int) -> None:
        """Grow the model by an entry, and all that trains it."""
        entry, old, seed = self.entries[index], self._inner, seed_for(self.seed, index)
        if self.inputs is None:
            raise GrowthError("the model has not been called yet: give example_inputs")
        self._effects.lift()
        inputs = moving.on_device(self.inputs, self._device)
        with torch.autocast(self._device.type, enabled=False):
            growth = self.grown(old, inputs, entry, seed)
            new, record = growth.grown.model, growth.record
            for optimizer in self.optimizers:
                moving.move_optimizer(record, optimizer, new, old, reset=entry.options["optimizer"] == "reset")
            if self.ema is not None:
                moving.move_average(record, self.ema, new, inputs, entry, seed)
        numbers = [sum(p.numel() for p in m.parameters()) for m in (old, new)]
        self._put(new)
        self._change_rates(entry, numbers[0] / numbers[1])
        self.last = LastGrowth(record, entry.options, self.done)
        self.last.record.origin = {}
        self.fired.append(index)
        self.growths.append(growth)
        self.since = len(self.rows)
        self._renew()

    def grown(self, model: nn.Module, inputs: Any, entry: Entry, seed: int) -> CheckedGrowth:
        """Return the growth of a model by an entry, compared with it; a subclass may make another model of the grown one."""
        return grow_by_entry(model, inputs, entry, seed)

    def _put(self, new: nn.Module) -> None:
        """Put the grown model where the small one is, its numbers, optimizers and averages being there."""
        new.train(self._inner.training)
        if self.in_place:
            become(self._inner, new)
            if self.wrap is not None:
                self.wrap(self._inner)
            wrap_anew(self.model)
        else:
            self.model = wrapped_as(self.model, new) if self.wrap is None else self.wrap(new)
            self._inner = new
        self._structure = self._flops = None

    def _change_rates(self, entry: Entry, ratio: float) -> None:
        """Follow the entry's rule for the rate and the decay; `ratio` is the small model's size by the grown one's."""
        for name, rule in (("lr", "lr"), ("weight_decay", "decay")):
            self.rates[name] *= ratio if entry.options[rule] == "ratio" else 1.0
        if entry.options["lr"] == "rewarm":
            self.rewarm = [self.done, entry.options["rewarm"]]

    def _renew(self) -> None:
        self._effects.renew(self.last, self.done, self._inner, *self.optimizers)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the states of model, optimizer and average: tensors and plain data.

        Raises:
            ArchiveError: the structure of the grown model cannot be written as data; says what of it.
        """
        if self.fired and self._structure is None:
            self._effects.lift()
            self._structure = self.structure()
            self._renew()
        last = None if self.last is None else {"options": self.last.options, "step": self.last.step,
                                               "record": self.last.record.to_json(), "maps": self.last.record.to_tensors()}
        return {"version": 1, "grow": [e.text for e in self.entries], "structure": self._structure, "last": last,
                "groups": [moving.names_of(o, self._inner) for o in self.optimizers],
                **{name: getattr(self, name) for name in PLAIN}}

    def structure(self) -> Any:
        """Return what `built` makes the grown model of again, as a tensor or plain data."""
        return pack(self._inner, self.inputs)

    def built(self, structure: Any) -> nn.Module:
        """Return the model of a structure, without its numbers."""
        return unpack(structure, self._inner)

    def load_state_dict(self, state: Mapping[str, Any], rebuilt: bool = False) -> nn.Module:
        """Make the model what it was when the state was saved, and return it: its own state_dict is to be loaded next.

        The optimizers' and the average's too: they train the model that was rebuilt, and hold no states yet.

        Args:
            rebuilt: the model has the structure and the numbers already, as a framework's checkpoint gave them.

        Raises:
            TrainError: the schedule is another one.
            GrowthError: the optimizers are others.
            ArchiveError: the structure is damaged.
        """
        texts = [e.text for e in self.entries]
        lost = next((state["grow"][i] for i in state["fired"] if state["grow"][i] != dict(enumerate(texts)).get(i)), None)
        if lost is not None:
            raise TrainError(f"the saved run has grown by {lost!r}, which the schedule does not say: give the same one")
        if self.fired and not state["fired"]:
            raise TrainError("the model has grown, and in the saved run it had not: begin with the small model again")
        if rebuilt:
            self._structure = state["structure"]
            for optimizer, groups in zip(self.optimizers, state["groups"]):
                moving.insist_groups(optimizer, self._inner, groups)
        elif state["structure"] is not None:
            self._rebuild(state)
            self._awaited = self._inner.register_load_state_dict_post_hook(self._loaded)
        for name in PLAIN:
            setattr(self, name, state[name])
        last = state["last"]
        self.last = last and LastGrowth(GrowthRecord.rebuild(last["record"], last["maps"]), last["options"], last["step"])
        if self._awaited is None:
            self._renew()
        return self.model

    def _loaded(self, *_) -> None:
        """Put effects in force once the numbers are there: old ones that stand still are remembered."""
        if self._awaited is not None:
            self._awaited.remove()
            self._awaited = None
            self._renew()

    def _rebuild(self, state: Mapping[str, Any]) -> None:
        device, old = self._device, self._inner
        new = self.built(state["structure"]).to(device)
        self._effects.lift()
        for optimizer, groups in zip(self.optimizers, state["groups"]):
            moving.regroup(optimizer, new, old, groups)
        if self.ema is not None:
            moving.replace_average(self.ema, new)
        self._put(new)
        self._structure = state["structure"]


def _over_all(value: float, device: torch.device) -> float:
    """Return the mean over the processes of a group, so that all of them decide alike."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(value)
    total = torch.tensor(float(value), dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
