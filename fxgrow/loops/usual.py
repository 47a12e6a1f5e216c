"""What a network grows by where no passes are said: what its graph shows."""
from dataclasses import dataclass

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.graph import Captured
from fxgrow.identity import Trace
from fxgrow.passes import Deepen, Widen
from fxgrow.passes.support import Stages


@dataclass
class Usual(PassBase):
    """Puts a block behind each of those that stand in a row, by netmorph; makes a network without such blocks twice as wide.

    Blocks in a row are those of numbered lists that can be the identity. Both ways keep what the network computes; which is
    taken, and why, stands in the record's lineage as `chosen`.

    Args:
        seed: of every random choice; None takes one from torch's global generator.
    """
    seed: int | None = None

    def call(self, graph_module: GraphModule) -> PassResult:
        """Deepen or widen."""
        blocks = [block for run in Stages(graph_module, Trace.of(graph_module)).below("") for block in run]
        if blocks:
            grown = Deepen(blocks, method="netmorph", seed=self.seed)(graph_module)
            named = " to ".join(dict.fromkeys((blocks[0], blocks[-1])))
            chosen = f"deeper by netmorph, as there are blocks that can stand in a row ({named})"
        else:
            grown = Widen(factor=2, seed=self.seed)(graph_module)
            chosen = "twice as wide by r2r, as there are no blocks that could stand in a row"
        Captured(grown.graph_module).record.lineage[-1]["chosen"] = chosen
        return grown
