"""Constants that a stock class fixes (a norm's eps, a scale): the factors of weights that make up for them."""
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.aten import NORMS
from fxgrow.common import Refusal
from fxgrow.identity import Val, factors, results
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Step


@dataclass
class Rescaling:
    """Factors of the big model's weights, by name."""
    logs: dict[str, float] = field(default_factory=dict)  # of a factor
    eps: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # of a batch norm: its variance, both models' eps

    def rescaled(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the big model, which hold what the small one has, times their factors."""
        found = {}
        for name, value in tensors.items():
            if name in self.logs:
                value = value * math.exp(self.logs[name])
            if name in self.eps:
                variance, ours, theirs = self.eps[name]
                value = value * ((tensors[variance] + theirs) / (tensors[variance] + ours)).sqrt()
            found[name] = value
        return found


def absorb_constants(pairing: Pairing, grown: GraphModule | None, steps: list[Step]) -> Rescaling:
    """Return, per parameter, the factor that absorbs a constant the stock class fixes, such as a norm's eps.

    grown: the small model with its classes widened, which may have changed its constants (None: none is).
    """
    found = Rescaling()
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
    if changes:
        found.logs = _factors(pairing, changes, steps)
    return found


def _factors(pairing: Pairing, changes: dict[Val, float], steps: list[Step]) -> dict[str, float]:
    """Return the logarithms of weights' factors that undo the changes of all constants."""
    trace = pairing.big.trace
    ops = [w for node in pairing.match.nodes.values() for w in trace.made.get(node.name, ())]
    same = [(trace.gives[e.gives.name], trace.gives[e.takes.name]) for e in pairing.match.extras if e.takes is not None]
    output = next(iter(pairing.big.gm.graph.find_nodes(op="output")))
    try:
        logs = factors(trace, ops, same, results(trace, output), lambda w: changes.get(w, 0.0))
    except Refusal as why:
        steps.append(Step("rescale", ", ".join(dict.fromkeys(w.place for w in changes)), method="not possible",
                          note=f"constants of the class differ, and weights cannot make up for them: {why}"))
        return {}
    some = ", ".join(list(logs)[:3]) + (f" and {len(logs) - 3} more" if len(logs) > 3 else "")
    steps.append(Step("rescale", some, method="fold", note=f"{len(changes)} constants of the class (eps, a scale) differ; "
                      "these weights make up for them"))
    return logs


def _eps(v: Val) -> float:
    eps = v.arg(NORMS[v.name][3])
    return float(torch.finfo(v.tensor.dtype).eps if eps is None else eps)


def _ratio(ours: Val, theirs: Val) -> float:
    """Return the constant of the big model's op over that of the small one's (1 where there is none, or they agree)."""
    if ours.name in NORMS:
        return _eps(theirs) / _eps(ours)
    a, b = ours.arg(1), theirs.arg(1)
    if ours.name not in ("mul", "div", "add") or not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return 1.0
    return b / a if a and b else 1.0
