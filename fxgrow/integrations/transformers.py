"""transformers' Trainer: a callback that grows the model, and the model of a checkpoint behind a growth.

    trainer = Trainer(rebuild(model, checkpoint), ..., callbacks=[Growth("step=100: deepen where=transformer.h")])
    trainer.train(resume_from_checkpoint=checkpoint)                   # None: from the start
"""
from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from fxgrow.errors import GrowthError, TrainError
from fxgrow.integrations.prepared import InPlaceGrower, build
from fxgrow.loops import PARTS, auto_in, parse_growth

STATE = "trainer_state.json"
AROUND = ("in many processes a model grows in DistributedDataParallel alone: leave fsdp and deepspeed out, or train in a "
          "loop of your own (docs/own-training.md)")


class Growth(TrainerCallback, ExportableState):
    """Grow the Trainer's model between two steps; optimizer, scheduler and accelerate's wrappers go on with it.

    A model of transformers stays of its class: its configuration grows. Any other module becomes its grown graph. The model
    stays the same object. The callback's state lies in the `trainer_state.json` of each checkpoint; `rebuild` reads it.

    Args:
        grow: entries of the schedule, as for `Grower`; `step=` counts the optimizer's, `plateau=` looks at `eval_loss`,
            `auto` and `slope=` at the logged `loss`.
        example_inputs: of the model; None: those of its first call (without labels).
        seed: of every growth.
    """

    def __init__(self, grow: str | Sequence[str], example_inputs: Any = None, *, seed: int = 0):
        self.grow = [grow] if isinstance(grow, str) else list(grow)
        self.inputs, self.seed = example_inputs, seed
        self.grower: InPlaceGrower | None = None
        self.saved: str | None = None
        self._logged: float | None = None
        self._looking: Any = None  # a hook, until it is known what is around the model

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Begin to watch the model and its optimizer, which hold what a checkpoint gave them."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise TrainError(AROUND)
        model, per_epoch = objects["model"], max(state.max_steps // max(state.num_train_epochs, 1), 1)
        most = max(1, state.max_steps // PARTS)
        if auto_in([parse_growth(text) for text in self.grow]) is not None and (
                args.logging_strategy != "steps" or state.logging_steps > most):
            raise TrainError("auto looks at the training loss in each hundredth of the run, which the Trainer tells where "
                             f"it logs: give it logging_strategy='steps' and logging_steps={most}")
        self.grower = _Grower(model, objects["optimizer"], self.grow, self.inputs, seed=self.seed,
                              steps_per_epoch=per_epoch, total_steps=state.max_steps)
        self._logged = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
        saved = self.saved or _saved(state.stateful_callbacks) if state.global_step else None
        if saved:
            try:
                self.grower.load_state_dict(_decoded(saved), rebuilt=True)
            except GrowthError as why:
                raise GrowthError(f"{why}; give the Trainer rebuild(model, checkpoint)") from why
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._looking = model.register_forward_pre_hook(self._look_around)

    def _look_around(self, model: nn.Module, args: tuple) -> None:
        """Let the grower know of the DistributedDataParallel around the model, which calls it."""
        around = DistributedDataParallel._get_active_ddp_module()
        if around is not None and self.grower is not None and self._looking is not None:
            self.grower.model = around
            self._looking.remove()
            self._looking = None

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Grow if a growth is due."""
        if self._looking is not None:
            raise TrainError(AROUND)
        if self.grower is None:
            return
        count = len(self.grower.fired)
        self.grower.step(state.global_step - 1, self._logged)
        if len(self.grower.fired) > count:  # the best checkpoint is loaded at the end: one of the grown network
            state.best_metric = state.best_model_checkpoint = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **objects: Any) -> None:
        """Remember the mean training loss since the last log."""
        self._logged = (logs or {}).get("loss", self._logged)

    def on_evaluate(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Tell of the validation loss."""
        loss = objects["metrics"].get("eval_loss")
        if self.grower is not None and self.grower.waits_for_losses and loss is not None:
            self.grower.evaluated(loss, self._logged)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of this: arguments to make it anew, and the state of its `Grower` as text."""
        saved = None if self.grower is None else _encoded(self.grower.state_dict())
        return {"args": {"grow": self.grow, "seed": self.seed}, "attributes": {"saved": saved}}


class _Grower(InPlaceGrower):
    def judged(self, loss: Any, spent: int) -> list[int]:
        """Return the `auto` entry if it is due; before the Trainer has logged a loss it is not."""
        return [] if loss is None else super().judged(loss, spent)


def rebuild(model: nn.Module, checkpoint: str | os.PathLike | None) -> nn.Module:
    """Return the model for a Trainer that goes on from a checkpoint: with its structure; the Trainer loads the numbers.

    Args:
        model: the small one. checkpoint: a folder `checkpoint-N`; None, or of before a growth: the model itself.

    Raises:
        TrainError: there is no such checkpoint.
    """
    if checkpoint is None:
        return model
    try:
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{checkpoint} is no checkpoint of a Trainer, or was not written whole ({error}): take the one "
                         "before it") from error
    saved = _saved(state.get("stateful_callbacks") or {})
    structure = _decoded(saved)["structure"] if saved else None
    return model if structure is None else build(model, structure).train(model.training)


def _saved(states: dict[str, Any]) -> str | None:
    found = states.get(Growth.__name__)
    found = found[-1] if isinstance(found, list) else found
    return found["attributes"]["saved"] if found else None


def _encoded(state: dict[str, Any]) -> str:
    file = io.BytesIO()
    torch.save(state, file)
    return base64.b64encode(file.getvalue()).decode()


def _decoded(text: str) -> dict[str, Any]:
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)
