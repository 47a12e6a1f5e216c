"""Branch: one layer into parallel ones, and new branches whose use starts at zero (Szegedy 2015; Cai 2018; R2R)."""
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.aten import ConvNd
from fxgrow.errors import CaptureError, GrowthError, SelectionError
from fxgrow.graph import Call, Captured, calls, computes
from fxgrow.growth import Edit, Part, insist_done, outermost
from fxgrow.passes import support
from fxgrow.passes.widen import Widen
from fxgrow.record import GrowthRecord, Outcome, ParameterRecord

SUM = {"r2r": "each new branch makes equal pairs, which its 1x1 layer reads with opposite signs: it adds zero",
       "netmorph": "each new branch ends in a 1x1 layer of zeros: it adds zero"}
SPLIT = "the layer's outputs are shared out among its parts, and concatenated in their order"
NEW = {"r2r": "the new branch makes equal pairs, and what reads them does so with opposite signs",
       "netmorph": "what reads the new branch does so with zeros"}


@dataclass
class Branch(PassBase):
    """Puts branches beside layers or blocks without changing what the network computes.

    Args:
        where: sum, concat: globs over convolutions and linear layers (None: all). new: a layer, or a block such as an
            inception block, or globs over these (None: every block that concatenates).
        branches: how many there are then, with the old one (for new: how many come in addition, 1 unless given).
        join: sum (the layer stays, and others like it are added, which start at zero), concat (the layer's outputs are
            shared out among that many layers side by side), or new (a branch of 1x1 and larger convolution whose outputs
            come behind those that are there; what reads them starts at zero).
        kernel: the kernel size of new branches; None: the layer's own (new: 3).
        width: new: how many channels a new branch has; None: the mean of those there, or a quarter of the layer's.
        method: r2r (pairs with opposite signs: all new numbers learn at once) or netmorph (zeros: a branch waits one step).
        seed: of every random choice; None takes one from torch's global generator.
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    branches: int | None = None
    join: Literal["sum", "concat", "new"] = "sum"
    kernel: int | None = None
    width: int | None = None
    method: Literal["r2r", "netmorph"] = "r2r"
    seed: int | None = None

    def __post_init__(self) -> None:
        support.check_choices(self)
        fewest = 1 if self.join == "new" else 2
        self.count = fewest if self.branches is None else self.branches
        for number, least, name in ((self.count, fewest, "branches"), (self.kernel, 1, "kernel"), (self.width, 1, "width")):
            if number is not None and number < least:
                raise GrowthError(f"{name} {number} makes no sense; it must be at least {least}")
        if self.kernel is not None and self.join == "concat":
            raise GrowthError("join concat shares out a kernel as it is: enlarge it afterwards with the pass kernel")
        if self.width is not None and self.join != "new":
            raise GrowthError(f"width is an option of join new; with {self.join} a branch is as wide as the layer")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Put branches beside what `where` names."""
        seed = support.seed_of(self.seed)
        step: dict[str, Any] = {"pass": "branch", "where": support.listed(self.where), "join": self.join,
                                "branches": self.count, "kernel": self.kernel, "width": self.width, "seed": seed}
        if self.join != "concat":  # nothing of which is new
            step["method"] = self.method
        with support.seeded(seed):
            return self._new(graph_module, step, seed) if self.join == "new" else self._split(graph_module, step)

    def _split(self, graph_module: GraphModule, step: dict) -> PassResult:
        edit = Edit(graph_module, step)
        groups = _groups(edit)
        for name in edit.select(self.where, groups, "convolution or linear layer"):
            try:
                edit.outcomes.append(self._split_one(edit, name, groups[name]))
            except GrowthError as why:
                edit.outcomes.append(Outcome(name, 1, 1, [name], reason=str(why)))
        insist_done(self.where, edit.outcomes)
        return edit.finish()

    def _split_one(self, edit: Edit, name: str, group: list[Call]) -> Outcome:
        if not group:
            raise GrowthError("its weight is computed at each call (weight_norm, say): put a subnet beside it")
        if self.join == "concat":
            return Outcome(name, 1, self.count, support.share_out(edit, name, group, self.count), "split", SPLIT)
        paths = support.add(edit, name, group, self.count - 1, self.kernel, self.method)
        return Outcome(name, 1, self.count, [name, *paths], self.method, SUM[self.method])

    def _new(self, graph_module: GraphModule, step: dict, seed: int) -> PassResult:
        edit = Edit(graph_module, step, own=False)
        if self.where is None:
            owners = (n.meta.get("owner") for n in edit.graph.nodes if _concatenates(n))
            names = list(dict.fromkeys(owner for owner in owners if owner))
        else:
            names = outermost(self.where, support.called_names(edit), "layer or block")
        refused: list[Outcome] = []
        gm = graph_module
        for name in (n for n in names for _ in range(self.count)):
            try:
                gm = self._open(gm, name, [step] if gm is graph_module else [], seed)
            except (GrowthError, CaptureError) as why:
                refused.append(Outcome(name, 0, 0, [name], reason=str(why)))
        if gm is graph_module:
            insist_done(self.where, refused)
        Captured(gm).outcomes.extend(refused)
        return PassResult(gm, True)

    def _open(self, gm: GraphModule, name: str, lineage: list[dict], seed: int) -> GraphModule:
        """Return a network with one more branch beside the part below a name.

        What reads the part is widened as behind a 1x1 layer that stands for it, of which nothing is kept: its new outputs
        are those of the branch.
        """
        edit = Edit(gm, {}, own=False)
        part = support.part_below(edit, name)
        channels = edit.values[part.gives.name].shape[part.channel_axis]
        width = self.width or max(channels // (len(_operands(edit, part)) or 4), 1)
        stand_in = edit.add_layer(f"{name}_out", support.conv(part.rank, channels, channels, bias=False))
        reader = edit.call(part.gives.next, stand_in, part.gives)
        edit.exchange(part.gives, reader)
        Captured(edit.gm).drop_growth()
        wide, method, note = self._widened(edit.gm, stand_in, width, seed)
        record: GrowthRecord = Captured(wide).record
        _insist_behind(record.parameters.pop(f"{stand_in}.weight"), channels)
        before = Captured(gm)
        whole = (before.record or GrowthRecord()).then(dataclasses.replace(record, lineage=[]))
        Captured(wide).keep_growth(whole, before.outcomes)
        edit = Edit(wide, {}, own=False)  # its tensors are new
        edit.record.lineage = lineage
        self._fill(edit, name, stand_in, reader.name, method, note)
        gm = edit.finish().graph_module
        Captured(gm).record.removed.discard(f"{stand_in}.weight")
        return gm

    def _widened(self, gm: GraphModule, stand_in: str, width: int, seed: int) -> tuple[GraphModule, str, str]:
        """Widen the readers of the stand-in by the method, or by netmorph where r2r is not exact."""
        reasons: list[str] = []
        for method in dict.fromkeys((self.method, "netmorph")):
            by = width + width % 2 if method == "r2r" else width
            try:
                wide = Widen(f"{stand_in[:-1]}?", by=by, method=method, fallback="never", seed=seed)  # type: ignore[arg-type]
                note = f"; r2r is not exact here: {reasons[0]}" if reasons else ""
                return wide.call(gm).graph_module, method, note
            except (SelectionError, GrowthError) as why:
                reasons.append(str(why).partition("can grow: ")[2] or str(why))
        raise GrowthError(f"what reads it cannot take more channels: {reasons[-1]}")

    def _fill(self, edit: Edit, name: str, stand_in: str, reader: str, method: str, note: str) -> None:
        """Put the branch in the place of the stand-in's new outputs."""
        part, node = support.part_below(edit, name), edit.nodes[reader]
        old, new = (edit.values[n.name].shape[part.channel_axis] for n in (part.gives, node))
        width, size = new - old, self.kernel or 3
        net = support.stack(edit, part, [(1, width), (size, width)], closed=support.activation(edit, part.nodes) is not None)
        if method == "r2r":
            rows = edit.tensor(f"{stand_in}.weight")[old:].flatten(1)  # pairs are side by side, or group by group
            first = (rows[:, None] == rows[None]).all(-1).int().argmax(1)  # the first row that is equal to each
            with torch.no_grad():
                for p in next(m for m in reversed(net) if isinstance(m, (nn.Linear, ConvNd))).parameters():
                    p.copy_(p[first])
        layer = any(str(n.target) == name for n in part.nodes) or name not in dict(edit.gm.named_modules())
        path, = support.numbered(edit, name + ("_branch" if layer else ".branch"), 1)
        z = edit.graft(path, edit.trace(net, part.takes), part.takes, part.reader)
        if _operands(edit, part) and list(part.gives.users) == [node]:
            part.gives.update_arg(0, [*part.gives.args[0], z])  # type: ignore[misc]
            joined = part.gives
        else:
            joined = edit.call(node, torch.cat, [part.gives, z], part.channel_axis, owner=name.rpartition(".")[0])
        node.replace_all_uses_with(joined)
        edit.graph.erase_node(node)
        edit.drop(stand_in)
        edit.outcomes.append(Outcome(name, old, new, [path], method, NEW[method] + note))


def _groups(edit: Edit) -> dict[str, list[Call]]:
    """Return, by name, the calls of each weight, which have the same branches; none where a weight is computed."""
    found: dict[Tensor, list[Call]] = {}
    for call in calls(edit.gm):
        found.setdefault(edit.tensor(call.weight), []).append(call)
    owners = Counter(group[0].name for group in found.values())
    named = {g[0].name if owners[g[0].name] == 1 else g[0].weight: g for g in found.values()}
    return named | {str(n.target): [] for n in edit.graph.nodes if computes(edit.gm, n)}


def _concatenates(node: Node) -> bool:
    return node.op == "call_function" and node.target in (torch.cat, torch.concat, torch.concatenate) and \
        bool(node.args) and isinstance(node.args[0], (list, tuple))


def _operands(edit: Edit, part: Part) -> list[Node]:
    """Return what a part concatenates along its channels at its end."""
    y = part.gives
    if not _concatenates(y):
        return []
    dim = y.args[1] if len(y.args) > 1 else y.kwargs.get("dim", 0)
    return list(y.args[0]) if dim in (part.channel_axis, edit.values[y.name].ndim + part.channel_axis) else []  # type: ignore[arg-type]


def _insist_behind(entry: ParameterRecord, channels: int) -> None:
    """Insist that new outputs of the stand-in are behind the old ones, and its inputs as they were."""
    index = entry.index[0]
    if entry.index[1] is not None:
        raise GrowthError("what reads it is added to what it is made of, whose channels would have to grow: name more of it")
    if index is None or index[:channels].tolist() != list(range(channels)) or bool((index[channels:] >= 0).any()):
        raise GrowthError("what reads it takes its channels in groups, and new ones would have to go between the old ones")
