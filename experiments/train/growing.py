"""The grower of a run: `fxgrow.Grower`, whose networks grow on the CPU and whose rates the settings say.

What lives here: what a trainer's growths differ in from those of any loop. What does not: the growths (fxgrow.loops).
"""
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fxgrow.experiments.train.costs import step_flops
from fxgrow.experiments.train.prepare import cpu_copy
from fxgrow.experiments.train.rates import warmup_steps
from fxgrow.experiments.train.state import TrainingState
from fxgrow.loops import CheckedGrowth, Entry, Grower


class RunGrower(Grower):
    """Grow what a trainer trains, before the first step too; the trainer sets the rates of each step itself, by `rates`.

    Args:
        run: a new one, with its model and optimizer.
        trained: what runs the model: itself, or what is around it.
        inputs: a batch that grown networks are compared on.
        place: brings a network to where it is trained.
    """

    def __init__(self, run: TrainingState, trained: nn.Module, inputs: Tensor, place: Callable[[nn.Module], Any]):
        super().__init__(trained, run.optimizer, run.config.grow, inputs, seed=run.config.seed,
                         steps_per_epoch=run.per_epoch, total_steps=run.total)
        self.rows, self.warmup, self.place = run.history.rows, warmup_steps(run.config, run.total), place
        self.form = run.batch, run.data.input_shape, inputs.dtype

    def check_entry(self, entry: Entry) -> None:
        """Take any entry: the trainer looks at them before it looks at the model."""

    def follow_rates(self) -> None:
        """Leave the rates of the optimizer alone."""

    def timed(self) -> list[int]:
        """Return the entries whose step this is; one that lies behind was not in the schedule then."""
        return [i for i in super().timed() if self._at(self.entries[i]) == self.done]

    def trial(self) -> nn.Module:
        """Return a copy of the network, for it grows on the CPU."""
        return cpu_copy(self.inner)  # type: ignore[arg-type]

    def cost(self, model: nn.Module) -> int:
        """Return the FLOPs of a step of the run."""
        return step_flops(model, *self.form)

    def grown(self, model: nn.Module, inputs: Any, entry: Entry, seed: int) -> CheckedGrowth:
        """Return the growth, done on the CPU, where it gives the same numbers whatever device trains."""
        done = super().grown(model.cpu(), inputs.cpu(), entry, seed)
        self.place(done.grown.model)
        return done
