"""Two models that are matched: which op and which tensor of the big one is which of the small one."""
from collections.abc import Iterator
from typing import Any

from torch.fx import GraphModule, Node

from fxgrow.aten import CONTRACTIONS, NORMS
from fxgrow.blocks import Extra, Side, gains_bias, match
from fxgrow.errors import GrowthError
from fxgrow.graph import tensors_of
from fxgrow.identity import Trace, Val


class Pairing:
    """The small and the big model, captured, and their match.

    names: for each tensor of the big model that has one, its counterpart in the small one.
    """

    def __init__(self, small: GraphModule, big: GraphModule, place: str):
        self.small, self.big = Side(small), Side(big)
        self.match = match(self.small, self.big, place)
        self.extras = sorted(self.match.extras, key=lambda e: e.span)
        self.names = self._names()
        self.beginnings: list[tuple[Any, Extra, Any]] = []  # how new blocks start: what is alike, the first one, its numbers

    def ops(self, widened: GraphModule | None = None) -> Iterator[tuple[Val, Val]]:
        """Yield each op of the small model, as it is where that is `widened`, with its counterpart in the big one."""
        small, big = self.small.trace.made, self.big.trace.made
        made = small if widened is None else Trace.of(widened).made
        for one, two in self.match.nodes.items():
            ours, theirs = made.get(one.name, []), big.get(two.name, [])
            if [v.name for v in ours] != [w.name for w in theirs]:
                ours = small.get(one.name, [])  # a layer rewritten with its constants as they were
            yield from zip(ours, theirs)

    def _names(self) -> dict[str, str]:
        ours, theirs = _first_names(self.small.gm), _first_names(self.big.gm)
        found: dict[str, str] = {}
        for one, two in self.match.nodes.items():
            for x, y in self._tensors(one, two):
                if x not in ours or y not in theirs:  # a flag (`bn.training`)
                    continue
                x, y = ours[x], theirs[y]
                if found.setdefault(y, x) != x:
                    raise GrowthError(f"the big model uses {y} where the small one has both {found[y]} and {x}")
        return found

    def _tensors(self, one: Node, two: Node) -> Iterator[tuple[str, str]]:
        """Yield the tensors that two nodes read, by name or in the layer that they call."""
        yield from zip(self.small.reads(one), self.big.reads(two))
        if one.op == "call_module":
            for name in tensors_of(self.small.gm.get_submodule(str(one.target))):
                yield f"{one.target}.{name}", f"{two.target}.{name}"

    def neutral(self) -> dict[str, float]:
        """Return the tensors of the big model's layers that the small one's lack, with the number that changes nothing."""
        found: dict[str, float] = {}
        for v, w in self.ops():
            numbers: dict[Any, float]  # by place among the arguments (None: there is none)
            if w.name in CONTRACTIONS:
                numbers = {CONTRACTIONS[w.name][1]: 0.0}
            else:
                numbers = dict(zip(NORMS.get(w.name, ())[:2], (1.0, 0.0)))
            for position, number in numbers.items():
                lacks = position is not None and position < len(w.of) and v.of[position] is None
                theirs = w.of[position] if lacks else None
                if theirs is not None and theirs.source is not None:
                    found[theirs.source] = number
        for one, two in self.match.nodes.items():
            made = self.small.trace.made.get(one.name, []), self.big.trace.made.get(two.name, [])
            bias = next((w.of[0] for w in made[1] if w.name == "addmm"), None) if gains_bias(*made) else None
            if bias is not None and bias.source is not None:
                found[bias.source] = 0.0
        return found


def _first_names(gm: GraphModule) -> dict[str, str]:
    """Return, for each name of a tensor, the first one that it has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors_of(gm).items()}
