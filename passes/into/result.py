"""What grow_into gives: numbers, the plan that led to them, and where each came from."""
from __future__ import annotations

import os
from collections import OrderedDict

import torch
from torch import nn

from fxgrow.common import atomic_write
from fxgrow.compare import Verification
from fxgrow.graph import as_tuple, uncached
from fxgrow.passes.into.plan import Plan
from fxgrow.record import GrowthRecord


class GrownInto(OrderedDict):
    """A state_dict of the big model, and how it came about.

    model: a copy of the big model that has loaded these numbers. record: where each number came from. verification: the
    small model and this one (None: not asked for). exact: whether every step preserves the function.
    """
    model: nn.Module
    _metadata: dict
    plan: Plan
    record: GrowthRecord
    verification: Verification | None

    @classmethod
    def of(cls, model: nn.Module) -> GrownInto:
        """Return the numbers of a model, with the versions of its classes that `load_state_dict` may ask for."""
        state = model.state_dict()
        found = cls(state)
        found.model, found._metadata = model, state._metadata  # type: ignore[attr-defined]
        return found

    def __reduce__(self):
        return OrderedDict, (), {"_metadata": self._metadata}, None, iter(self.items())

    def state_dict(self) -> OrderedDict:
        """Return the numbers alone, as a plain dictionary."""
        plain = OrderedDict(self)
        plain._metadata = self._metadata  # type: ignore[attr-defined]
        return plain

    def explain(self) -> str:
        """Return the steps as a table: what was done, how, and why it is exact."""
        return self.plan.explain()

    def unreached(self, example_inputs, steps: int = 2) -> dict[str, int]:
        """Return how many new numbers of each parameter no gradient reaches in so many steps on the example inputs."""
        from fxgrow.passes.into.reach import unreached
        with uncached(self.model):
            return unreached(self.model, as_tuple(example_inputs), self.record, steps)

    def save(self, path: str | os.PathLike) -> None:
        """Write the numbers as a plain state_dict: as torch.save does, or safetensors by the suffix of the path."""
        plain = self.state_dict()
        plain.update((n, t.detach().cpu().contiguous()) for n, t in self.items())
        with atomic_write(path) as file:
            if os.fspath(path).endswith(".safetensors"):
                from safetensors.torch import save
                file.write(save({n: t.clone() for n, t in plain.items()}))
            else:
                torch.save(plain, file)
