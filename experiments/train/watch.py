"""Watchers of a run: lines on the terminal, a progress bar, TensorBoard."""
from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxgrow.cli import console
from fxgrow.common import one_line, quantity
from fxgrow.errors import ArchiveError
from fxgrow.experiments.settings import TrainError, optional

if TYPE_CHECKING:
    from fxgrow.experiments.train.state import TrainingState


# the columns of the history that are written as scalars, under these names; a task's metrics as NAME/validation
TAGS = {"train_loss": "loss/train", "val_loss": "loss/validation", "lr": "lr", "parameters": "parameters", "flops": "flops"}


class Watcher:
    """Hears of what happens in a run; a subclass overrides what it wants to know. `ended` comes after an error too."""

    def started(self, trainer: TrainingState) -> None:
        """Hear that the run starts or goes on."""

    def stepped(self, trainer: TrainingState, loss: float) -> None:
        """Hear of a step and its loss."""

    def evaluated(self, trainer: TrainingState, row: dict[str, Any]) -> None:
        """Hear of an evaluation, a row of the history."""

    def grown(self, trainer: TrainingState, growth: dict[str, Any]) -> None:
        """Hear of a growth, an entry of `history.growths`."""

    def ended(self, trainer: TrainingState) -> None:
        """Hear that the run has ended."""


class Lines(Watcher):
    """A line on stdout for each evaluation and growth (by `print`, which a progress bar on the same terminal sees)."""

    def evaluated(self, trainer: TrainingState, row: dict[str, Any]) -> None:
        """Print the numbers of the row."""
        columns = {"loss": "train_loss", "validation": "val_loss",
                   **{m.name.replace("_", " "): f"val_{m.name}" for m in trainer.task.metrics}}
        numbers = [f"{label} {row[name]:.4f}" for label, name in columns.items() if row[name] is not None]
        print(f"step {row['step']:>6} epoch {row['epoch']:>6.2f}  {'  '.join(numbers)}  lr {row['lr']:.3g}  "
              f"{quantity(row['flops'], 'FLOP')}", flush=True)

    def grown(self, trainer: TrainingState, growth: dict[str, Any]) -> None:
        """Print what grew, and how exactly."""
        before, after = growth["parameters"]
        exact = growth["verification"]
        if not growth["preserving"]:
            exact = f"NOT function preserving, as asked: {', '.join(growth['inexact'])}"
        print(f"grown at step {growth['step']}: {growth['entry']}: parameters {before:,} -> {after:,}; {exact}", flush=True)


class Progress(Watcher):
    """A bar with the time that is left, on stderr, on terminals only."""

    def started(self, trainer: TrainingState) -> None:
        """Show the bar."""
        from rich import progress
        columns = ("training", progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn(),
                   "{task.fields[loss]}")
        self.bar = progress.Progress(*columns, console=console(stderr=True), transient=True,
                                     redirect_stdout=sys.stdout.isatty())
        self.task = self.bar.add_task("", total=trainer.total, completed=trainer.step, loss="")
        if self.bar.console.is_terminal:
            self.bar.start()

    def stepped(self, trainer: TrainingState, loss: float) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=trainer.step + 1, loss=f"loss {loss:.4f}")

    def ended(self, trainer: TrainingState) -> None:
        """Take the bar away."""
        self.bar.stop()


def summary_writer(out: Path, purge_step: int | None) -> Any:
    """Return a writer into the folder `tensorboard` of a run, without what was written from a step on."""
    tensorboard = optional("torch.utils.tensorboard", "TensorBoard's files cannot be written", "plots")
    return tensorboard.SummaryWriter(str(out / "tensorboard"), purge_step=purge_step)


class TensorBoard(Watcher):
    """Write TensorBoard's files into the folder `tensorboard` of the run.

    They hold scalars and histograms of weights, filters of the first convolution and the account of each growth. Raises
    TrainError if TensorBoard is not installed or the run has no folder, ArchiveError if its files cannot be written.
    """

    def started(self, trainer: TrainingState) -> None:
        """Open the files; numbers behind the step that the run goes on from are dropped."""
        if trainer.out is None:
            raise TrainError("TensorBoard's files need a folder: give the run one with -o")
        with self._writing(trainer):
            self.writer = summary_writer(trainer.out, trainer.step + 1 if trainer.step else None)

    @contextlib.contextmanager
    def _writing(self, trainer: TrainingState) -> Iterator[None]:
        """Turn a failure to write into one sentence: the traceback of the writer's own thread says no more."""
        before = threading.excepthook

        def report_unless_disk(failed: threading.ExceptHookArgs) -> None:
            if not isinstance(failed.exc_value, OSError):
                before(failed)

        threading.excepthook = report_unless_disk
        try:
            yield
            self.writer.flush()  # and a run that goes on from this step's checkpoint finds its numbers there
        except OSError as error:
            raise ArchiveError(f"cannot write {str(trainer.out)!r}, folder tensorboard: {one_line(error)}") from error
        finally:
            threading.excepthook = before

    def evaluated(self, trainer: TrainingState, row: dict[str, Any]) -> None:
        """Write the row's numbers, and a histogram of each parameter."""
        with self._writing(trainer):
            metrics = {f"val_{m.name}": f"{m.name}/validation" for m in trainer.task.metrics}
            for name, tag in (TAGS | metrics).items():
                if row[name] is not None:
                    self.writer.add_scalar(tag, row[name], row["step"])
            for name, p in trainer.model.named_parameters():
                self.writer.add_histogram(name, p.detach().float().cpu(), row["step"])

    def grown(self, trainer: TrainingState, growth: dict[str, Any]) -> None:
        """Write the account of the growth, and the filters."""
        words = "\n".join(f"    {line}" for line in growth["explain"].splitlines())
        with self._writing(trainer):
            self.writer.add_text("growth", f"{growth['entry']}\n\n{words}", growth["step"])
            self._filters(trainer)

    def ended(self, trainer: TrainingState) -> None:
        """Write the last filters, and close the files."""
        with self._writing(trainer):
            self._filters(trainer)
        self.writer.close()

    def _filters(self, trainer: TrainingState) -> None:
        from fxgrow.visual import filter_grid, first_convolution
        name = first_convolution(trainer.model)
        if name is not None:
            weight = trainer.model.get_parameter(name).detach().cpu()
            last = trainer.grower.last
            new = None if last is None else last.record.new_mask(name, weight)
            self.writer.add_image(f"filters/{name}", filter_grid(weight, new), trainer.step, dataformats="HWC")
