"""Schedulers of the small model's optimizer, for the grown one's: the same rates go on."""
import copy
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fxgrow.errors import GrowthError
from fxgrow.record.matching import Entries


class _Tracking(LRScheduler):
    """Lets an optimizer tell schedulers that it has stepped, as the first scheduler made over it does; sets no rate."""

    def _initial_step(self) -> None:
        pass


def migrate_scheduler(record: Entries, scheduler: Any, optimizer: Optimizer) -> Any:
    """Return a copy of a scheduler that goes on over the grown model's optimizer as it would have over the small one's.

    Any scheduler of torch's, those that hold others included, and any other that can be copied. (Making one anew and loading
    the state of the old one is not enough: making it applies its first step to the rates.)

    Args:
        scheduler: of the optimizer that trained the small model. Both are left as they are.
        optimizer: what `migrate_optimizer` returned.

    Raises:
        GrowthError: the optimizer is not what the scheduler's became, or the scheduler cannot be copied.
    """
    old = getattr(scheduler, "optimizer", None)
    if not isinstance(old, Optimizer):
        held = next((f".{n}" for n, v in getattr(scheduler, "__dict__", {}).items()
                     if isinstance(getattr(v, "optimizer", None), Optimizer)), "")
        advice = f"is around another scheduler: give that one, its {held}" if held else \
            "does not say by .optimizer which rates it sets: give one that does"
        raise GrowthError(f"a {type(scheduler).__name__} {advice}")
    if old is optimizer or _rates(old) != _rates(optimizer):
        raise GrowthError("the optimizer is not what the scheduler's own became: give what migrate_optimizer has returned "
                          "for that, and change rates afterwards")
    try:
        new = copy.deepcopy(scheduler, {id(old): optimizer})
    except Exception as error:
        raise GrowthError(f"the {type(scheduler).__name__} cannot be copied: {error}; make one for the grown model's "
                          "optimizer yourself") from error
    _Tracking(optimizer)
    optimizer._opt_called = getattr(old, "_opt_called", False)  # type: ignore[attr-defined]
    return new


def _rates(optimizer: Optimizer) -> list[float]:
    return [float(group.get("lr", 0)) for group in optimizer.param_groups]
