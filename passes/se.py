"""SqueezeExcite: channel gates (Hu 2018) that start at one."""
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import LAYERS
from fxgrow.growth import Edit, Part, apply, channel_axis
from fxgrow.passes.support import listed, seed_of
from fxgrow.record import Outcome

FEWEST = 8  # hidden channels: of one or two, all may be off for every input, and then nothing would ever learn


@dataclass
class SqueezeExcite(PassBase):
    """Puts squeeze-and-excitation behind layers or blocks, with gates that start at exactly one.

    Args:
        where: a glob, or several, over qualified names of layers, blocks and calls (`module:node`) to put one behind: the
            last norm of a residual branch (`*.bn2`), as in SE-ResNet, or a whole block.
        reduction: channels for each hidden one (16 in the paper); there are at least 8 hidden channels.
        seed: of the first layer's weights; None takes one from torch's global generator.
    """
    where: str | Sequence[str]
    _: KW_ONLY
    reduction: int = 16
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise GrowthError(f"reduction {self.reduction} makes no sense; it must be at least 1")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Put gates behind each part that `where` names."""
        seed = seed_of(self.seed)
        where = listed(self.where)
        edit = Edit(graph_module, {"pass": "se", "where": where, "reduction": self.reduction, "seed": seed})
        generator = torch.Generator().manual_seed(seed)
        return apply(edit, where, "layer, block or call", lambda part: self._gate(edit, part, generator))

    def _gate(self, edit: Edit, part: Part, generator: torch.Generator) -> Outcome:
        """Multiply: `y * 2 sigmoid(fc2(relu(fc1(mean of y over space))))`, with fc2 zero."""
        y, axis = edit.nodes[part.gives.name], channel_axis(edit, part.gives)
        shape = edit.values[y.name].shape
        over = tuple(d for d in range(1, len(shape)) if d != axis)
        hidden = max(FEWEST, math.ceil(shape[axis] / self.reduction))
        path = edit.free_name(part.beside("se"))
        first, second = (_layer(axis, shape, *sizes) for sizes in ((shape[axis], hidden), (hidden, shape[axis])))
        nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5), generator=generator)
        for tensor in (first.bias, second.weight, second.bias):
            nn.init.zeros_(tensor)
        before = y.next
        gate = edit.call(before, torch.mean, y, over, keepdim=True, owner=path) if over else y
        gate = edit.call(before, edit.add_layer(f"{path}.fc1", first), gate, owner=path)
        gate = edit.call(before, F.relu, gate, owner=path)
        gate = edit.call(before, edit.add_layer(f"{path}.fc2", second), gate, owner=path)
        gate = edit.call(before, torch.sigmoid, gate, owner=path)
        gate = edit.call(before, torch.mul, gate, 2, owner=path)
        edit.exchange(y, edit.call(before, torch.mul, y, gate, owner=path))
        count = sum(p.numel() for p in (*first.parameters(), *second.parameters()))
        return Outcome(part.name, 0, count, [path], "gates of one", f"{shape[axis]} channels, {hidden} hidden: the second "
                       f"layer is zero, and 2 sigmoid(0) is one; of {path}.fc1 and {path}.fc2, what belongs to a "
                       "hidden unit that its ReLU shuts for every input gets no gradient")


def _layer(axis: int, shape: torch.Size, inputs: int, outputs: int) -> nn.Module:
    """Return a layer over the channels, not filled: a 1x1 convolution where space is behind them, else a linear one."""
    if axis == len(shape) - 1:
        return nn.utils.skip_init(nn.Linear, inputs, outputs)
    if axis == 1 and (len(shape) - 2, False) in LAYERS:
        return nn.utils.skip_init(LAYERS[len(shape) - 2, False], inputs, outputs, 1)
    raise Refusal(f"no layer takes {len(shape)} axes with channels on axis {axis}")
