"""What grow_into gives: numbers, the plan that led to them, and where each came from."""
from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from fxgrow._atomic import atomic_write
from fxgrow._capture import as_tuple, uncached
from fxgrow._match import Match
from fxgrow._record import GrowthRecord
from fxgrow._verify import Verification


@dataclass
class Step:
    """One step of a plan: `kernel`, `widen`, `deepen` or `rescale`; what it is about, from what to what, and how."""
    kind: str
    name: str
    before: Any = None
    after: Any = None
    method: str = ""
    note: str = ""


class GrownInto(OrderedDict):
    """A state_dict of the big model, and how it came about.

    model: a copy of the big model with these numbers. record: where each number came from. verification: the small model
    and this one on the example inputs (None: not asked for). exact: whether every step preserves the function.
    """
    model: nn.Module
    _metadata: dict
    plan: Plan
    record: GrowthRecord
    verification: Verification | None

    @classmethod
    def of(cls, model: nn.Module) -> GrownInto:
        """The numbers of a model, with the versions of its classes that `load_state_dict` may ask for."""
        state = model.state_dict()
        found = cls(state)
        found.model, found._metadata = model, state._metadata  # type: ignore[attr-defined]
        return found

    def __reduce__(self):
        return OrderedDict, (), {"_metadata": self._metadata}, None, iter(self.items())

    def state_dict(self) -> OrderedDict:
        """The numbers alone, as a plain dictionary."""
        plain = OrderedDict(self)
        plain._metadata = self._metadata  # type: ignore[attr-defined]
        return plain

    def explain(self) -> str:
        """The steps as a table: what was done, how, and why it is exact."""
        return self.plan.explain()

    def unreached(self, example_inputs, steps: int = 2) -> dict[str, int]:
        """How many new numbers of each parameter get no gradient in so many steps of training on the example inputs."""
        from fxgrow.passes.reach import unreached
        with uncached(self.model):
            return unreached(self.model, as_tuple(example_inputs), self.record, steps)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the numbers as a plain state_dict: as torch.save does, or safetensors by the suffix of the path."""
        plain = self.state_dict()
        plain.update((n, t.detach().cpu().contiguous()) for n, t in self.items())
        with atomic_write(path) as file:
            if os.fspath(path).endswith(".safetensors"):
                from safetensors.torch import save
                file.write(save({n: t.clone() for n, t in plain.items()}))
            else:
                torch.save(plain, file)


@dataclass
class Plan:
    """What it takes to make one model of the other, step by step."""
    steps: list[Step]
    match: Match
    names: dict[str, str]  # of the big model's tensors: that of the small model's
    approximate: list[str]

    def to_json(self) -> list[dict]:
        return [asdict(s) for s in self.steps]

    def table(self):
        from rich.table import Table
        table = Table(title="From the small model to the big one")
        for column in ("step", "layer or class", "from", "to", "method", "why it is exact"):
            table.add_column(column, overflow="fold")
        for s in self.steps:
            table.add_row(s.kind, s.name, *("" if v is None else str(v) for v in (s.before, s.after)), s.method, s.note)
        return table

    def explain(self) -> str:
        from fxgrow._classes import render
        return render(self.table())
