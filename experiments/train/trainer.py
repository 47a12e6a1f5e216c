"""The trainer: a loop in plain torch that grows the network while it trains it, and can go on after any interruption.

Evaluation, growth, early stopping and, last, a checkpoint happen at the boundary between two steps. What lives here: the
loop. What does not: rates (rates.py), growths (fxgrow.loops), files (checkpoint.py), counting (costs.py).
"""
from __future__ import annotations

import contextlib
import errno
import itertools
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import default_collate

import fxgrow
from fxgrow.common import held, mixed, one_line
from fxgrow.errors import ArchiveError, FxgrowError
from fxgrow.experiments.data import Data, loader
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.tasks import prediction, task_of
from fxgrow.experiments.train import checkpoint
from fxgrow.experiments.train.config import TrainConfig
from fxgrow.experiments.train.costs import PlannedCost, count_parameters, eval_flops, plan, step_flops
from fxgrow.experiments.train.growing import RunGrower
from fxgrow.experiments.train.history import History, append_line
from fxgrow.experiments.train.prepare import autocast, capture_for, cpu_copy, device_of, in_mode, make_optimizer, runnable
from fxgrow.experiments.train.processes import Group
from fxgrow.experiments.train.rates import rate
from fxgrow.experiments.train.state import TrainingState, gather, restore
from fxgrow.experiments.train.watch import TensorBoard, Watcher
from fxgrow.loops import CheckedGrowth, Entry, measure_statistics, parse_growth, stalled

PROBE = 16  # samples that a grown network is compared on
MEASURED = 8  # batches that running statistics are measured on


class Interrupted(TrainError):
    """Training was asked to stop (Ctrl-C, SIGTERM), and stopped between two steps."""


class Diverged(TrainError):
    """The loss is not finite any more."""


class Trainer(TrainingState):
    """Train a copy of `model`, which may grow on the way.

    Args:
        model: any module that can be captured as a whole and gives what the task wants: one row of logits for each sample,
            for classification.
        data: a `Data`, or anything else with map-style datasets `train`, `validation` and `test` of pairs (tensor, target),
            `classes` and `input_shape`, and `task` if it is not classification.
        config: the settings.
        out: a folder for the history, the log, checkpoints and the trained model; None: nothing is written.
        watchers: told of steps, evaluations and growths.

    In a process group (torchrun) all processes make the same trainer; each takes its share of every batch, and the first
    writes.

    Raises:
        TrainError: the settings, the model and the data do not go together.
        CaptureError: the model cannot be captured.
    """

    def __init__(self, model: nn.Module, data: Data, config: TrainConfig, out: str | Path | None = None, *,
                 watchers: Sequence[Watcher] = ()):
        self.config, self.data, self.task, self.group = config, data, task_of(data, config.task), Group()
        self.watchers = [*watchers, *([TensorBoard()] if config.tensorboard and self.group.rank == 0 else [])]
        self.out = None if out is None else Path(out)
        self.device = device_of(config)
        if not len(data.train):
            raise TrainError("there are no training data: give a data set with samples")
        self.batch = min(config.batch_size, len(data.train))
        if self.batch % self.group.size:
            raise TrainError(f"{self.group.size} processes cannot share a batch of {self.batch} evenly: choose a batch_size "
                             "that is a multiple of them")
        self.per_epoch = len(data.train) // self.batch
        self.total = config.steps or (config.epochs or 0) * self.per_epoch
        self.entries = [parse_growth(text) for text in config.grow]
        self._check_schedule()
        held = data.validation if len(data.validation) else data.train
        self.probe, targets = default_collate([held[i] for i in range(min(PROBE, len(held)))])
        self.model: GraphModule = self._placed(capture_for(self.task, model, self.probe, data, targets))
        self.optimizer = make_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.history, self.asked_to_stop, self._stopping = History(), False, False
        trained = runnable(config, self.group.around(self.model, self.device))
        self.grower = RunGrower(self, trained, self.probe, self._placed)
        self._follow()

    def _placed(self, model: nn.Module) -> Any:
        """Bring a network to the device, in the form of memory that the settings ask for."""
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.config.channels_last else model  # type: ignore[call-overload]

    def _check_schedule(self) -> None:
        if self.config.label_smoothing and not self.task.smooths:
            raise TrainError(f"label_smoothing is for classes, and the task is {self.task.name}: leave it out")
        for entry in self.entries:
            at = entry.at(self.per_epoch, self.total)
            if at is not None and at >= self.total:
                raise TrainError(f"growth {entry.text!r} is due at step {at}, and training ends at step {self.total}")
            if entry.trigger == "plateau" and not len(self.data.validation):
                raise TrainError(f"growth {entry.text!r} needs validation data, and there are none")
        if self.config.patience and not len(self.data.validation):
            raise TrainError("patience needs validation data, and there are none")

    def plan(self) -> PlannedCost:
        """Return what is still to come, in FLOPs; the growths are tried out on a copy of the network."""
        left = [(i, e) for i, e in enumerate(self.entries) if i not in self.fired or i == self.grower.auto_entry]
        left.sort(key=lambda pair: pair[1].at(self.per_epoch, self.total) or 0)
        return plan(cpu_copy(self.model), self.probe, left, self.per_epoch, self.total, self.batch, self.config.seed,
                    self.step, self.grower.last)

    def fit(self) -> History:
        """Train to the end; after `resume`, from where the checkpoint was written.

        Seeds and uses the global generators of torch, numpy and Python.

        Raises:
            Diverged: the loss is not finite.
            TrainError, ArchiveError: another run has the folder, a data worker died, say, or a file cannot be written; the
                last checkpoint stays.
            Interrupted: by Ctrl-C or SIGTERM; a checkpoint of the last step is written.
            GrowthError: a growth is not exact although nothing random was asked for.
        """
        with self.signals(), self.explained(), contextlib.closing(self.course()) as course:
            for x, y in course:
                self.train_step(x, y)
        return self.history

    def course(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Do all that `fit` does but the steps: give the batch of each, to be taken before the next is asked for."""
        with contextlib.ExitStack() as stack:
            self.group.by_first(lambda: stack.enter_context(held(self.out)))
            self.group.by_first(self._prepare_folder)
            first = self.random_states is None and self.step == 0 and not self.history.rows
            if first:
                checkpoint.seed_all(self.config.seed if self.group.rank == 0 else mixed(self.config.seed, self.group.rank))
            elif self.random_states is not None:
                checkpoint.set_random_states(*self.random_states)
                self.random_states = None
            self._began = time.monotonic() - self.seconds
            with self._watched():
                if first:
                    self._boundary()
                else:  # settings may name growths for this step that the run which wrote the checkpoint did not know of
                    for i in self.grower.timed():
                        self._grow(i)
                if self.step < self.total and not self.stopped:
                    yield from self._steps()
            self.group.by_first(self._finish)
            self.model.eval()

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say of what went wrong how to go on."""
        try:
            yield
        except ArchiveError as error:
            full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            raise ArchiveError(f"{error}{'; free space there' if full else ''}{self._advice()}") from error
        except Exception as error:
            if "DataLoader worker" in str(error) and not isinstance(error, TrainError):
                raise self._no_data(error) from error  # torch tells of a dead worker from a signal handler: anywhere
            if self.group.size > 1 and isinstance(error, RuntimeError) and not isinstance(error, FxgrowError):
                raise TrainError(f"step {self.step} was not taken together, another process may have ended: "
                                 f"{one_line(error)}{self._advice()}") from error
            raise

    def _steps(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        with contextlib.closing(self._batches()) as batches:
            while self.step < self.total and not self.stopped:
                try:
                    x, y = next(batches)
                except Exception as error:
                    if not self.asked_to_stop or self.group.size > 1:  # else Ctrl-C has ended the workers too
                        raise self._no_data(error) from error
                else:
                    yield x, y
                    self.step += 1
                    self._boundary()
                stopping = self.asked_to_stop if self.group.size == 1 else self._stopping  # which all have agreed on
                if stopping and self.step < self.total and not self.stopped:
                    self.asked_to_stop = self._stopping = False
                    self.save_checkpoint()
                    raise Interrupted(f"interrupted at step {self.step} of {self.total}{self._advice()}")

    def _no_data(self, error: Exception) -> TrainError:
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if self.config.workers:  # how a dead one shows depends on what it was doing
            why = f"a worker failed: {why}; workers 0 shows where"
        return TrainError(f"the data of step {self.step} cannot be had: {why}{self._advice()}")

    def _batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        source = loader(self.data.train, self.batch, shuffle=True, seed=self.config.seed, workers=self.config.workers,
                        drop_last=True, device=self.device, share=(self.group.rank, self.group.size))
        source.batch_sampler.set_epoch(*divmod(self.step, self.per_epoch))  # type: ignore[union-attr]
        try:
            while True:
                yield from source
        finally:  # at once: while a traceback keeps dead workers in mind, torch raises at every signal
            workers = getattr(source, "_iterator", None)
            if workers is not None:
                workers._shutdown_workers()

    def train_step(self, x: Tensor, y: Tensor) -> None:
        """Take the step of a batch."""
        self.set_rates(self.optimizer)
        if not self.model.training:
            self.model.train()
        with autocast(self.config, self.device):
            out = prediction(self._forward(self.there(x)))
            try:
                loss = self.task.loss(out, y.to(self.device, non_blocking=True), self.config.label_smoothing)
            except IndexError as error:  # of a class that the network has no output for
                raise TrainError(f"the targets of step {self.step} do not fit the {self.data.classes} classes of the data: "
                                 f"{one_line(error)}") from error
        value, asked = self.group.means([float(loss.detach()), float(self.asked_to_stop)], self.device)
        self._stopping = asked > 0
        self.insist_finite(value)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.taken(value)

    def set_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer the rate and the decay of this step."""
        for group in optimizer.param_groups:
            group["lr"] = rate(self.config, self.grower.rates, self.step, self.total)
            group["weight_decay"] = self.config.weight_decay * self.grower.rates.decay_scale

    def insist_finite(self, value: float) -> None:
        """Raise Diverged if the loss of this step is no number."""
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {self.step} (epoch {self.step / self.per_epoch:.2f})")

    def taken(self, value: float) -> None:
        """Count a step that was just taken, and tell of its loss."""
        self.flops += self._step_flops
        self.loss_sum, self.loss_count = self.loss_sum + value, self.loss_count + 1
        self._loss = value
        for watcher in self.watchers:
            watcher.stepped(self, value)

    def _boundary(self) -> None:
        """Do what happens between two steps, in this order: evaluate, grow, stop, checkpoint."""
        self.grower.done = self.step
        if self.grower.thaw():
            self._follow()
        every = self.config.eval_every or self.per_epoch
        evaluating = self.step % every == 0 or self.step == self.total
        timed = [*self.grower.timed(), *self._judged()]
        if evaluating or timed:
            self._record_row()
        for i in timed:
            self._grow(i)
        if evaluating and self.step < self.total:
            self._grow_or_stop()
        checkpoints = self.config.checkpoint_every or every
        if self.step % checkpoints == 0 or self.step == self.total or self.stopped:
            self.save_checkpoint()

    _loss: float | None = None  # of the step that was just taken

    def _judged(self) -> list[int]:
        """Return the `auto` entry if it is due, and log what it says."""
        loss, self._loss, auto = self._loss, None, self.grower.auto
        if auto is None or loss is None or self.step == self.total:
            return []
        before, due = auto.why, self.grower.judged(loss, self.flops)
        if auto.why != before:
            self.say(f"auto at step {self.step}: {'grows: ' if due else ''}{auto.why}")
        return due

    def _grow_or_stop(self) -> None:
        """Do what the losses ask for: the next growth that waits for them, or an early stop."""
        rows, asked = self.history.rows[self.grower.since:], self.grower.asked_for()
        if asked is not None:
            self._grow(asked)
        elif self.config.patience and stalled([row["val_loss"] for row in rows], self.config.patience):
            self.stopped = f"the validation loss has not fallen for {self.config.patience} evaluations"

    @torch.no_grad()
    def evaluate(self, dataset: Any) -> tuple[float, ...]:
        """Return the mean loss and the task's metrics in their order (classification: the accuracy), in eval mode."""
        if not len(dataset):
            raise TrainError("there are no samples to evaluate on")
        sums: dict[str, Tensor] = {}
        self.group.take_buffers(self.model)
        with in_mode(self.model, training=False):
            for x, y in loader(dataset, self.config.eval_batch_size, workers=0, device=self.device,
                               share=(self.group.rank, self.group.size)):
                with autocast(self.config, self.device):
                    out = prediction(self.model(self.there(x)))
                for name, value in self.task.sums(out.float(), y.to(self.device)).items():
                    sums[name] = value.cpu().double() + sums.get(name, 0)
        parts = [part for part in self.group.gathered(sums) if part]
        sums = {name: sum(part[name] for part in parts) for name in parts[0]}  # type: ignore[misc]
        self.eval_flops += self._eval_flops * len(dataset)
        scores, names = tuple(self.task.scores(sums, dataset)), ["loss", *(m.name for m in self.task.metrics)]
        if len(scores) != len(names):
            raise TrainError(f"the task {self.task.name} gives {len(scores)} scores: the mean loss and each of its metrics "
                             f"are {len(names)}")
        return scores

    def there(self, x: Tensor) -> Tensor:
        """Return inputs on the device, in the form of memory that the settings ask for."""
        form = torch.channels_last if self.config.channels_last and x.ndim == 4 else torch.preserve_format
        return x.to(self.device, non_blocking=True, memory_format=form)

    def _measure_norms(self) -> None:
        """Measure running statistics on the training data, the same batches each time; not where a growth was just done."""
        last = self.grower.last
        wanted = {"never": False, "always": True, "grown": last is not None}[self.config.norm_statistics]
        if not wanted or (last is not None and last.step == self.step):
            return
        source = loader(self.data.train, self.batch, shuffle=True, seed=self.config.seed, drop_last=True, device=self.device)
        with autocast(self.config, self.device):
            seen = measure_statistics(self.model, (self.there(x) for x, _ in itertools.islice(source, MEASURED)))
        self.eval_flops += self._eval_flops * self.batch * seen

    def _record_row(self, event: str = "") -> None:
        self._measure_norms()
        nothing = (None,) * (1 + len(self.task.metrics))
        loss, *metrics = self.evaluate(self.data.validation) if len(self.data.validation) else nothing
        if loss is not None and not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss} at step {self.step}")
        self.seconds = time.monotonic() - self._began
        row = {"step": self.step, "epoch": self.step / self.per_epoch, "samples": self.step * self.batch,
               "flops": self.flops, "eval_flops": self.eval_flops,
               "train_loss": self.loss_sum / self.loss_count if self.loss_count else None, "val_loss": loss,
               **{f"val_{m.name}": value for m, value in zip(self.task.metrics, metrics)},
               "lr": rate(self.config, self.grower.rates, self.step, self.total),
               "parameters": count_parameters(self.model), "seconds": round(self.seconds, 3), "event": event}
        self.loss_sum, self.loss_count = 0.0, 0
        self.history.append(row, self.out if self.group.rank == 0 else None)
        self.say(" ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items() if v is not None))
        for watcher in self.watchers:
            watcher.evaluated(self, row)

    def _grow(self, index: int) -> None:
        """Grow the model, its optimizer and the rates by an entry, and give an account of it."""
        entry, began = self.entries[index], time.monotonic()
        before, flops = count_parameters(self.model), self._step_flops
        growth = self.grower.grow(index)
        self._follow()
        self._account(entry, growth, (before, count_parameters(self.model)), (flops, self._step_flops),
                      time.monotonic() - began)
        self._record_row(entry.text)

    def _account(self, entry: Entry, done: CheckedGrowth, parameters: tuple[int, int], flops: tuple[int, int],
                 seconds: float) -> None:
        growth = {"step": self.step, "entry": entry.text, "parameters": parameters, "flops_per_step": flops,
                  "preserving": not done.inexact, "inexact": done.inexact, "verification": str(done.checked),
                  "max_rel_error": finite_or_none(done.checked.max_rel_error), "seconds": round(seconds, 3),
                  "outcomes": done.grown.to_json(), "explain": done.grown.explain()}
        if self.grower.auto is not None and entry.trigger == "auto":
            growth["why"] = self.grower.auto.why
        self.history.growths.append(growth)
        warning = f"\nNOT function preserving, as asked: {', '.join(done.inexact)}" if done.inexact else ""
        self.say(f"growth at step {self.step}: {entry.text}\n{growth['explain']}\n"
                 f"parameters {parameters[0]:,} -> {parameters[1]:,}, FLOPs of a step {flops[0]:,} -> {flops[1]:,}, "
                 f"{seconds:.2f} s\n{done.checked}{warning}")
        for watcher in self.watchers:
            watcher.grown(self, growth)

    def _follow(self) -> None:
        """Bring up to date what follows from the network and its last growth: what runs, and what it costs."""
        self.model, self._forward = self.grower.inner, self.grower.model
        if self.grower.effects.frozen:  # whose hooks are no part of a compiled graph
            self._forward = getattr(self._forward, "_orig_mod", self._forward)
        self._step_flops = step_flops(self.model, self.batch, self.data.input_shape, self.probe.dtype)
        self._eval_flops = eval_flops(self.model, self.data.input_shape, self.probe.dtype)

    def save_checkpoint(self) -> None:
        """Write all that it takes to go on from here, if there is a folder."""
        if self.out is None:
            return
        lost = next((name for name, p in self.model.named_parameters() if not p.isfinite().all()), None)
        if lost is not None:  # the last checkpoint stays, from which one can go on
            raise self._diverged(f"{lost} holds NaN or infinity at step {self.step}")
        self.seconds = time.monotonic() - self._began
        tensors, state = gather(self)
        self.grower.effects.lift()  # a file holds the network as it is without them
        path = self.out / checkpoint.CHECKPOINT_NAME
        self.group.by_first(lambda: checkpoint.write(path, self.model, tensors, state))
        self.grower.renew()
        self.checkpoint_step = self.step
        self.group.by_first(lambda: self.history.save(path.parent))

    @classmethod
    def resume(cls, out: str | Path, data: Data, *, watchers: Sequence[Watcher] = (),
               config: TrainConfig | None = None) -> Trainer:
        """Return the trainer of the run in folder `out`, as it was when its last checkpoint was written.

        Args:
            data: the same as before, else TrainError is raised.
            config: the settings, if they are others than those in the checkpoint (another device, say). A growth that they
                name for the step of the checkpoint, and that has not been, is made first.

        Raises:
            ArchiveError: there is no checkpoint, or it is damaged.
        """
        model, tensors, state = checkpoint.read(Path(out) / checkpoint.CHECKPOINT_NAME)
        trainer = cls(model, data, config or TrainConfig.of(state["config"]), out, watchers=watchers)
        restore(trainer, tensors, state)
        return trainer

    def _prepare_folder(self) -> None:
        if self.out is None:
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"{self.out} cannot be made ({error.strerror}): choose another folder") from error
        if self.checkpoint_step is None and (self.out / checkpoint.CHECKPOINT_NAME).exists():
            raise TrainError(f"{self.out} holds a run already: go on with fxgrow train --resume {self.out}, or choose "
                             "another folder")
        for left in self.out.glob(f".*.{12 * '[0-9a-f]'}.part"):  # of a file that was being written when a run was killed
            left.unlink(missing_ok=True)
        self.history.save(self.out)  # rows behind the checkpoint that is gone on from are dropped

    def _finish(self) -> None:
        self.model.eval()  # as it is saved
        if self.out is not None:
            fxgrow.save(self.model, self.out / "model.pt")
            self.history.save(self.out)
        self.say(f"ended at step {self.step}{': ' + self.stopped if self.stopped else ''}, {self.flops:,} FLOPs")

    def say(self, text: str) -> None:
        """Add a line, or several, to `log.txt`."""
        if self.out is not None and self.group.rank == 0:
            append_line(self.out / "log.txt", text)

    def _advice(self) -> str:
        if self.out is None or self.checkpoint_step is None:
            return "; there is no checkpoint to go on from"
        return f"; go on from step {self.checkpoint_step} with fxgrow train --resume {self.out}"

    def _diverged(self, what: str) -> Diverged:
        """Return the error, with a way on that changes what led there."""
        advice, lower = self._advice(), f" --lr {self.config.lr / 10:g}, or --clip 1"
        if self.out is not None and self.checkpoint_step == self.step:
            advice, lower = "; the last checkpoint leads there at once, so start anew in another folder", ""
        known = self.out is not None and self.checkpoint_step is not None
        return Diverged(f"{what}: lower lr, clip the gradient or warm up{advice}{lower if known else ''}")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell watchers of the start and the end, between which the effects of the last growth are in force."""
        with contextlib.ExitStack() as stack:
            for watcher in self.watchers:
                watcher.started(self)
                stack.callback(watcher.ended, self)
            self.grower.renew()
            self._follow()
            stack.callback(self.grower.effects.lift)
            yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Heed the first Ctrl-C or SIGTERM between two steps, the second at once (only the main thread is told of them)."""
        def ask(*_) -> None:
            if self.asked_to_stop:
                raise KeyboardInterrupt
            self.asked_to_stop = True

        heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, ask) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def finite_or_none(value: float) -> float | None:
    """Return the number, or None where it is not finite, which JSON cannot hold."""
    return value if math.isfinite(value) else None
