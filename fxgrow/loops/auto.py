"""`auto`: growth without a moment of its own, from what the training loss of the run says.

The mean training loss in each hundredth of the run is taken for a power law of the steps with a floor,

    L(s) = e + b (s0 + s) ** -beta,

fitted by least squares since the last growth (s0: what earlier steps are worth). The floor e is what this network cannot
learn. A network with r times the parameters, at g times the FLOPs a step, promises the same law over the floor
e' = e r ** -beta; it starts at the same loss. With -dL/ds = beta b ** (-1/beta) (L - e) ** (1 + 1/beta), it falls faster
for a FLOP, and it is time to grow, when

    ((L - e') / (L - e)) ** (1 + 1/beta) > g.

That size changes the floor, and neither scale nor exponent over the steps, and that the loss falls with size about as it
does with steps, is what J. Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022,
https://arxiv.org/abs/2203.15556, find (L = E + A / N ** 0.34 + B / D ** 0.28). No exponent is below theirs: over the few
steps of a run, a smaller one without a floor fits what a floor does.

The plateaus of early training look like floors (a language model that knows how often bytes come, and not yet what they
follow). So no law is believed while the loss is below the floor of the one that half of the steps gave.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

import numpy as np
from torch import Tensor

from fxgrow.common import quantity
from fxgrow.errors import FxgrowError
from fxgrow.loops.schedule import Entry

PARTS = 100      # of a run, each with its mean loss
FEWEST = 10      # means that a law is fitted to
EXPONENTS = np.geomspace(0.28, 2.0, 60)
EARLIER = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of the steps before a growth, that these are worth to the grown network


@dataclass(frozen=True)
class PowerLaw:
    """A loss over steps: floor + scale * steps ** -exponent."""
    floor: float
    scale: float
    exponent: float

    def slope(self, loss: float) -> float:
        """Return by how much the loss falls in a step, where it is `loss`."""
        rest = max(loss - self.floor, 0.0)
        return self.exponent * self.scale ** (-1 / self.exponent) * rest ** (1 + 1 / self.exponent) if self.scale else 0.0

    def promise(self, loss: float, flops: float, parameters: float) -> float:
        """Return by how much the loss of a network so many times as large falls for a FLOP, as a multiple of this one's."""
        rest, bigger = loss - self.floor, self.floor * parameters ** -self.exponent
        if not self.scale or rest <= 0:
            return inf if self.floor else 0.0
        return ((loss - bigger) / rest) ** (1 + 1 / self.exponent) / flops


def fit(steps: Sequence[float], losses: Sequence[float], before: float = 0.0) -> tuple[PowerLaw, float]:
    """Fit a law by least squares, its floor and scale no less than zero; return it, and the loss by it at the last step.

    Args:
        steps: since the last growth [n]. losses: the mean loss around each [n]. before: steps up to that growth.
    """
    y = np.asarray(losses, float)
    least, law, loss = inf, PowerLaw(0.0, 0.0, 1.0), 0.0
    for share in EARLIER if before else (0.0,):
        powers = (np.asarray(steps, float) + share * before) ** -EXPONENTS[:, None]  # [exponents, n]
        about = powers - powers.mean(1, keepdims=True)
        scale = (about @ (y - y.mean()) / (about ** 2).sum(1)).clip(0.0)
        floor = y.mean() - scale * powers.mean(1)
        scale = np.where(floor < 0, powers @ y / (powers ** 2).sum(1), scale)        # the best law without a floor
        fitted = floor.clip(0.0)[:, None] + scale[:, None] * powers
        errors = ((fitted - y) ** 2).sum(1)
        at = int(errors.argmin())
        if errors[at] < least:
            least, loss = float(errors[at]), float(fitted[at, -1])
            law = PowerLaw(max(float(floor[at]), 0.0), float(scale[at]), float(EXPONENTS[at]))
    return law, loss


@dataclass
class Ahead:
    """The next growth of a network: FLOPs of a step and parameters, without it and with it; or why there is none.

    chosen: which passes it is by, and why, where the schedule does not say.
    """
    flops: list[int] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)
    chosen: str = ""
    refused: str = ""

    @classmethod
    def tried(cls, grow: Callable[[], tuple[list[int], list[int], str]]) -> Ahead:
        """Return what a trial gives: FLOPs and parameters, without and with the growth, and what was chosen."""
        try:
            return cls(*grow())
        except FxgrowError as why:
            return cls(refused=str(why))


@dataclass
class Auto:
    """The course of a run with an `auto` entry; its fields, which are plain data, are what a checkpoint has to hold.

    Args:
        total: steps of the run. parameters: of the network that it began with.
        start: the step of the last growth.
        curve: since the last growth, for each part of the run the step behind it and the mean training loss in it.
        losses: of the steps since.
        ahead: of the network as it is, once it has been tried; why: what was decided last, in words.
    """
    total: int
    parameters: int
    start: int = 0
    curve: list[list[float]] = field(default_factory=list)
    losses: list[Tensor | float] = field(default_factory=list)
    ahead: Ahead | None = None
    why: str = ""

    def state(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(Auto(**{**vars(self), "losses": [float(x) for x in self.losses]}))

    @classmethod
    def of(cls, state: dict[str, Any]) -> Auto:
        """Return what gave this state."""
        return cls(**{**state, "ahead": state["ahead"] and Ahead(**state["ahead"])})

    def stepped(self, step: int, loss: Tensor | float, over_all: Callable[[float], float] = float) -> bool:
        """Take the loss of a step, and tell whether a part of the run is full: it is to be judged then.

        Args:
            step: how many steps there were. over_all: the mean of a number over all processes.
        """
        self.losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        if len(self.losses) < max(1, self.total // PARTS):
            return False
        middle = step - len(self.losses) / 2
        self.curve.append([middle, over_all(sum(float(x) for x in self.losses) / len(self.losses))])
        self.losses = []
        return len(self.curve) > 2 * FEWEST

    def due(self, entry: Entry, step: int, spent: int, try_out: Callable[[], Ahead]) -> bool:
        """Tell whether to grow, and set `why`.

        Args:
            step: how many steps there were. spent: FLOPs in them.
            try_out: tells what the growth would make of the network; called once for each network.
        """
        if step > entry.options["until"] * self.total:
            self.why = f"no growth in the last {1 - entry.options['until']:.0%} of the run (until)"
            return False
        self.ahead = self.ahead or try_out()
        stop = self._cap(entry, step, spent, self.ahead)
        if stop:
            self.why = f"no growth: {stop}"
            return False
        more = [b / a for a, b in (self.ahead.flops, self.ahead.parameters)]
        law, loss = self._law(self.curve)
        half = (self.start + self.curve[-1][0]) / 2
        thought = self._law([mean for mean in self.curve if mean[0] <= half])[0].floor
        if loss < thought:
            self.why = (f"the loss, {loss:.4g}, is below what half of the steps made the floor of this network, "
                        f"{thought:.4g}: it was a plateau")
            return False
        before, now = (law.promise(loss, *more) for law, loss in (self._law(self.curve[:-1]), (law, loss)))
        falls, worth = "is", "more"
        if now < inf:
            falls = f"falls by {law.slope(loss) / self.ahead.flops[0]:.3g} for a FLOP, and {law.floor:.4g} of it is"
            worth = f"{now:.2f} times as much"
        self.why = (f"the loss, {loss:.4g}, {falls} the floor of this network; one with {more[1]:.2f} times the "
                    f"parameters, at {more[0]:.2f} times the FLOPs a step, promises {worth} for a FLOP"
                    f"{self.ahead.chosen and '; '}{self.ahead.chosen}")
        return min(before, now) > 1  # one mean may be off

    def _law(self, curve: Sequence[Sequence[float]]) -> tuple[PowerLaw, float]:
        """Fit a law to a curve, without the first eighth of all steps, and return the loss by it at the end."""
        late = [(s, loss) for s, loss in curve if s >= curve[-1][0] / 8]
        return fit([s - self.start for s, _ in late], [loss for _, loss in late], self.start)

    def _cap(self, entry: Entry, step: int, spent: int, ahead: Ahead) -> str:
        """Return why the network may not grow any more, or nothing."""
        if ahead.refused:
            return ahead.refused
        most, budget = entry.options["max_size"] * self.parameters, entry.options["max_flops"]
        planned = spent + (self.total - step) * ahead.flops[1]
        if ahead.parameters[1] > most:
            return f"{ahead.parameters[1]:,} parameters would be more than {most:,.0f} (max_size)"
        if budget and planned > budget:
            return f"the run would take {quantity(planned, 'FLOP')}, more than {quantity(budget, 'FLOP')} (max_flops)"
        return ""

    def grown(self, step: int) -> None:
        """Begin anew with a grown network."""
        self.start, self.curve, self.losses, self.ahead = step, [], [], None
