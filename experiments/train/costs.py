"""The cost of training: FLOPs of a step and of an evaluation, and of a whole run before it starts."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.experiments.train.prepare import in_mode
from fxgrow.loops import Entry, LastGrowth, grow_by_entry, seed_for


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model has."""
    return sum(p.numel() for p in model.parameters())


def step_flops(model: nn.Module, batch: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Return the FLOPs of one step, forward and backward (none for frozen parameters), for inputs of this shape."""
    with in_mode(model, training=True):
        return fxgrow.count_flops(model, torch.zeros(batch, *shape, dtype=dtype)).total


def eval_flops(model: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> int:
    """Return the FLOPs of one sample in an evaluation."""
    with in_mode(model, training=False):
        return fxgrow.count_flops(model, torch.zeros(1, *shape, dtype=dtype)).forward


@dataclass
class Segment:
    """Steps `start` to `end` (without it) of one network: its parameters, and the FLOPs of one step."""
    start: int
    end: int
    parameters: int
    flops: int
    event: str = ""


@dataclass
class PlannedCost:
    """The cost of a run that is to come: its segments, and growths whose moment is not known beforehand."""
    segments: list[Segment]
    unknown: list[str]

    @property
    def flops(self) -> int:
        """Return the FLOPs of all segments."""
        return sum((s.end - s.start) * s.flops for s in self.segments)

    def to_json(self) -> dict[str, Any]:
        """Return the cost as plain data."""
        return {"flops": self.flops, "segments": [vars(s) for s in self.segments], "unknown": self.unknown}


def plan(model: GraphModule, inputs: Tensor, entries: Sequence[tuple[int, Entry]], per_epoch: int, total: int,
         batch: int, seed: int = 0, start: int = 0, last: LastGrowth | None = None) -> PlannedCost:
    """Grow a captured model on the CPU as the schedule says, and count each network on the way.

    `entries`: the growths still to come and their numbers, as they fall due; `start`: the step from which it counts; `last`:
    the growth before, which may have frozen something. A growth that cannot be done raises FxgrowError before the long work.
    """
    planned = PlannedCost([], [e.text for _, e in entries if e.at(per_epoch, total) is None])
    event = ""

    def count(start: int, end: int) -> None:
        if last is not None and start < min(end, last.thaws):
            with last.record.freeze_old(model):
                start = add(start, min(end, last.thaws))
        add(start, end)

    def add(start: int, end: int) -> int:
        if end > start:
            flops = step_flops(model, batch, inputs.shape[1:], inputs.dtype)
            planned.segments.append(Segment(start, end, count_parameters(model), flops, event))
        return end

    for number, entry in entries:
        at = entry.at(per_epoch, total)
        if at is None:
            continue
        count(start, at)
        try:
            growth = grow_by_entry(model, inputs, entry, seed_for(seed, number))
        except FxgrowError:
            if not planned.unknown:
                raise
            planned.unknown.append(entry.text)  # it may name layers that a growth makes whose moment is not known
        else:
            model, event = growth.grown.model, entry.text  # type: ignore[assignment]
            last = LastGrowth(growth.record, entry.options, at)
        start = at
    count(start, total)
    return planned
