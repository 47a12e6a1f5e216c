"""Growth in a training loop of one's own: a few lines in it, and whatever holds the optimizer goes on with it."""
from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fxgrow.cost import count_flops
from fxgrow.errors import GrowthError, TrainError
from fxgrow.graph import shards_in
from fxgrow.loops import averages, moving, sharding
from fxgrow.loops.auto import Ahead, Auto
from fxgrow.loops.effects import Effects, LastGrowth
from fxgrow.loops.norms import measure_statistics
from fxgrow.loops.rates import Rates, after_growth
from fxgrow.loops.schedule import CheckedGrowth, Entry, GrowthAccount, auto_in, grow_by_entry, parse_growth, seed_for
from fxgrow.loops.structure import pack, unpack
from fxgrow.loops.wrappers import become, inside, wrap_anew, wrapped_as
from fxgrow.record import GrowthRecord

PLAIN = ("done", "fired", "since", "rows", "flops")  # of the state: numbers, and lists and dicts of them


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
            `auto` grows when that promises more for a FLOP, and `grower.auto.why` says why it did, or did not yet.
        example_inputs: as for `transform`; None: those of the first call of the model.
        scheduler: only checked: that its optimizer is one of these.
        ema: an average of the model's numbers, or several: torch's AveragedModel, what else keeps a copy of the model as an
            attribute (timm's ModelEma), such a copy itself, or a dict of tensors by name.
        seed: of every growth.
        steps_per_epoch: for entries of `epoch=`. total_steps: for `fraction=` and `auto`.
        wrap: makes of a grown model what is trained, where wrapping it as it was is not enough (blocks compiled one by one).
        in_place: the grown model takes the place of the small one in the same object, for frameworks that hold on to it.
        plain: of a sharded model (FSDP2, tensor parallel): the model as it was before, on the meta device say; `wrap` shards
            a grown one.

    Raises:
        TrainError: an entry is not understood, or speaks of what the loop does not tell.
        GrowthError: the optimizer is not the model's, or the model's parameters are sharded.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], grow: str | Sequence[str],
                 example_inputs: Any = None, *, scheduler: Any = None, ema: Any = None, seed: int = 0,
                 steps_per_epoch: int | None = None, total_steps: int | None = None,
                 wrap: Callable[[nn.Module], nn.Module] | None = None, in_place: bool = False,
                 plain: nn.Module | None = None):
        self.model, self.averages, self.seed = model, averages.averages_in(ema), seed
        self.optimizers = [moving.innermost(o) for o in (optimizer if isinstance(optimizer, Sequence) else [optimizer])]
        self.entries = [parse_growth(text) for text in ([grow] if isinstance(grow, str) else grow)]
        self.steps_per_epoch, self.total_steps, self.wrap, self.in_place = steps_per_epoch, total_steps, wrap, in_place
        self.auto_entry = auto_in(self.entries)
        self.growths: list[GrowthAccount] = []  # of this process, in order
        self.done, self.since, self.flops = 0, 0, 0  # steps; the first row behind the last growth; FLOPs of all steps
        self.fired: list[int] = []
        self.rows: list[dict[str, Any]] = []  # one for each evaluation
        self.rates = Rates()
        self._kept: list[Grower] = []  # this, once the rates depend on it
        self.last: LastGrowth | None = None
        self.inner, self.plain = inside(model, wrap, plain), plain  # the model without what is around it
        self.effects = Effects()
        self._structure: Any = None
        self._loss: list[Tensor | float] = []
        self._evaluated, self._awaited = False, None
        self.auto = None if self.auto_entry is None else Auto(total_steps or 0, _size(self.inner))
        self._check(scheduler)
        self.follow_rates()
        self._first = moving.FirstCall(example_inputs)
        self._first.watch(self.inner)
        weakref.finalize(self, self._first.unwatch).atexit = False

    def _check(self, scheduler: Any) -> None:
        for entry in self.entries:
            self.check_entry(entry)
        for average in self.averages:
            averages.insist_average(average, self.inner, self.in_place)
        if self.plain is not None and (self.averages or self.in_place or not shards_in(self.inner)):
            raise GrowthError("plain= is for a sharded model, which grows without ema= and in_place=: keep an average of it "
                              "in the loop")
        named = {id(p) for p in self.inner.parameters()}
        if not any(id(p) in named for o in self.optimizers for g in o.param_groups for p in g["params"]):
            raise GrowthError("the optimizer trains no parameter of the model: make it of model.parameters()")
        for optimizer in self.optimizers:
            moving.insist_groups_alone(optimizer)
        held = getattr(getattr(scheduler, "scheduler", scheduler), "optimizer", None)  # accelerate's is around another
        if scheduler is not None and (held is None or moving.innermost(held) not in self.optimizers):
            raise GrowthError(f"the {type(scheduler).__name__} sets the rates of another optimizer: give both that belong "
                              "together")

    def check_entry(self, entry: Entry) -> None:
        """Raise TrainError if an entry speaks of what the loop does not tell."""
        needs = {"epoch": ("steps_per_epoch", self.steps_per_epoch), "fraction": ("total_steps", self.total_steps),
                 "auto": ("total_steps", self.total_steps)}
        name, given = needs.get(entry.trigger, ("", 1))
        if not given:
            raise TrainError(f"growth {entry.text!r}: {entry.trigger} needs {name}=, which the loop alone knows")
        if self._at(entry) == 0:
            raise TrainError(f"growth {entry.text!r} is due before the first step: grow by fxgrow.transform, and make the "
                             "optimizer of the grown model")
        if entry.options["lr"] == "restart" or (entry.options["lr"] == "rewarm" and not entry.options["rewarm"]):
            raise TrainError(f"growth {entry.text!r}: the rates are the loop's own: lr=constant, ratio, parts, or lr=rewarm "
                             "with rewarm=STEPS; for a restart make the scheduler anew")
        parts = entry.options["freeze"] or "parts" in (entry.options["lr"], entry.options["decay"])
        if self.plain is not None and (parts or entry.trigger in ("slope", "auto")):
            raise TrainError(f"growth {entry.text!r}: of a sharded model each process has a piece, in which old numbers are "
                             "not told from new: leave out freeze and parts, slope= and auto")
        if entry.options["decay"] == "parts" and not all(isinstance(o, (SGD, AdamW)) for o in self.optimizers):
            raise TrainError(f"growth {entry.text!r}: decay=parts is for SGD and AdamW")

    def _at(self, entry: Entry) -> int | None:
        return entry.at(self.steps_per_epoch or 0, self.total_steps or 0)

    @property
    def inputs(self) -> Any:
        """Return the example inputs, or those of the first call; None: there was none."""
        return self._first.inputs

    def follow_rates(self) -> None:
        """Let the optimizers' steps be taken at the rates that growths ask for; before the first they do not keep this."""
        kept = self._kept

        def factors() -> dict[str, float]:
            return {name: factor for one in kept for name, factor in
                    (("lr", one.rates.scale * one.rates.warmth(one.done)), ("weight_decay", one.rates.decay_scale))}

        for one in self.optimizers:
            moving.scale_rates(one, factors, lambda: kept[0].inner)

    def step(self, step: int, loss: Tensor | float | None = None) -> nn.Module:
        """Tell of a step that was just taken, and return the model to go on with: the same, or the grown one.

        Call it once the optimizer, the scheduler and the average have taken the step; gradients are dropped by a growth.

        Args:
            step: its number, from 0: `step=100` grows behind step 99.
            loss: of its batch; only `slope=` and `auto` look at it.

        Raises:
            GrowthError: a growth that is due is not exact though nothing random was asked for.
            SelectionError: its `where` names nothing that can grow.
        """
        self.done = step + 1
        if self.inputs is not None:
            self._first.unwatch()
        if any(e.trigger in ("slope", "auto") for e in self.entries):
            self._count(loss)
        self.thaw()
        asked, self._evaluated = self.asked_for() if self._evaluated else None, False
        for index in [*self.timed(), *([] if asked is None else [asked]), *self.judged(loss, self.flops)]:
            self.grow(index)
        return self.model

    def thaw(self) -> bool:
        """Let old numbers move again if it is time, and tell whether it was."""
        due = self.effects.frozen and self.last is not None and self.done >= self.last.thaws
        if due:
            self.renew()
            if "torch._dynamo" in sys.modules:  # torch 2.8's compiled code keeps the hooks that it was made with
                torch.compiler.reset()
        return due

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

    def measure_norms(self, batches: Iterable[Any]) -> None:
        """Measure the running statistics of batch norms anew, for an evaluation behind a growth.

        New channels change faster than running statistics follow. Nothing is done before the first growth, nor right behind
        one, where both models compute the same. Training is not changed: it takes the statistics of its batches.

        Args:
            batches: a few batches of training inputs on the model's device, each as the example inputs are.
        """
        if self.last is not None and self.done > self.last.step:
            measure_statistics(self.inner, batches)

    @property
    def _device(self) -> torch.device:
        return next(self.inner.parameters()).device

    def _count(self, loss: Tensor | float | None) -> None:
        if loss is not None:
            self._loss.append(loss.detach() if isinstance(loss, Tensor) else loss)
        if self._flops is None:
            self._flops = count_flops(self.inner, self.inputs).total
        self.flops += self._flops

    warmup = 0  # the steps of a second warm-up whose entry does not say how many
    _flops: int | None = None  # of a step

    @property
    def waits_for_losses(self) -> bool:
        """Tell whether a growth is still to come that depends on `evaluated`."""
        return any(e.waits for i, e in enumerate(self.entries) if i not in self.fired)

    def timed(self) -> list[int]:
        """Return the entries of the schedule whose step has come."""
        at = {i: self._at(e) for i, e in enumerate(self.entries) if i not in self.fired}
        return [i for i, step in at.items() if step is not None and step <= self.done]

    def asked_for(self) -> int | None:
        """Return the first entry that waits for losses, if those since the last growth ask for it."""
        waiting = [i for i, e in enumerate(self.entries) if i not in self.fired and e.waits]
        return waiting[0] if waiting and self.entries[waiting[0]].due(self.rows[self.since:]) else None

    def judged(self, loss: Tensor | float | None, spent: int) -> list[int]:
        """Return the `auto` entry if it is due.

        Args:
            loss: of the step that was just taken. spent: the FLOPs of all steps.
        """
        index = self.auto_entry
        if self.auto is None or index is None:
            return []
        if loss is None:
            raise TrainError("auto looks at the training loss: give it to step(step, loss)")
        full = self.auto.stepped(self.done, loss, lambda mean: _over_all(mean, self._device))
        due = full and self.auto.due(self.entries[index], self.done, spent, lambda: self._ahead(index))
        return [index] if due else []

    def _ahead(self, index: int) -> Ahead:
        """Try the growth of an entry out."""
        def grow() -> tuple[list[int], list[int], str]:
            with torch.random.fork_rng(devices=[]), torch.autocast(self._device.type, enabled=False):
                small = self.trial()
                growth = self.grown(small, self._inputs(), self.entries[index], self._seed(index))
                both = small, growth.grown.model
            return [self.cost(m) for m in both], [_size(m) for m in both], growth.record.lineage[-1].get("chosen", "")

        self.effects.lift()
        try:
            return Ahead.tried(grow)
        finally:
            self.renew()

    def trial(self) -> nn.Module:
        """Return the model, or a copy of it, for a growth that is tried out."""
        return self.inner

    def cost(self, model: nn.Module) -> int:
        """Return the FLOPs of a step of a model."""
        return count_flops(model, self._inputs()).total

    def _inputs(self) -> Any:
        if self.inputs is None:
            raise GrowthError("the model has not been called yet: give example_inputs")
        return moving.on_device(self.inputs, self._device)

    def _seed(self, index: int) -> int:
        return seed_for(self.seed, index, self.fired.count(index))

    def grow(self, index: int) -> CheckedGrowth:
        """Grow the model by an entry of the schedule, and all that trains it."""
        entry, old, seed, inputs = self.entries[index], self.inner, self._seed(index), self._inputs()
        self.effects.lift()
        give_back = [moving.parts_of(o) for o in self.optimizers]
        if self.plain is not None:
            old = sharding.gathered(old, self.plain)
        try:
            with torch.autocast(self._device.type, enabled=False):
                growth = self.grown(old, inputs, entry, seed)
                new, record = growth.grown.model, growth.record
                if self.plain is not None:
                    for optimizer in self.optimizers:
                        sharding.exchange(optimizer, dict(self.inner.named_parameters()), old, sharding.gather_state)
                moved = [moving.moved_optimizer(record, o, new, old, reset=entry.options["optimizer"] == "reset")
                         for o in self.optimizers]
                put = [averages.moved_average(record, average, old, new, inputs, entry, seed) for average in self.averages]
        except Exception:
            for give in give_back:
                give()
            self.renew()
            raise
        for optimizer, other in zip(self.optimizers, moved):
            moving.take_over(optimizer, other)
        for put_one in put:
            put_one()
        numbers = [_size(m) for m in (old, new)]
        self._put(new)
        self.rates = after_growth(self.rates, entry.options, self.done, numbers[0] / numbers[1], self.warmup)
        self.last = LastGrowth(replace(record, origin={}), entry.options, self.done)
        self.fired.append(index)
        self._kept[:] = [self]
        self.growths.append(growth.account(entry))
        self.since = len(self.rows)
        if self.auto is not None:
            self.auto.grown(self.done)
        self.renew()
        return growth

    def grown(self, model: nn.Module, inputs: Any, entry: Entry, seed: int) -> CheckedGrowth:
        """Return the growth of a model by an entry, compared with it; a subclass may make another model of the grown one."""
        return grow_by_entry(model, inputs, entry, seed)

    def _put(self, new: nn.Module) -> None:
        """Put the grown model where the small one is, its numbers, optimizers and averages being there."""
        new.train(self.inner.training)
        whole = dict(new.named_parameters())
        if self.plain is not None:
            self.plain = sharding.skeleton_of(new)
        if self.in_place:
            become(self.inner, new)
            if self.wrap is not None:
                self.wrap(self.inner)
            wrap_anew(self.model)
        else:
            self.model = wrapped_as(self.model, new) if self.wrap is None else self.wrap(new)
            self.inner = new
        self._first.watch(self.inner)
        for optimizer in self.optimizers if self.plain is not None else ():
            sharding.exchange(optimizer, whole, new, sharding.shard_state)
        self._structure = self._flops = None

    def renew(self) -> None:
        """Put the effects of the last growth in force, as they hold at this step."""
        self.effects.renew(self.last, self.done, self.inner, *self.optimizers)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the states of model, optimizer and average: tensors and plain data.

        Raises:
            ArchiveError: the structure of the grown model cannot be written as data; says what of it.
        """
        if self.fired and self._structure is None:
            self.effects.lift()
            self._structure = self.structure()
            self.renew()
        last = None if self.last is None else {"options": self.last.options, "step": self.last.step,
                                               "record": self.last.record.to_json(), "maps": self.last.record.to_tensors()}
        return {"version": 1, "grow": [e.text for e in self.entries], "structure": self._structure, "last": last,
                "groups": [moving.names_of(o, self.inner) for o in self.optimizers],
                "rates": asdict(self.rates), "auto": self.auto and self.auto.state(),
                **{name: copy.copy(getattr(self, name)) for name in PLAIN}}

    def structure(self) -> Any:
        """Return what `built` makes the grown model of again, as a tensor or plain data."""
        return pack(self.plain or self.inner, self.inputs)

    def built(self, structure: Any) -> nn.Module:
        """Return the model of a structure, without its numbers."""
        return unpack(structure, self.plain or self.inner)

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
                moving.insist_groups(optimizer, self.inner, groups)
        elif state["structure"] is not None:
            self._rebuild(state)
            self._awaited = self.inner.register_load_state_dict_post_hook(self._loaded)
        for name in PLAIN:
            setattr(self, name, state[name])
        self.rates = Rates(**state["rates"])
        self._kept[:] = [self] if self.fired else []
        self.restore_auto(state)
        last = state["last"]
        self.last = last and LastGrowth(GrowthRecord.rebuild(last["record"], last["maps"]), last["options"], last["step"])
        if self._awaited is None:
            self.renew()
        return self.model

    def restore_auto(self, state: Mapping[str, Any]) -> None:
        """Bring what an `auto` entry looks at into a saved state, where both have one."""
        if self.auto is not None and state.get("auto"):
            self.auto = Auto.of({**state["auto"], "total": self.auto.total})

    def _loaded(self, *_) -> None:
        """Put effects in force once the numbers are there: old ones that stand still are remembered."""
        if self._awaited is not None:
            self._awaited.remove()
            self._awaited = None
            self.renew()

    def _rebuild(self, state: Mapping[str, Any]) -> None:
        device, old = self._device, self.inner
        new = self.built(state["structure"]).to(device)
        self.effects.lift()
        for optimizer, groups in zip(self.optimizers, state["groups"]):
            moving.regroup(optimizer, new, old, groups)
        for average in self.averages:
            averages.replace_average(average, old, new)
        self._put(new)
        self._structure = state["structure"]


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _over_all(value: float, device: torch.device) -> float:
    """Return the mean over the processes of a group, so that all of them decide alike."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(value)
    total = torch.tensor(float(value), dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
