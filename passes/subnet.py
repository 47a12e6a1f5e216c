"""Subnet: a sub-network beside a part of the network (Network Morphism, Wei 2016, section 3.6)."""
import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.aten import TorchDispatchMode
from fxgrow.errors import CaptureError, GrowthError
from fxgrow.graph import calls, meta_twin
from fxgrow.growth import Edit, Part, insist_done, outermost
from fxgrow.passes.support import (
    called_names,
    cancel,
    check_choices,
    conv,
    fitted,
    listed,
    part_below,
    seed_of,
    seeded,
    stack,
)
from fxgrow.record import Outcome

Factory = Callable[[int, int], nn.Module]
WHY = {"r2r": "two sub-networks with equal numbers, read with opposite signs, cancel whatever they compute",
       "netmorph": "the layer behind the sub-network is zero, whatever that computes"}


@dataclass
class Subnet(PassBase):
    """Puts a sub-network beside layers or blocks: f(x) becomes f(x) + z(x), where z starts at zero.

    Args:
        where: a layer, a block or a stage (`layer3.2`), or globs over these: of names below one another the outermost is
            taken. It must have one tensor in and one out. None: every convolution and linear layer.
        module: a function from the channels of x and of f(x) to any module that makes a value like f(x) of x, or its name,
            `package.module:function`. None: a built-in block.
        block: the built-in one: bottleneck (1x1 to a quarter of the channels, at least 8, and 3x3) or basic (3x3, 3x3).
        method: r2r (two copies of z with opposite signs: all of it learns at once, at twice the cost) or netmorph (the layer
            behind z is zero: z waits one step).
        seed: of every random choice; None takes one from torch's global generator.
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    module: Factory | str | None = None
    block: Literal["bottleneck", "basic"] = "bottleneck"
    method: Literal["r2r", "netmorph"] = "r2r"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)

    def call(self, graph_module: GraphModule) -> PassResult:
        """Put a sub-network beside each part that `where` names."""
        seed = seed_of(self.seed)
        factory = imported(self.module) if isinstance(self.module, str) else self.module
        named = self.module if isinstance(self.module, str) or factory is None else getattr(factory, "__name__", "callable")
        edit = Edit(graph_module, {"pass": "subnet", "where": listed(self.where), "module": named, "block": self.block,
                                   "method": self.method, "seed": seed})
        if self.where is None:
            names = list(dict.fromkeys(c.name for c in calls(edit.gm)))
        else:
            names = outermost(self.where, called_names(edit), "layer or block")
        with seeded(seed):
            for name in names:
                try:
                    edit.outcomes.append(self._insert(edit, part_below(edit, name), factory))
                except (GrowthError, CaptureError) as why:
                    edit.outcomes.append(Outcome(name, 0, 0, [name], reason=str(why)))
        insist_done(self.where, edit.outcomes)
        return edit.finish()

    def _insert(self, edit: Edit, part: Part, factory: Factory | None) -> Outcome:
        x, y = (edit.values[n.name] for n in (part.takes, part.gives))  # type: ignore[union-attr]
        axis = part.channel_axis
        net, width = self._network(edit, part, x, y, factory)
        alone = edit.trace(net, part.takes)
        wanted = [*y.shape[:axis], width, *y.shape[axis:][1:]]
        given = list(alone.gives.shape) if isinstance(alone.gives, Tensor) else type(alone.gives).__name__
        if given != wanted:
            raise GrowthError(f"its sub-network gives {given} for {list(x.shape)}, and {part.name} gives {list(y.shape)}: "
                              "they are added, so make it give the same")
        method, note = self.method, ""
        if method == "r2r" and draws(net, x):
            method, note = "netmorph", "; r2r is not exact here: the sub-network draws random numbers, each copy its own"
        paired = method == "r2r"
        project = conv(part.rank, 2 * width if paired else width, y.shape[axis], bias=False)
        path = edit.free_name(f"{part.name}_subnet")
        ended = edit.trace(Ended(net, project, axis, paired, alone.writes_input), part.takes)
        z = edit.graft(path, ended, part.takes, part.reader)
        after = part.gives.next
        z = fitted(edit, z, part.takes, part.gives, part.rank, after)  # type: ignore[arg-type]
        edit.exchange(part.gives, edit.call(after, torch.add, part.gives, z, owner=part.name.rpartition(".")[0]))
        size = sum(p.numel() for p in edit.gm.get_submodule(path).parameters())
        if any(isinstance(m, (nn.ReLU, nn.ReLU6)) for m in net.modules()):
            note += f"; in {path}, what belongs to a unit that its ReLU shuts for every input gets no gradient"
        return Outcome(part.name, 0, size, [path], method, WHY[method] + note)

    def _network(self, edit: Edit, part: Part, x: Tensor, y: Tensor, factory: Factory | None) -> tuple[nn.Module, int]:
        """Return the sub-network for a part that makes y of x, and how many channels it gives."""
        outs = y.shape[part.channel_axis]
        if factory is not None:
            net = factory(x.shape[part.channel_axis if x.ndim == y.ndim else 1], outs)
            if not isinstance(net, nn.Module):
                raise GrowthError(f"the function that was to make its sub-network gave {type(net).__name__}, not a module")
            return copy.deepcopy(net), outs
        if self.block == "basic":
            return stack(edit, part, [(3, outs), (3, outs)]), outs
        width = max(outs // 4, min(outs, 8))  # a few units at least: one alone may be dead
        return stack(edit, part, [(1, width), (3, width)]), width


class Ended(nn.Module):
    """A sub-network and a last layer that makes its result zero, along one axis.

    paired: beside the sub-network stands its twin, and the last layer reads the two with opposite signs.
    writes: the sub-network writes to its input.
    """

    def __init__(self, net: nn.Module, project: nn.Module, axis: int, paired: bool, writes: bool):
        super().__init__()
        self.axis, self.writes = axis, writes
        self.net, self.twin, self.project = net, copy.deepcopy(net) if paired else None, project
        cancel(project.weight, paired)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the sub-network's result behind the last layer: zero at first."""
        if self.twin is None:
            return self.project(self.net(x))
        z = self.net(x.clone() if self.writes else x)
        return self.project(torch.cat([z, self.twin(x)], self.axis))


class _RandomOps(TorchDispatchMode):
    """Notes whether an op draws random numbers."""
    found = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def draws(net: nn.Module, x: Tensor) -> bool:
    """Return whether a module draws random numbers while training."""
    twin: Any = meta_twin(net).to(x.dtype).train()
    with torch.no_grad(), _RandomOps() as watch:
        twin(torch.empty_like(x))
    return watch.found


def imported(name: str) -> Factory:
    """Return the function that `package.module:function` names, or refuse where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise GrowthError(f"module {name!r} is not package.module:function of something importable: {error}") from error
    if not callable(found):
        raise GrowthError(f"module {name!r} is no function from channels in and out to a module")
    return found
