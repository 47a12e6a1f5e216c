"""What growths have done to the rate and the decay: factors on what a scheduler, or a trainer's settings, say of a step."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Rates:
    """Changes to a schedule by the growths so far.

    scale, decay_scale: factors on the learning rate and on the weight decay (products of |theta_old| / |theta_new|).
    start: the step that the schedule counts from (restart); rewarm_from, rewarm_steps: a second warm-up.
    """
    scale: float = 1.0
    decay_scale: float = 1.0
    start: int = 0
    rewarm_from: int = 0
    rewarm_steps: int = 0

    def warmth(self, step: int) -> float:
        """Return how far the second warm-up has come at a step, from above 0 to 1."""
        return min(1.0, (step - self.rewarm_from + 1) / self.rewarm_steps) if self.rewarm_steps else 1.0


def after_growth(rates: Rates, options: Mapping[str, Any], step: int, ratio: float, warmup: int = 0) -> Rates:
    """Return the rates from a growth at `step` on, by the options of its entry.

    Args:
        ratio: |theta_old| / |theta_new|, the numbers of parameters.
        warmup: the steps that `lr=rewarm` takes where the entry does not say.
    """
    again = options["lr"] == "rewarm"
    return Rates(scale=rates.scale * (ratio if options["lr"] == "ratio" else 1.0),
                 decay_scale=rates.decay_scale * (ratio if options["decay"] == "ratio" else 1.0),
                 start=step if options["lr"] == "restart" else rates.start,
                 rewarm_from=step if again else rates.rewarm_from,
                 rewarm_steps=(options["rewarm"] or warmup) if again else rates.rewarm_steps)
