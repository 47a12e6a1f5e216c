"""Folder to folder with never a whole model in memory: numbers are read, grown and written a tensor at a time.

Both models are captured without numbers (on the meta device); their match and the growth of each class follow from shapes.
Then each tensor of the big one is made of its counterpart's numbers, in float32 where these have 16 bits, and rounded once.
Both are compared by their graphs, which are run a node at a time on what was written.
"""
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import HALF, wide, wide_values
from fxgrow.blocks import Extra
from fxgrow.common import Refusal, atomic_folder, without_collector
from fxgrow.compare import Verification, rounding_between, rounding_note
from fxgrow.errors import GrowthError
from fxgrow.graph import below, tensors_of
from fxgrow.models import (
    Shards,
    Stored,
    Told,
    dtype_of,
    example_inputs,
    growth_in,
    made_anew,
    structure,
    write_numbers,
)
from fxgrow.passes.into.advice import advice
from fxgrow.passes.into.growing import Into, rounded_once
from fxgrow.passes.into.mixtures import Mixture, run_everywhere
from fxgrow.passes.into.new_parts import numbers_of
from fxgrow.passes.into.nodewise import Known, run
from fxgrow.passes.into.plan import Options, Plan, Step
from fxgrow.passes.support import default_method
from fxgrow.record import GrowthRecord
from fxgrow.tracing import compare_outputs, tolerance_of


@dataclass
class Streamed:
    """What was done: the plan, where numbers come from, how far both models are apart.

    rounding: of 16-bit numbers, how far the small model is from itself in float32 (None: of others, or both are equal).
    sizes: numbers of the parameters of both.
    """
    plan: Plan
    record: GrowthRecord
    verification: Verification
    rounding: float | None
    sizes: tuple[int, int]


@without_collector()
def grow_folder(source: str, big: str | None, changes: Mapping[str, Any], path: str,
                options: Callable[[Any], Options]) -> Streamed:
    """Grow the model in one folder into another configuration, and write the folder of the big one.

    Args:
        source: the folder.
        big: that of the bigger configuration, or its file; None: the small one's.
        changes: of it.
        path: where the folder goes.
        options: from the method that is least far off in the type of the numbers, the options.

    Raises:
        Refusal: this growth needs both models in memory; nothing was written.
        GrowthError: there is no exact way, or both models differ; nothing was written.
    """
    small, large = map(run_everywhere, structure(source, big, changes))
    shards = Shards(source, small)
    inputs = example_inputs(small)
    if inputs is None:
        raise Refusal("the configuration does not say what the model takes")
    try:
        return _streamed(source, path, small, large, shards, inputs, options)
    except GrowthError as why:
        raise GrowthError(f"{why}{advice(small, large, changes)}") from why


def _streamed(source: str, path: str, small: Any, large: Any, shards: "Shards", inputs: Mapping[str, Tensor],
              options: Callable[[Any], Options]) -> Streamed:
    """Grow one structure into the other, and write the folder."""
    into = Into(small, large, inputs, options(default_method(dtype_of(small))), streamed=True)
    _insist_streamable(into)
    told = (growth_in(source) or GrowthRecord()).then(into.record_of())
    with atomic_folder(path) as place:
        numbers = _Numbers(into, shards)
        write_numbers(place, large, numbers.made, numbers.stored)
        checked, rounding = _compared(into, shards, Shards(place, into.given[1]), inputs)
        into.insist_equal(checked)
        sizes = tuple(sum(p.numel() for p in m.parameters()) for m in (small, large))
        beside = Told(source, told, checked.to_json(), into.plan.to_json(), checked.notes)
        beside.write_beside(place, type(large).__name__, sizes[1])
    return Streamed(into.plan, told, checked, rounding, sizes)  # type: ignore[arg-type]


def _insist_streamable(into: Into) -> None:
    """Refuse what looks at several tensors at once."""
    if into.omitted.classes or any(extra.norms for extra in into.pairing.extras) \
            or any(step.kind == "kernel" for step in into.plan.steps) or into.rescaling.eps or into.options.noise:
        raise Refusal("a step of it looks at several tensors at once")
    if made_anew(into.given[1]):
        raise Refusal("its class makes a tensor anew, which has to be compared")


class _Numbers:
    """The tensors of the big model, each made when it is asked for."""

    def __init__(self, into: Into, shards: "Shards"):
        self.into, self.shards = into, shards
        self.dtypes = {name: t.dtype for model in (into.big, into.given[1]) for name, t in tensors_of(model).items()}
        self.neutral = into.pairing.neutral()
        into.widening.draws.read(_Read(self._small, tensors_of(into.pairing.small.gm)))
        self.extras = {name: extra for extra in into.pairing.extras for name in self.dtypes
                       if name.startswith(f"{extra.name}.")}
        self.parts: dict[str, dict[str, Tensor]] = {}  # the new part and the block of experts that were made last

    def made(self, name: str) -> Tensor:
        """Return the numbers of one tensor of the big model, rounded to its type."""
        mixture = next((m for m in self.into.mixtures if name.startswith(f"{m.path}.")), None)
        return (self._grown(name) if mixture is None else self._experts(mixture)[name]).to(self.dtypes[name])

    def stored(self, name: str) -> Stored | None:
        """Return where a file of the small model has the very numbers of a tensor of the big one."""
        into, ours = self.into, self.into.pairing.names.get(name)
        changed = into.mixtures or into.prior is not None or into.widening.growths or into.rescaling.of(name)[0] != 1
        if ours is None or changed:
            return None
        return self.shards.as_stored(ours)

    def _small(self, name: str) -> Tensor:
        """Return a tensor of the small model, in float32 where something is to be computed of it."""
        tensor = self.into.copied(name, self.shards.read(name))
        return wide(tensor) if self.into.widening.growths else tensor

    def _grown(self, name: str) -> Tensor:
        into = self.into
        if name in into.pairing.names:
            ours = into.pairing.names[name]
            grown = into.widening.grown(ours, self._small(ours))
            scale, shift = into.rescaling.of(name)
            return wide(grown) * scale + shift if scale != 1 else grown
        if name in self.neutral:
            return torch.full(tensors_of(into.big)[name].shape, self.neutral[name])
        if name in self.extras:
            return self._part(self.extras[name])[name]
        if name in into.unread:
            return self.shards.read(name)
        raise Refusal(f"{name} is read by no graph, and has to be drawn with the model")

    def _part(self, extra: Extra) -> dict[str, Tensor]:
        """Return the numbers of a part that the small model lacks: as its class makes them, but where it is the identity."""
        if extra.name not in self.parts:
            into, gm = self.into, self.into.pairing.big.gm
            for draw in (into.options.method != "net2net", True):  # copies of another block need no numbers of their own
                steps: list[Step] = []
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(into.options.seed + extra.span[0])
                    fresh = _initialised(into.given[1] if into.open else into.big, extra.name, draw)
                with _filled(gm, fresh):
                    mine = numbers_of(extra, into.pairing, _Read(self._grown, into.pairing.names), into.options, steps)
                if draw or (steps[-1].method == "net2net" and mine.keys() >= fresh.keys()):
                    break
            self._keep(extra.name, fresh | mine)
        return self.parts[extra.name]

    def _experts(self, mixture: Mixture) -> dict[str, Tensor]:
        """Return the numbers of a block of experts, from those of the dense perceptron that stands for it."""
        if mixture.path not in self.parts:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.into.options.seed)
                fresh = _initialised(self.into.given[1], mixture.path)
            twin = tensors_of(self.into.big.get_submodule(mixture.path))
            dense = {name: wide(self._grown(name)) for name in (f"{mixture.path}.{n}" for n in twin)}
            self._keep(mixture.path, mixture.filled(dense, fresh))
        return self.parts[mixture.path]

    def _keep(self, path: str, numbers: dict[str, Tensor]) -> None:
        """Keep the numbers of a part, and of those that it lies in or that lie in it."""
        self.parts = {p: t for p, t in self.parts.items() if below(p, path) or below(path, p)} | {path: numbers}


class _Read(Mapping[str, Tensor]):
    """Tensors by name, read when they are asked for."""

    def __init__(self, read: Callable[[str], Tensor], names: Mapping[str, Any]):
        self._read, self._names = read, names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _initialised(big: Any, path: str, draw: bool = True) -> dict[str, Tensor]:
    """Return numbers of a module without any, as its class draws them (else zeros), in its types."""
    part = copy.deepcopy(big.get_submodule(path))
    kinds = {name: p.dtype for name, p in part.named_parameters()}
    for module in part.modules():
        for name, p in module._parameters.items():
            if p is not None:
                kind = torch.float32 if draw and p.dtype in HALF else p.dtype
                module._parameters[name] = nn.Parameter(torch.zeros(p.shape, dtype=kind), p.requires_grad)
    if draw:
        with torch.no_grad():
            part.apply(big._init_weights)
    return {f"{path}.{name}": t.detach().to(kinds.get(name, t.dtype)) for name, t in tensors_of(part).items()}


class _filled:
    """A graph whose tensors of some names have numbers while the block runs."""

    def __init__(self, gm: GraphModule, numbers: Mapping[str, Tensor]):
        self.gm, self.numbers = gm, numbers

    def __enter__(self) -> None:
        self.kept = {}
        for name, tensor in self.numbers.items():
            owner, _, leaf = name.rpartition(".")
            module = self.gm.get_submodule(owner)
            if leaf in module._parameters:
                self.kept[name] = module._parameters[leaf]
                module._parameters[leaf] = nn.Parameter(tensor, False)

    def __exit__(self, *raised: object) -> None:
        for name, tensor in self.kept.items():
            owner, _, leaf = name.rpartition(".")
            self.gm.get_submodule(owner)._parameters[leaf] = tensor


def _compared(into: Into, small: "Shards", big: "Shards", inputs: Mapping[str, Tensor]) -> tuple[Verification, float | None]:
    """Compare both models by their graphs on the example inputs; the small one with itself in float32, where they differ."""
    side, other = into.graphs()
    known = Known(small.read, into.pairing.names)
    first, second = (None, None) if into.widening.growths else (known.first, known.second)  # of other widths none is alike
    ours, theirs = run(side, small.read, inputs, first), run(other, big.read, inputs, second)
    tolerance = tolerance_of(dtype_of(into.small))
    found = compare_outputs(ours, theirs, tolerance, extended=into.options.extend)
    checked = Verification(found.absolute, found.relative, ("eval",) if found.equal else (), tolerance,
                           {"eval": found.relative}, ("run a node at a time, on the numbers as they were written",),
                           ("the example",))
    checked, dtype = into.allowing(checked), dtype_of(into.small)
    if dtype not in HALF:
        return checked, None
    rounding, notes = None, (*checked.notes, rounded_once(dtype))
    if found.absolute:
        rounding = rounding_between(run(side, lambda name: wide(small.read(name)), wide_values(inputs), widened=True), ours)
        notes = *notes, rounding_note(dtype, rounding)
    return replace(checked, notes=notes), rounding
