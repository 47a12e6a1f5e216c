"""GrowInto: `grow_into` as a pass, so that a network can become a bigger one of a stock class in the middle of training."""
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.graph import Captured, clone_structure
from fxgrow.models import load_model
from fxgrow.passes.into.growing import grow_into
from fxgrow.passes.support import seed_of
from fxgrow.record import Outcome, keep_growth
from fxgrow.tracing import capture


@dataclass
class GrowInto(PassBase):
    """Makes a network into a bigger one of a stock class, which starts by computing the same.

    Args:
        model: the bigger one: `zoo:NAME`, `torchvision:NAME`, `timm:NAME`, `package.module:factory` or a file; it takes the
            same inputs and gives as many outputs.
        method: r2r (pairs that cancel), net2net (copies) or netmorph (zeros). None: r2r; of 16-bit numbers net2net.
        place: where in a stage new blocks stand.
        seed: of the bigger one's own numbers and of every random choice; None takes one from torch's global generator.
    """
    model: str
    _: KW_ONLY
    method: Literal["r2r", "net2net", "netmorph"] | None = None
    place: Literal["end", "spread", "interleave"] = "end"
    seed: int | None = None

    def call(self, graph_module: GraphModule) -> PassResult:
        """Return the bigger network with numbers by which it computes what this one does."""
        seed, inputs = seed_of(self.seed), Captured(graph_module).inputs
        big, _ = load_model(self.model, seed=seed, need_inputs=False)
        small = clone_structure(graph_module)
        Captured(small).drop_growth()  # what was grown before is put in front of this growth below
        found = grow_into(small, big.train(graph_module.training), inputs, method=self.method, place=self.place, check=False,
                          seed=seed)
        grown = capture(found.model, inputs)
        method = found.record.lineage[-1]["method"]
        step = {"pass": "into", "where": [], "model": self.model, "method": method, "place": self.place, "seed": seed}
        outcomes = []
        for s in found.plan.steps:
            before, after = (s.before, s.after) if s.kind == "widen" else (0, 0)
            why = f"{s.kind}: {s.note}" if s.note else s.kind
            outcomes.append(Outcome(s.name, before, after, [], s.method or s.kind, why))
        keep_growth(graph_module, grown, replace(found.record, lineage=[step], certificate=[], origin={}), outcomes)
        return PassResult(grown, True)
