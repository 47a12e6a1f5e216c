"""Constants that a stock class fixes (a norm's eps, a scale): the factors of weights that make up for them."""
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.aten import NORMS
from fxgrow.common import Refusal
from fxgrow.graph import tensors_of
from fxgrow.identity import Val, factors, results
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Step

ROUNDING = 1e-6  # of constants that were computed in single precision


@dataclass
class Rescaling:
    """Factors of the big model's weights, by name."""
    logs: dict[str, tuple[float, float]] = field(default_factory=dict)  # of a factor, on the sum of the weight and a number
    eps: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # of a batch norm: its variance, both models' eps

    def of(self, name: str) -> tuple[float, float]:
        """Return what a tensor is scaled by, and what is added behind."""
        log, number = self.logs.get(name, (0.0, 0.0))
        return math.exp(log), math.expm1(log) * number

    def rescaled(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the big model, which hold what the small one has, times their factors."""
        found = {}
        for name, value in tensors.items():
            scale, shift = self.of(name)
            if scale != 1:
                value = value * scale + shift if shift else value * scale
            if name in self.eps:
                variance, ours, theirs = self.eps[name]
                value = value * ((tensors[variance] + theirs) / (tensors[variance] + ours)).sqrt()
            found[name] = value
        return found


def absorb_constants(pairing: Pairing, grown: GraphModule | None, constants: Mapping[str, Tensor],
                     steps: list[Step]) -> Rescaling:
    """Return, per parameter, the factor that absorbs a constant the stock class fixes, such as a norm's eps.

    grown: the small model with its classes widened, which may have changed its constants (None: none is).
    constants: the big model's tensors that no state_dict holds; such as follow from sizes are made up for.
    """
    found, held = Rescaling(), _multiples(pairing, grown, constants)
    changes: dict[Val, float] = {}  # by op of the big model: the logarithm of the factor that its constant makes
    for ours, theirs in pairing.ops(grown):
        ratio = _ratio(ours, theirs)
        if ratio == 1 or theirs.at:
            continue
        if theirs.name != "native_batch_norm":
            changes[theirs] = math.log(ratio) / (2 if theirs.name in NORMS else 1)
            continue
        weight, variance = theirs.of[1], theirs.of[4]
        if weight is not None and variance is not None and weight.source:
            found.eps[weight.source] = variance.source or "", _eps(ours), _eps(theirs)
    if changes or any(held.values()):
        found.logs = _factors(pairing, changes, held, steps)
    return found


def _multiples(pairing: Pairing, grown: GraphModule | None, constants: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the logarithm of the big model's constant over the small one's, of each that follows from a size that grew.

    It is then a multiple by a size, or by its root; any other constant is a choice, in which two models must agree.
    """
    before = tensors_of(pairing.small.gm)
    found, tensors = {}, before if grown is None else tensors_of(grown)
    grew = {math.log(m / n) for name, t in before.items() if name in tensors for n, m in zip(t.shape, tensors[name].shape)}
    follow = [0.0, *(power * log for log in grew for power in (-1, -0.5, 0.5, 1))]
    for name in constants.keys() & pairing.names.keys():
        ours, theirs = (t.detach().double() for t in (tensors[pairing.names[name]], constants[name]))
        at = ours.abs().argmax() if ours.numel() and not ours.is_meta and not theirs.is_meta else None
        if at is None or ours.shape != theirs.shape or not constants[name].is_floating_point():
            continue
        ratio = float(theirs.flatten()[at] / ours.flatten()[at])
        eps = torch.finfo(constants[name].dtype).eps
        alike = 0 < ratio < math.inf and torch.allclose(theirs, ours * ratio, rtol=8 * eps, atol=0.0)
        if alike and any(abs(math.log(ratio) - log) < ROUNDING for log in follow):
            found[name] = math.log(ratio) if abs(ratio - 1) > 8 * eps else 0.0
    return found


def _factors(pairing: Pairing, changes: dict[Val, float], held: dict[str, float],
             steps: list[Step]) -> dict[str, tuple[float, float]]:
    """Return the logarithms of weights' factors that undo the changes of all constants."""
    trace = pairing.big.trace
    ops = [w for node in pairing.match.nodes.values() for w in trace.made.get(node.name, ())]
    same = [(trace.gives[e.gives.name], trace.gives[e.takes.name]) for e in pairing.match.extras if e.takes is not None]
    output = next(iter(pairing.big.gm.graph.find_nodes(op="output")))
    try:
        logs = factors(trace, ops, same, results(trace, output), lambda w: changes.get(w, 0.0), held)
    except Refusal as why:
        places = [*dict.fromkeys(w.place for w in changes), *(name for name, log in held.items() if log)]
        steps.append(Step("rescale", ", ".join(places), method="not possible",
                          note=f"constants of the class differ, and weights cannot make up for them: {why}"))
        return {}
    some = ", ".join(list(logs)[:3]) + (f" and {len(logs) - 3} more" if len(logs) > 3 else "")
    count = len(changes) + sum(map(bool, held.values()))
    steps.append(Step("rescale", some, method="fold", note=f"{count} constants of the class (eps, a scale) differ; "
                      "these weights make up for them"))
    return logs


def _eps(v: Val) -> float:
    eps = v.arg(NORMS[v.name][3])
    return float(torch.finfo(v.tensor.dtype).eps if eps is None else eps)


def _ratio(ours: Val, theirs: Val) -> float:
    """Return the constant of the big model's op over that of the small one's (1 where there is none, or they agree)."""
    if ours.name in NORMS:
        return _eps(theirs) / _eps(ours)
    if ours.name == "baddbmm":
        return theirs.alpha / ours.alpha if ours.alpha and theirs.alpha else 1.0
    a, b = ours.arg(1), theirs.arg(1)
    if ours.name not in ("mul", "div", "add") or not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return 1.0
    return b / a if a and b else 1.0
