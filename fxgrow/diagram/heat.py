"""Colours by cost: the share of a model's FLOPs, parameters or activation memory that each box has."""
from operator import attrgetter

from torch import nn
from torch.fx import GraphModule, Node

from fxgrow.cost import count_flops
from fxgrow.diagram.parts import Box, Diagram
from fxgrow.errors import DrawError
from fxgrow.graph import Captured

WORDS = {"flops": "FLOPs, forward and backward", "params": "parameters", "memory": "bytes of activations"}
# Viridis (S. van der Walt and N. Smith, 2015) at tenths, from nothing to the largest share
VIRIDIS = ("#440154", "#482475", "#414487", "#355F8D", "#2A788E", "#21918C", "#22A884", "#44BF70", "#7AD151", "#BDDF26",
           "#FDE725")
NOTHING = "#F4F4F4"


class Heat:
    """Share of each box in a cost of the whole (`what`: a key of WORDS), by its key; `top` is the largest."""

    def __init__(self, gm: GraphModule, diagram: Diagram, what: str):
        check_heat(what)
        self.what = what
        costs = _parameters(gm, diagram) if what == "params" else _counted(gm, diagram, what)
        total = sum(costs.values())
        self.shares = {key: cost / total if total else 0.0 for key, cost in costs.items()}
        self.top = max(self.shares.values(), default=0.0)

    def colour(self, box: Box) -> str:
        """Return the colour of a box: pale where there is no cost."""
        return VIRIDIS[round(10 * self.shares[box.key] / self.top)] if self.shares[box.key] else NOTHING

    def ink(self, box: Box) -> str:
        """Return the colour of letters that stand out on it."""
        return "white" if self.colour(box) in VIRIDIS[:6] else "black"


def check_heat(what: str) -> None:
    """Raise DrawError where there is no such cost."""
    if what not in WORDS:
        raise DrawError(f"heat {what!r}: choose one of {', '.join(WORDS)}")


def _parameters(gm: GraphModule, diagram: Diagram) -> dict[str, int]:
    """Count the parameters that each box holds; one that several read is counted in the first."""
    seen: set[int] = set()
    counts = {}
    for box in diagram.root.boxes():
        mine = {id(p): p for node in diagram.all_nodes(box) for p in _held(gm, node) if id(p) not in seen}
        seen.update(mine)
        counts[box.key] = sum(p.numel() for p in mine.values())
    return counts


def _held(gm: GraphModule, node: Node) -> list[nn.Parameter]:
    """Return the parameters of the layer that a node calls, and those that it reads by way of what is not drawn."""
    own = list(gm.get_submodule(str(node.target)).parameters()) if node.op == "call_module" else []
    read = [attrgetter(str(n.target))(gm) for n in node.all_input_nodes if n.op == "get_attr"]
    return own + [value for value in read if isinstance(value, nn.Parameter)]


def _counted(gm: GraphModule, diagram: Diagram, what: str) -> dict[str, int]:
    """Count FLOPs of training, or bytes of activations, of each box."""
    costs = {name: cost.total if what == "flops" else cost.activation_bytes
             for name, cost in count_flops(gm, Captured(gm).inputs).by_node().items()}
    return {box.key: sum(costs.get(n.name, 0) for n in diagram.all_nodes(box)) for box in diagram.root.boxes()}
