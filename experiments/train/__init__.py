"""Training: settings, the trainer, growth while it trains, checkpoints.

What lives here: one run. What does not: data sets (data), plots (plots), searches (evolve).
"""
from typing import TYPE_CHECKING

from fxgrow.exports import lazy_exports

if TYPE_CHECKING:
    from fxgrow.experiments.train.checkpoint import CHECKPOINT_NAME, checkpoint_settings
    from fxgrow.experiments.train.config import TrainConfig
    from fxgrow.experiments.train.costs import PlannedCost, count_parameters, step_flops
    from fxgrow.experiments.train.history import History
    from fxgrow.experiments.train.prepare import (
        autocast,
        capture_classifier,
        device_of,
        insist_classes,
        make_optimizer,
        runnable,
    )
    from fxgrow.experiments.train.processes import Group, joined
    from fxgrow.experiments.train.rates import rate
    from fxgrow.experiments.train.sources import Run, load_run_data, load_run_model
    from fxgrow.experiments.train.stacked import fit_stacked
    from fxgrow.experiments.train.state import TrainingState, give_moments, moments_of
    from fxgrow.experiments.train.trainer import PROBE, Diverged, Interrupted, Trainer, finite_or_none
    from fxgrow.experiments.train.watch import Lines, Progress, Watcher, summary_writer

__getattr__, __dir__, __all__ = lazy_exports(__name__, {
    "checkpoint": "CHECKPOINT_NAME checkpoint_settings",
    "config": "TrainConfig",
    "costs": "PlannedCost count_parameters step_flops",
    "history": "History",
    "prepare": "autocast capture_classifier device_of insist_classes make_optimizer runnable",
    "processes": "Group joined",
    "rates": "rate",
    "sources": "Run load_run_data load_run_model",
    "stacked": "fit_stacked",
    "state": "TrainingState give_moments moments_of",
    "trainer": "Diverged Interrupted PROBE Trainer finite_or_none",
    "watch": "Lines Progress Watcher summary_writer",
})
