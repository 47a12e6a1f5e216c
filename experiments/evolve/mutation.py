"""Mutations: the passes, drawn at random with their places and options.

What lives here: what a mutation is, and how one child is made of a parent and checked before anything is trained.
"""
import contextlib
import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import math
import operator
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase

import fxgrow
from fxgrow.axis import analyse, growable
from fxgrow.cli import as_fields, loaded_passes
from fxgrow.common import brief, did_you_mean
from fxgrow.compare import TOLERANCE
from fxgrow.cost import ForwardCounter
from fxgrow.errors import CaptureError, FxgrowError, GrowthError, SelectionError
from fxgrow.experiments.evolve.structure import Hashes
from fxgrow.experiments.settings import TrainError
from fxgrow.graph import (
    LAYERS,
    Captured,
    Layers,
    Outputs,
    Shared,
    StructureCache,
    below,
    calls,
    compiled_later,
    copied_when_written,
    evaluating,
    inside,
    modules_by_path,
)
from fxgrow.record import Grown

TRIES = 30  # mutations that are tried for one child
SHARED = {"r2r", "netmorph"}  # methods under which a child's old numbers can be its parent's


@dataclass
class Parent:
    """A network to mutate, and the structure ("": none) that each kind of step led to at each place so far."""
    number: int
    model: GraphModule
    inputs: Tensor
    led_to: dict[tuple[str, str], str] = field(default_factory=dict)
    _places: dict[str, list[str]] = field(default_factory=dict)

    @functools.cached_property
    def cache(self) -> StructureCache:
        """Return what follows from its structure."""
        return StructureCache(self.model)

    @functools.cached_property
    def layers(self) -> Layers:
        """Return its calls and layers, to find again in its children."""
        return Layers(self.model)

    @functools.cached_property
    def hashes(self) -> Hashes:
        """Return what hashes its children."""
        return Hashes(self.model)

    @functools.cached_property
    def outputs(self) -> Outputs:
        """Return what it computes for its inputs, to which its children are compared."""
        return Outputs(self.layers, self.inputs)

    @functools.cached_property
    def _counted(self) -> tuple[tuple[int, int], ForwardCounter]:
        counter = ForwardCounter()
        return costs(self.model, self.inputs, counter), counter

    @property
    def costs(self) -> tuple[int, int]:
        """Return its parameters and FLOPs."""
        return self._counted[0]

    @property
    def counter(self) -> ForwardCounter:
        """Return what counts its children, most of whose layers are its own."""
        return self._counted[1]

    def places(self, kind: str) -> list[str]:
        """Return the names to draw from, of one of `PLACES`."""
        if kind not in self._places:
            with self.cache.active():
                self._places[kind] = _names(self.model, kind)
        return self._places[kind]

    def untried(self, kind: str, places: Sequence[str], known: Collection[str]) -> list[str]:
        """Return the places where a kind of step has led neither to nothing nor to a structure known by now."""
        structures = {place: self.led_to.get((kind, place)) for place in places}
        return [place for place in places if structures[place] != "" and structures[place] not in known]


def _names(gm: GraphModule, kind: str) -> list[str]:
    """Return axis classes, all modules, blocks (that are or hold a convolution or linear layer), or convolutions."""
    if kind == "classes":
        return [c.name for c in growable(analyse(gm)) if c.producers]
    if kind == "convolutions":
        kinds = tuple(v for (rank, _), v in LAYERS.items() if rank)
        called = dict.fromkeys(str(n.target) for n in gm.graph.nodes if n.op == "call_module")
        return [name for name in called if isinstance(gm.get_submodule(name), kinds)]
    layers, modules = calls(gm), [name for name, _ in gm.named_modules() if name]
    return [n for n in modules if kind == "modules" or any(below(c.name, n) or inside(c.node, n) for c in layers)]


PLACES = ("classes", "modules", "blocks", "convolutions", "network")
USUAL = {"widen": "classes", "deepen": "blocks", "kernel": "convolutions", "branch": "convolutions"}


@dataclass
class Mutation:
    """A pass to draw, how often, where, and with which options; an option that is a list is drawn from.

    name: of a pass that is installed, or the class of one of your own, at the top level of a module that can be imported.
    places: what `where` is drawn from, where the pass has that: one of `PLACES`; network: everywhere at once; None: what is
    usual for the pass.
    The seed of a pass is to decide numbers, not structure: a step that has led to nothing, or to a structure that is known,
    is not drawn again with another seed. `make`: instead of a pass, a function of (network, inputs, generator) that gives
    one, or None where it has nothing to do.
    """
    name: str | type
    weight: float = 1.0
    places: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[GraphModule, Tensor, random.Random], PassBase | None] | None = None

    def draw(self, parent: Parent, rng: random.Random, known: Collection[str] = ()) -> PassBase | None:
        """Return a pass at a place drawn; None if each place has led to nothing, or to a structure in `known`."""
        if self.make is not None:
            return self.make(parent.model, parent.inputs, rng)
        chosen = {name: rng.choice(_choices(value)) if isinstance(value, (list, tuple)) else value
                  for name, value in sorted(self.options.items())}
        cls = pass_called(self.name)
        taken = inspect.signature(cls).parameters
        if "seed" in taken:
            chosen["seed"] = rng.randrange(2 ** 31)
        if "where" not in taken or self.places == "network":
            drawn = self._made(cls, chosen)
            kind, place = _kind_and_place(describe(drawn))
            return drawn if parent.untried(kind, [place], known) else None
        places = parent.places(self.places or USUAL.get(name_of(cls), "modules"))
        if places:
            kind, _ = _kind_and_place(describe(self._made(cls, {"where": places[0], **chosen})))
            places = parent.untried(kind, places, known)
        return self._made(cls, {"where": rng.choice(places), **chosen}) if places else None

    def _made(self, cls: type, options: Mapping[str, Any]) -> PassBase:
        try:
            return cls(**options)
        except (TypeError, ValueError, FxgrowError) as error:
            raise TrainError(f"mutation {cls.__name__}: {error}") from error


def _choices(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def default_mutations() -> list[Mutation]:
    """Return widening and deepening mostly, as in the report; kernels, branches, skips and gates now and then."""
    return [Mutation("widen", 4, "classes", {"factor": [1.25, 1.5, 2.0], "method": ["r2r", "netmorph"]}),
            Mutation("deepen", 3, "blocks", {"method": ["r2r", "netmorph"]}),
            Mutation("kernel", 1, "convolutions", {"size": [5]}),
            Mutation("branch", 1, "convolutions", {"join": ["sum"], "method": ["r2r"]}),
            Mutation("skip", 0.5, "modules", {"weight": ["scalar", "channel"]}),
            Mutation("se", 0.5, "modules", {"reduction": [4, 16]})]


def mutations_of(tables: Sequence[Mapping[str, Any]], weights: str = "inherit") -> list[Mutation]:
    """Return the mutations that a search's settings name, or the default ones; raise TrainError for a wrong table."""
    mutations = [_mutation_of(table) for table in tables] or default_mutations()
    if weights == "share":
        for mutation in mutations:
            if not set(_choices(mutation.options.get("method", "r2r"))) <= SHARED:
                raise TrainError(f"mutation {mutation.name}: with weights share, method must be r2r or netmorph, whose "
                                 "old numbers are the parent's")
    return mutations


def _mutation_of(table: Mapping[str, Any]) -> Mutation:
    options = dict(table)
    name = options.pop("pass", None)
    if not isinstance(name, str):
        raise TrainError(f"a mutation needs a pass, and there is none called {brief(name)}; there are {', '.join(passes())}")
    pass_called(name)
    weight, places = options.pop("weight", 1.0), options.pop("places", USUAL.get(name, "modules"))
    if not isinstance(places, str) or places not in PLACES:
        raise TrainError(f"mutation {name}: places is {brief(places)}; it must be one of {', '.join(PLACES)}")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise TrainError(f"mutation {name}: weight is {brief(weight)}; it must be a number above 0")
    _check_options(name, options)
    return Mutation(name, float(weight), places, options)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Try every choice of options out; raise TrainError where the pass does not take one."""
    cls = pass_called(name)
    fields = list(inspect.signature(cls).parameters)
    for option, value in options.items():
        if option in ("where", "seed"):
            raise TrainError(f"mutation {name}: {option} is drawn anew for each child; leave it out")
        if option not in fields:
            raise TrainError(f"mutation {name}: the pass has no option {option!r}{did_you_mean(option, fields)}")
        if not _choices(value):
            raise TrainError(f"mutation {name}: {option} is an empty list; give at least one value to draw")
    try:
        for chosen in itertools.product(*map(_choices, options.values())):
            cls(**{"where": "x"} if "where" in fields else {}, **dict(zip(options, chosen)))
    except (TypeError, ValueError, FxgrowError) as error:
        raise TrainError(f"mutation {name}: {error}") from error


@dataclass
class Child:
    """A mutated network that is ready to be trained."""
    parent: int
    grown: Grown
    step: dict[str, Any]
    graph: str
    parameters: int
    flops: int
    latency: float | None = None


@dataclass
class Limits:
    """Bounds on a child.

    Args:
        growth: how many times its parent's parameters and FLOPs it may have.
        parameters, flops, latency: how much it may have itself; latency in milliseconds.
        tied: whether its old numbers are to be its parent's.
    """
    growth: float = 2.0
    parameters: int | None = None
    flops: float | None = None
    latency: float | None = None
    tied: bool = False


@dataclass
class Discarded:
    """A mutation that led to nothing, and why."""
    parent: int
    step: dict[str, Any]
    reason: str


def mutate(parents: Sequence[Parent], mutations: Sequence[Mutation], rng: random.Random, limits: Limits,
           known: Collection[str] = frozenset()) -> tuple[Child | None, list[Discarded]]:
    """Make a child of one of the parents; return it and what was tried before.

    It is grown, compared with its parent, costed, and of no `known` structure; None: `TRIES` mutations led to nothing.

    Raises:
        TrainError: there is nothing to draw from, or a pass cannot be kept as data.
    """
    if not any(m.weight > 0 for m in mutations) or not all(0 <= m.weight < math.inf for m in mutations):
        raise TrainError("there is no mutation to draw: give at least one with a weight above 0, and none below")
    discarded: list[Discarded] = []
    for _ in range(TRIES):
        parent = rng.choice(list(parents))
        mutation, = rng.choices(list(mutations), [m.weight for m in mutations])
        drawn = mutation.draw(parent, rng, known)
        if drawn is None:
            continue
        step = describe(drawn)
        try:
            with parent.cache.active():
                grown = grow(parent.model, parent.inputs, drawn)
            return _checked(parent, grown, step, limits, known), discarded
        except (GrowthError, SelectionError, CaptureError) as error:
            parent.led_to[_kind_and_place(step)] = ""
            discarded.append(Discarded(parent.number, step, str(error)))
        except Unwanted as why:
            discarded.append(Discarded(parent.number, step, str(why)))
    return None, discarded


def _kind_and_place(step: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a step's structure follows from: all of its options but the seed, and where it is done."""
    rest = {name: value for name, value in step.items() if name not in ("where", "seed")}
    return json.dumps(rest, sort_keys=True), str(step.get("where"))


class Unwanted(Exception):
    """A child that is too large, a duplicate, or not equal to its parent."""


def _checked(parent: Parent, grown: Grown, step: dict[str, Any], limits: Limits, known: Collection[str]) -> Child:
    tried = _kind_and_place(step)
    shared = Shared(parent.layers, grown.model)  # type: ignore[arg-type]
    structure = parent.led_to[tried] = parent.hashes.of(shared.gm, shared)
    if structure in known:
        raise Unwanted("a network of this structure is there already")
    parameters, flops = costs(shared.gm, parent.inputs, parent.counter, shared)
    reason = (_too_large("parameters", parameters, parent.costs[0], limits.growth, limits.parameters)
              or _too_large("FLOPs", flops, parent.costs[1], limits.growth, limits.flops))
    if reason:
        parent.led_to[tried] = ""
        raise Unwanted(reason)
    error = gap(parent.outputs.own, parent.outputs.of(shared.gm, shared))
    if error > TOLERANCE.get(parent.inputs.dtype, 1e-4):
        raise Unwanted(f"not equal to its parent: relative error {error:.1e}")
    if limits.tied:
        fxgrow.tie(parent.model, grown.model, grown.record)  # raises where that cannot be
    child = Child(parent.number, grown, step, structure, parameters, flops)
    if limits.latency is not None:
        child.latency = latency(grown.model, parent.inputs)  # type: ignore[arg-type]
        if child.latency > limits.latency:
            raise Unwanted(f"takes {child.latency:.2f} ms; at most {limits.latency:g} ms")
    return child


def _too_large(name: str, value: int, before: int, growth: float, most: float | None) -> str:
    if value > growth * before:
        return f"{value / before:.2f} times its parent's {name}; at most {growth:g} times"
    return f"{value:,} {name}; at most {most:,.0f}" if most is not None and value > most else ""


def grow(model: GraphModule, inputs: Tensor, step: PassBase | Mapping[str, Any]) -> Grown:
    """Return a child, compiled when it is run, with the record of this step alone: its parent is in the search as well."""
    with compiled_later(), copied_when_written():
        grown = fxgrow.transform(model, inputs, step if isinstance(step, PassBase) else build(step))
    Captured(grown.model).record = grown.step
    return dataclasses.replace(grown, record=grown.step)


@functools.cache
def passes() -> dict[str, type[PassBase]]:
    """Return all passes that are installed, by name."""
    return loaded_passes()


def pass_called(name: str | type) -> type[PassBase]:
    """Return the class of a pass: an installed one by its name, one's own as `package.module:Class` or as it is."""
    if isinstance(name, type):
        return name
    if name in passes():
        return passes()[name]
    module, _, path = name.partition(":")
    with contextlib.suppress(ImportError, AttributeError):
        found = operator.attrgetter(path)(importlib.import_module(module)) if path else None
        if isinstance(found, type):
            return found
    raise TrainError(f"a mutation needs a pass, and there is none called {name!r}{did_you_mean(name, list(passes()))}; "
                     f"there are {', '.join(passes())}, and your own as package.module:Class")


def name_of(cls: type) -> str:
    """Return the name by which `pass_called` finds a class again, here and in other processes."""
    name = next((n for n, one in passes().items() if one is cls), f"{cls.__module__}:{cls.__qualname__}")
    with contextlib.suppress(TrainError):
        if pass_called(name) is cls:
            return name
    raise TrainError(f"{cls.__name__} cannot be found again as {name}, so a search could not go on after an interruption: "
                     "define it at the top level of a module, or register it under fxgrow.passes")


def describe(drawn: PassBase) -> dict[str, Any]:
    """Return a pass as data, of which `build` makes it again; raise TrainError where that cannot be."""
    if not isinstance(drawn, PassBase):
        raise TrainError(f"{type(drawn).__name__} is no pass: a mutation gives one, or None where there is nothing to do")
    name, missing = name_of(type(drawn)), object()
    options = {option: getattr(drawn, option, missing) for option in inspect.signature(type(drawn)).parameters}
    step = {"pass": name} | {option: value for option, value in options.items() if value is not None}
    for option, value in step.items():
        try:
            if value is missing:
                raise TypeError
            json.dumps(value)
        except (TypeError, ValueError) as error:
            what = "is no attribute of it" if value is missing else f"is {brief(value)}"
            raise TrainError(f"{name}: {option} {what}, which cannot be kept for going on after an interruption: give "
                             "numbers and words") from error
    return step


def build(step: Mapping[str, Any]) -> PassBase:
    """Return the pass that `describe` took apart."""
    options = dict(step)
    cls = pass_called(options.pop("pass"))
    return cls(**as_fields(cls, options))


@torch.no_grad()
def outputs(model: GraphModule, inputs: Tensor) -> Tensor:
    """Run a model in eval mode."""
    with evaluating(model):
        return model(inputs)


def gap(before: Tensor, after: Tensor) -> float:
    """Return the largest difference relative to the largest output; infinite where there are more, or any is not finite."""
    if before.shape != after.shape:
        return math.inf
    error = float((before - after).abs().max()) / max(float(before.abs().max()), 1e-30)
    return math.inf if math.isnan(error) else error


def costs(model: GraphModule, inputs: Tensor, counter: ForwardCounter | None = None,
          shared: Shared | None = None) -> tuple[int, int]:
    """Return the parameters, and the FLOPs of a forward pass for one sample; a counter knows what its networks share."""
    layers = [m for _, m in modules_by_path(model)] if shared is None else shared.layers.values()
    held = {id(p): p.numel() for m in layers for p in m._parameters.values() if p is not None}
    return sum(held.values()), (counter or ForwardCounter()).count(model, inputs[:1], shared)


def latency(model: GraphModule, inputs: Tensor, repeats: int = 7) -> float:
    """Return the median time of a forward pass of one sample in eval mode, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        outputs(model, inputs[:1])
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[repeats // 2]
