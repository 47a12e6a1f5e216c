"""What grow_into gives: numbers, the plan that led to them, and where each came from."""
from __future__ import annotations

import copy
import os
from collections import OrderedDict

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves
from fxgrow.common import atomic_write
from fxgrow.compare import Verification
from fxgrow.graph import as_call, uncached
from fxgrow.models import Told, can_be_folder, write_folder
from fxgrow.passes.into.plan import Plan
from fxgrow.record import GrowthRecord

RATE = 1e-2  # of a step of training: a step only has to be one


class GrownInto(OrderedDict):
    """A state_dict of the big model, and how it came about.

    model: a copy of the big model that has loaded these numbers. record: where each number came from. verification: the
    small model and this one (None: not asked for). source: the folder of the small model, if it is from one.
    """
    model: nn.Module
    _metadata: dict
    plan: Plan
    record: GrowthRecord
    verification: Verification | None
    source: str | None = None

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
        """Return how many new numbers of each parameter get no gradient in so many steps of SGD towards random targets.

        A copy trains on the example inputs in train mode (in eval mode, where that cannot run). A number that these inputs
        do not use (the row of a word that is not in them, a channel that a ReLU shuts) counts too.
        """
        (args, kwargs), generator = as_call(example_inputs), torch.Generator().manual_seed(0)
        targets: list[Tensor] = []
        with uncached(self.model):
            twin = copy.deepcopy(self.model).train()
            waiting = {n: self.record.new_mask(n, p) for n, p in twin.named_parameters()
                       if p.requires_grad and p.is_floating_point()}
            for _ in range(steps):
                try:
                    given = twin(*args, **kwargs)
                except Exception:  # a batch of one under batch norm
                    given = twin.eval()(*args, **kwargs)
                outputs = [t for t in tree_leaves(given) if isinstance(t, Tensor) and t.requires_grad]
                targets = targets or [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
                twin.zero_grad()
                sum(((o - t) ** 2).mean() for o, t in zip(outputs, targets)).backward()  # type: ignore[union-attr]
                with torch.no_grad():
                    for name, p in twin.named_parameters():
                        if p.grad is not None:
                            waiting[name] &= p.grad == 0
                            p -= RATE * p.grad
        return {n: int(left.sum()) for n, left in waiting.items() if left.any()}

    def save(self, path: str | os.PathLike) -> None:
        """Write the numbers as a plain state_dict: as torch.save does, or safetensors by the suffix of the path.

        A path without a suffix is a folder, for a model of transformers: what `from_pretrained` loads, with the tokenizer of
        the small model's, the record and the verification.
        """
        if can_be_folder(self.model, os.fspath(path)):
            checked = None if self.verification is None else self.verification.to_json()
            told = Told(self.source, self.record, checked, self.plan.to_json())
            write_folder(self.model, os.fspath(path), told)
            return
        plain = self.state_dict()
        plain.update((n, t.detach().cpu().contiguous()) for n, t in self.items())
        with atomic_write(path) as file:
            if os.fspath(path).endswith(".safetensors"):
                from safetensors.torch import save
                file.write(save({n: t.clone() for n, t in plain.items()}))
            else:
                torch.save(plain, file)
