"""Blocks whose results are concatenated one after another (the C2f of YOLO): a new one joins them, read by zero columns."""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.graph import Call, call_of, other_users
from fxgrow.growth import Edit, Part
from fxgrow.identity import Trace
from fxgrow.record import ParameterRecord


@dataclass
class Joined:
    """Where the result of a new block goes beside that of the block before it.

    cat: the concatenation. at: the place of the old result in its list. start: the first channel behind it there.
    channels: of the result. readers: the layers that take the concatenation.
    """
    cat: Node
    at: int
    start: int
    channels: int
    readers: list[Node]

    def put(self, edit: Edit, x: Node, outs: list[Node]) -> None:
        """Put the results of new blocks behind `x`, that of the old one, in the list, and zeros where it is read."""
        cat = edit.nodes[self.cat.name]
        parts, *rest = cat.args
        cat.args = ([*parts[:self.at], x, *outs, *parts[self.at + 1:]], *rest)  # type: ignore[index]
        count = self.channels * len(outs)
        for reader in self.readers:
            name = f"{edit.nodes[reader.name].target}.weight"
            old = edit.tensor(name)
            zeros = old.new_zeros(old.shape[0], count, *old.shape[2:])
            index = torch.arange(old.shape[1])
            index = torch.cat([index[:self.start], torch.full((count,), -1), index[self.start:]])
            entry = ParameterRecord(edit.recorded_name(name), [None, index, *[None] * (old.ndim - 2)],
                                    [None, index < 0, *[None] * (old.ndim - 2)])
            before = edit.record.parameters.get(edit.recorded_name(name))
            edit.set_tensor(name, torch.cat([old[:, :self.start], zeros, old[:, self.start:]], 1),
                            entry if before is None else before.then(entry))
            layer = edit.gm.get_submodule(str(edit.nodes[reader.name].target))
            setattr(layer, "in_channels" if old.ndim > 2 else "in_features", old.shape[1] + count)


def joined(gm: GraphModule, trace: Trace, block: Part) -> Joined | None:
    """Return where a block like this one would be concatenated, if the block's result stands there behind what it takes."""
    for cat in block.gives.users:
        parts = cat.args[0] if cat.target is torch.cat and cat.args else ()
        if not isinstance(parts, (list, tuple)) or block.gives not in parts or parts.count(block.gives) > 1:
            continue
        at = parts.index(block.gives)
        readers = [call_of(gm, user) for user in cat.users]
        if at and parts[at - 1] is block.takes and readers and all(_takes_more(gm, trace, cat, call) for call in readers):
            sizes = [trace.values[part.name].shape[_axis(trace, cat)] for part in parts]  # type: ignore[union-attr]
            return Joined(cat, at, sum(sizes[:at + 1]), sizes[at], list(cat.users))
    return None


def _axis(trace: Trace, cat: Node) -> int:
    axis = cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
    return int(axis) % trace.values[cat.name].ndim  # type: ignore[arg-type, call-overload]


def _takes_more(gm: GraphModule, trace: Trace, cat: Node, call: Call | None) -> bool:
    """Tell whether a layer can read further channels of a concatenation by columns of its own weight."""
    if call is None or call.module is None or call.transposed or call.argument("groups") != 1 or call.input is not cat:
        return False
    value: Tensor = trace.values[cat.name]
    own = other_users(gm, gm.get_parameter(call.weight), [call])
    return not own and _axis(trace, cat) == (1 if call.rank else value.ndim - 1)
