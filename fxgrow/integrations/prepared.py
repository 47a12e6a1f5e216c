"""Growers for frameworks that hold on to the model as an object: the grown one takes its place.

What lives here: what transformers' Trainer and accelerate share. What does not: their callbacks and hooks.
"""
from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

from torch import nn

from fxgrow.errors import GrowthError
from fxgrow.loops import CheckedGrowth, Entry, Grower, grow_by_entry, unpack
from fxgrow.models import fresh
from fxgrow.passes.into import put_back
from fxgrow.record import Grown

PATCHES = {"forward", "_original_forward"}  # what accelerate puts on a model, for its autocast
PREPARED = "_is_accelerate_prepared"


def is_stock(model: nn.Module) -> bool:
    """Tell whether a model is made from a configuration, and is saved with it."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained")


class InPlaceGrower(Grower):
    """A `Grower` whose model stays the same object; a model of transformers also stays of its class."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, in_place=True, **settings)

    def grown(self, model: nn.Module, inputs: Any, entry: Entry, seed: int) -> CheckedGrowth:
        """Return the growth, of a model with a configuration as one of its class with another configuration.

        Raises:
            GrowthError: no configuration has the grown shapes; says why.
        """
        with _own_forward(model):
            if not is_stock(model):
                return grow_by_entry(model, inputs, entry, seed)
            inputs = _asked_for(model, inputs)
            done = grow_by_entry(model, inputs, entry, seed)
            try:
                stock = put_back(done.grown, model, inputs)
            except GrowthError as why:
                raise GrowthError(f"growth {entry.text!r}: the grown network is no {type(model).__name__} any more, which "
                                  f"goes on training here ({why}): grow all layers alike, or train it in a loop of your own "
                                  "(docs/own-training.md)") from why
        new = stock.model.to(next(model.parameters()).device)
        return CheckedGrowth(Grown(new, stock.record, done.grown.outcomes, done.grown.example_inputs), done.checked,
                             done.inexact)

    def _put(self, new: nn.Module) -> None:
        patched, checkpoints = not PATCHES.isdisjoint(vars(self.inner)), _checkpoints(self.inner)
        super()._put(new)
        if checkpoints is not None and is_stock(self.inner):
            self.inner._set_gradient_checkpointing(True, checkpoints)  # type: ignore[operator]
            if getattr(self.inner, "_require_grads_hooks", None):  # handles of hooks on an embedding that is gone
                self.inner.enable_input_require_grads()  # type: ignore[operator]
        if patched and PATCHES.isdisjoint(vars(self.inner)):
            from accelerate import Accelerator
            vars(self.inner).pop(PREPARED, None)  # else nothing would be put on
            Accelerator().prepare_model(self.inner, device_placement=False, evaluation_mode=True)
            setattr(self.inner, PREPARED, True)

    def structure(self) -> Any:
        """Return the configuration of a model that has one, else what any grown model is made again of."""
        return self.inner.config.to_json_string(use_diff=False) if is_stock(self.inner) else super().structure()

    def built(self, structure: Any) -> nn.Module:
        """Return the model of a structure, without its numbers."""
        return build(self.inner, structure)


def build(model: nn.Module, structure: Any) -> nn.Module:
    """Return a model like `model` with the structure of an `InPlaceGrower`, without its numbers."""
    if not isinstance(structure, str):
        return unpack(structure, model)
    return fresh(type(model), type(model.config).from_dict(json.loads(structure)), model)  # type: ignore[union-attr, operator]


def _checkpoints(model: nn.Module) -> Any:
    """Return the function by which layers of a model of transformers keep no activations, None if they keep them."""
    return next((vars(m).get("_gradient_checkpointing_func") for m in model.modules()
                 if getattr(m, "gradient_checkpointing", False)), None)


@contextlib.contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Take off for a while what accelerate has put around the forward."""
    kept = {name: vars(model).pop(name) for name in PATCHES if name in vars(model)}
    try:
        yield
    finally:
        vars(model).update(kept)


def _asked_for(model: nn.Module, inputs: Any) -> Any:
    """Return inputs without targets, which a model of transformers makes a loss of."""
    if not isinstance(inputs, dict):
        return inputs
    from transformers.utils import find_labels
    named = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in named and name not in find_labels(type(model))}
