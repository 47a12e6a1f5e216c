"""Mixtures of experts of a stock class, filled from dense perceptrons (sparse upcycling, Komatsuzaki 2023, 2212.05055).

In front of the match, each block of experts of the big model is one dense perceptron; behind it, that one's numbers go to
the experts. What a block computes is seen by running it: how its router weighs, and what a shared expert adds. A class of
transformers keeps its experts in two tensors, `gate_up_proj [n, 2 h, d]` and `down_proj [n, d, h]`.
"""
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.models import dtype_of
from fxgrow.passes.into.plan import Step
from fxgrow.record import GrowthRecord, ParameterRecord

TENSORS = ("gate_up_proj", "down_proj")
ROWS = 32  # on which a block is looked at
ROUTER = 0.02  # deviation of a router's numbers, where its class leaves them zero
DRAWN = 0.1  # deviation of the numbers of a block that has none
CLOSE = 1e-5


class Dense(nn.Module):
    """What each of equal experts computes: `down(act(gate(x)) * up(x))`."""

    def __init__(self, experts: Any):
        super().__init__()
        up, down = experts.gate_up_proj.detach()[0], experts.down_proj.detach()[0]
        hidden, width = up.shape[0] // 2, up.shape[1]
        for name, tensor in zip(("gate_proj", "up_proj", "down_proj"), (up[:hidden], up[hidden:], down)):
            layer = nn.utils.skip_init(nn.Linear, width, hidden, bias=False)
            layer.weight = nn.Parameter(tensor.clone())
            setattr(self, name, layer)
        self.act_fn = experts.act_fn

    def forward(self, x: Tensor) -> Tensor:
        """Compute the result for each row."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Carried(nn.Module):
    """A block whose experts give nothing: its shared expert alone, under its name."""

    def __init__(self, name: str, shared: nn.Module):
        super().__init__()
        self.name = name
        self.add_module(name, shared)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the shared expert does."""
        return self.get_submodule(self.name)(x)


@dataclass
class Mixture:
    """A block of experts: where it is in the big model, and how it computes what a dense perceptron does.

    total: the sum of the weights that its router gives the chosen experts (None: it differs from row to row).
    shared: the name of its shared expert, and of the last layer in that ("": there is none).
    factor: by what it multiplies the shared expert where all else that it holds is zero.
    carries: whether the shared expert takes the dense perceptron's place, and the experts give zero.
    doubt: why there is no exact way, once all else fits ("": there is one).
    """
    path: str
    experts: str
    count: int
    total: float | None
    shared: str = ""
    last: str = ""
    factor: float = 1.0
    carries: bool = False
    doubt: str = ""

    @classmethod
    def of(cls, path: str, block: nn.Module, experts: str, hidden: int) -> "Mixture":
        """Look at a block of a model, whose `experts` are below it; `hidden`: the dense perceptron's size (0: not known)."""
        block = to_look_at(block)
        inner: Any = block.get_submodule(experts)
        count, width, size = inner.down_proj.shape
        x = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0)).to(inner.down_proj.device)
        chosen = torch.zeros(ROWS, 1, dtype=torch.long, device=x.device)
        with torch.no_grad():
            if not close(inner(x, chosen, torch.ones_like(x[:, :1])), Dense(inner)(x)):
                raise GrowthError(f"{path}.{experts} ({type(inner).__name__}) keeps its experts in a layout that is not "
                                  "known: the first half of gate_up_proj would be the gate, and there would be no biases")
            found = cls(path, experts, count, _total(block, inner))
            found._look_at_shared(block, x)
        found.carries = bool(found.shared) and (found.total is None or hidden > size)
        found.doubt = found._doubt(block)
        return found

    def _look_at_shared(self, block: nn.Module, x: Tensor) -> None:
        """Find the shared expert, and what it is multiplied by."""
        for name, child in block.named_children():
            layers = [n for n, m in child.named_modules() if isinstance(m, nn.Linear)]
            if name == self.experts.partition(".")[0] or len(layers) < 2:
                continue
            order: list[str] = []
            hooks = [child.get_submodule(n).register_forward_hook(lambda *_, n=n: order.append(n)) for n in layers]
            made = child(x)
            for hook in hooks:
                hook.remove()
            for other, p in block.named_parameters():
                if not other.startswith(f"{name}."):
                    p.zero_()
            ratio = block(x[None])[0] / made
            self.shared, self.last, self.factor = name, order[-1], float(ratio.mean())
            if not close(ratio, torch.full_like(ratio, self.factor)) or not self.factor:
                raise GrowthError(f"{self.path}.{name}: what its block does to it is not known")

    def _doubt(self, block: nn.Module) -> str:
        """Say so where a router's weights have no sum of their own, and no shared expert can stand in ("": it is exact)."""
        if self.carries or self.total:
            return ""
        router = next((m for m in block.modules() if hasattr(m, "norm_topk_prob")), None)
        advice = "give a class that normalises them" if router is None else \
            "norm_topk_prob=true in its configuration makes it one (--set norm_topk_prob=true)"
        return f"{self.path}: its router weighs the chosen experts by numbers whose sum differs from row to row, so equal " \
            f"experts are not what one of them is: {advice}"

    def twin(self, block: nn.Module) -> nn.Module:
        """Return the dense module that stands for the block in the match."""
        inner = block.get_submodule(self.experts)
        twin = Carried(self.shared, block.get_submodule(self.shared)) if self.carries else Dense(inner)
        return twin.to(next(inner.parameters()).device).train(block.training)

    def step(self) -> Step:
        """Return what is done, for the plan."""
        if self.doubt:
            return Step("experts", self.path, 1, self.count, "not possible", self.doubt)
        if self.carries:
            note = f"{self.shared} has the dense numbers, its last layer times {1 / self.factor:g}; what gates it is " \
                   "zero, and the experts end in zeros"
            return Step("experts", self.path, 1, self.count, "netmorph", note)
        note = f"equal experts; the router's weights have the sum {self.total:.3g}"
        note += f"; {self.shared} ends in zeros" * bool(self.shared)
        return Step("experts", self.path, 1, self.count, "copies", note)

    def filled(self, state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the block's tensors, by their names in the big model, from those of its twin, which are taken out.

        own: the tensors as its class makes them, which are written to.
        """
        last = f"{self.path}.{self.shared}.{self.last}.weight"
        up, down = (f"{self.path}.{self.experts}.{name}" for name in TENSORS)
        dense = {n: state.pop(n) for n in list(state) if n.startswith(f"{self.path}.")}
        routers = [n for n, t in own.items() if t.ndim == 2 and t.shape[0] == self.count and float(t.float().std()) == 0]
        for name in routers:
            own[name].normal_(std=ROUTER, generator=torch.Generator().manual_seed(len(name)))
        if self.carries:
            for name in own.keys() - dense.keys() - {up, *routers}:
                if name == down or self._gates(name, own[name]):
                    own[name].zero_()
            return own | dense | {last: dense[last] / self.factor}
        if self.shared:
            own[last].zero_()
        gate, rise, fall = (dense[f"{self.path}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        own[up].copy_(torch.cat([gate, rise]).expand_as(own[up]))
        own[down].copy_((fall / self.total).expand_as(own[down]))  # type: ignore[operator]
        return own

    def _gates(self, name: str, tensor: Tensor) -> bool:
        """Tell whether a tensor of the block is neither of the experts nor of the router."""
        return not name.startswith(f"{self.path}.{self.experts}.") and self.count not in tensor.shape[:1]

    def note(self, record: GrowthRecord, names: Iterator[tuple[str, Tensor]]) -> None:
        """Record the block's tensors: what was fused or copied for each expert is new."""
        mine = {n: entry for n, entry in record.parameters.items() if n.startswith(f"{self.path}.")}
        for name in mine:
            del record.parameters[name]
        for name, tensor in names:
            if name.startswith(f"{self.path}."):
                record.parameters[name] = mine.get(name) or ParameterRecord.new(tensor.ndim)
        record.removed |= {entry.source for entry in mine.values() if entry.source} - record.parameters.keys()
        if self.carries:
            record.parameters[f"{self.path}.{self.shared}.{self.last}.weight"].scale /= self.factor


def mixtures_of(big: nn.Module, small: nn.Module) -> list[Mixture]:
    """Return the blocks of experts of a model that another one has not, each with how it becomes exact."""
    kept = {name for name, _ in small.named_parameters()}  # a graph of a mixture has their tensors, but no module for them
    if list(experts_of(small)) or any(f"{path}.{TENSORS[0]}" in kept for path, _ in experts_of(big)):
        return []
    config: Any = getattr(small, "config", None)
    hidden = getattr(config, "intermediate_size", 0) or 0
    found: list[Mixture] = []
    known: dict[Any, Mixture] = {}  # of blocks without numbers, by all that they are
    for path, _, name in [path.rpartition(".") for path, _ in experts_of(big)]:
        block = big.get_submodule(path)
        key = _likeness(block) if any(p.is_meta for p in block.parameters()) else path
        if key not in known:
            known[key] = Mixture.of(path, block, name, hidden if isinstance(hidden, int) else 0)
        found.append(replace(known[key], path=path))
    return found


def to_look_at(block: nn.Module) -> nn.Module:
    """Return a copy of a block in single precision that shows how it computes: numbers that it lacks are drawn."""
    block, draw = copy.deepcopy(block), torch.Generator().manual_seed(2)
    for module in block.modules():
        for name, p in module._parameters.items():
            if p is not None and p.is_meta:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape).normal_(std=DRAWN, generator=draw))
    return block.float().eval()


def _likeness(block: nn.Module) -> tuple:
    """Return what is alike in blocks that compute the same way: classes, sizes, and the settings of each module."""
    settings = [(name, type(m), *((k, v) for k, v in vars(m).items() if isinstance(v, (bool, int, float, str))))
                for name, m in block.named_modules()]
    return (*settings, *((name, p.shape) for name, p in block.named_parameters()))


def experts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model that hold experts in two tensors, each with its name."""
    for path, module in model.named_modules():
        own = [module._parameters.get(name) for name in TENSORS]
        if all(p is not None and p.ndim == 3 for p in own) and hasattr(module, "act_fn"):
            yield path, module


def run_everywhere(model: Any) -> Any:
    """Let a model compute in double precision, which torch's grouped products lack, by the code of its class; return it."""
    config: Any = getattr(model, "config", None)
    if dtype_of(model) is torch.float64 and hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"
    return model


def with_dense(big: nn.Module, mixtures: list[Mixture]) -> nn.Module:
    """Return a model with a dense perceptron in the place of each block of experts."""
    dense = copy.deepcopy(big)
    for mixture in mixtures:
        dense.set_submodule(mixture.path, mixture.twin(dense.get_submodule(mixture.path)))
    return dense


def _total(block: nn.Module, experts: nn.Module) -> float | None:
    """Return the sum of the weights of the chosen experts, if it is the same for every row."""
    for p in block.parameters():
        if p.ndim == 2 and p.shape[0] == experts.get_parameter(TENSORS[0]).shape[0]:  # the router, which may be all zero
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p))
    sums = weights_given(block, experts).float().sum(-1)
    return float(sums.mean()) if close(sums, sums.mean().expand_as(sums)) else None


@torch.no_grad()
def weights_given(block: nn.Module, experts: nn.Module) -> Tensor:
    """Return the weights `[rows, chosen]` that a block gives its experts for rows that are drawn."""
    given: list[Tensor] = []
    x = experts.get_parameter(TENSORS[1])
    hook = experts.register_forward_pre_hook(lambda _, args: given.append(args[2]))
    try:
        block(torch.randn(1, ROWS, x.shape[1], generator=torch.Generator().manual_seed(0)).to(x))
    finally:
        hook.remove()
    return given[0]


def close(x: Tensor, y: Tensor) -> bool:
    """Tell whether two tensors are equal up to rounding in single precision."""
    return bool(torch.allclose(x, y, rtol=CLOSE, atol=CLOSE * float(y.abs().max())))
