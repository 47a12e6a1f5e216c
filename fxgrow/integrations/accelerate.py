"""accelerate: a `Grower` over what `Accelerator.prepare` gave back.

    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    grower = prepared_grower(accelerator, model, optimizer, "step=100: widen factor=2")
    ...
    grower.step(step, loss)                       # behind optimizer.step(); the model stays the same object
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from fxgrow.integrations.prepared import InPlaceGrower

FILE = "fxgrow.pt"


def prepared_grower(accelerator: Accelerator, model: nn.Module, optimizer: Any, grow: str | Sequence[str],
                    example_inputs: Any = None, **settings: Any) -> InPlaceGrower:
    """Return a `Grower` for prepared objects, whose state `save_state` writes and `load_state` reads.

    The model stays the same object, also inside DistributedDataParallel, and a model of transformers stays of its class.
    `load_state` over freshly prepared small objects makes them those of the checkpoint.

    Args:
        model, optimizer: as `accelerator.prepare` gave them. grow, example_inputs, settings: as for `Grower`.

    Raises:
        TrainError, GrowthError: as `Grower` does.
    """
    grower = InPlaceGrower(model, optimizer, grow, example_inputs, **settings)

    def save(models: list, weights: list, folder: str) -> None:
        if accelerator.is_main_process:
            torch.save(grower.state_dict(), Path(folder) / FILE)

    def load(models: list, folder: str) -> None:
        grower.load_state_dict(torch.load(Path(folder) / FILE, weights_only=True, map_location="cpu"))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
    return grower
