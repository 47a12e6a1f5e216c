"""Mutations: the passes, drawn at random with their places and options.

What lives here: what a mutation is, and how one child is made of a parent and checked before anything is trained.
"""
from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
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
from fxgrow.cli import found, load_pass
from fxgrow.compare import TOLERANCE
from fxgrow.errors import CaptureError, FxgrowError, GrowthError, SelectionError
from fxgrow.experiments.evolve.member import graph_hash
from fxgrow.experiments.settings import TrainError, nearest
from fxgrow.graph import LAYERS, Known, below, calls, inside
from fxgrow.record import Grown

TRIES = 30  # mutations that are tried for one child
SHARED = ("r2r", "netmorph")  # methods under which a child's old numbers can be its parent's


@dataclass
class Parent:
    """A network to mutate, with what is known of it: computed once for all its children.

    led: for each kind of step that was tried, and its place, the structure that it led to; "" where it led to nothing.
    """
    number: int
    model: GraphModule
    inputs: Tensor
    led: dict[tuple[str, str], str] = field(default_factory=dict)

    @functools.cached_property
    def known(self) -> Known:
        return Known(self.model)

    @functools.cached_property
    def outputs(self) -> Tensor:
        return outputs(self.model, self.inputs)

    @functools.cached_property
    def costs(self) -> tuple[int, int]:
        return costs(self.model, self.inputs)

    def places(self, kind: str) -> list[str]:
        """Names to draw from (see `PLACES`)."""
        if kind not in self._places:
            with self.known.used():
                self._places[kind] = PLACES[kind](self.model, self.inputs)
        return self._places[kind]

    def open(self, kind: str, places: Sequence[str], known: Collection[str]) -> list[str]:
        """The places where a kind of step has not led to nothing yet, nor to a structure that is known by now."""
        led = {place: self.led.get((kind, place)) for place in places}
        return [place for place in places if led[place] is None or led[place] and led[place] not in known]

    @functools.cached_property
    def _places(self) -> dict[str, list[str]]:
        return {}


def _classes(gm: GraphModule, inputs: Tensor) -> list[str]:
    return [c.name for c in growable(analyse(gm)) if c.producers]


def _modules(gm: GraphModule, inputs: Tensor) -> list[str]:
    return [name for name, _ in gm.named_modules() if name]


def _blocks(gm: GraphModule, inputs: Tensor) -> list[str]:
    layers = calls(gm)
    return [n for n in _modules(gm, inputs) if any(below(c.name, n) or inside(c.node, n) for c in layers)]


def _convolutions(gm: GraphModule, inputs: Tensor) -> list[str]:
    kinds = tuple(v for (rank, _), v in LAYERS.items() if rank)
    called = dict.fromkeys(str(n.target) for n in gm.graph.nodes if n.op == "call_module")
    return [name for name in called if isinstance(gm.get_submodule(name), kinds)]


# Axis classes; all modules; those that are or hold a convolution or linear layer; convolutions.
PLACES: dict[str, Callable[[GraphModule, Tensor], list[str]]] = {
    "classes": _classes, "modules": _modules, "blocks": _blocks, "convolutions": _convolutions}
USUAL = {"widen": "classes", "deepen": "blocks", "kernel": "convolutions", "branch": "convolutions"}


@dataclass
class Mutation:
    """A pass to draw, how often, where, and with which options; an option that is a list is drawn from.

    The seed of a pass is to decide numbers, not structure: a step that has led to nothing, or to a structure that is known,
    is not drawn again with another seed.

    make: instead of a pass, a function of (network, inputs, generator) that gives one, or None where it has nothing to do.
    """
    name: str
    weight: float = 1.0
    places: str = "modules"
    options: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[GraphModule, Tensor, random.Random], PassBase | None] | None = None

    def draw(self, parent: Parent, rng: random.Random, known: Collection[str] = ()) -> PassBase | None:
        """A pass for one place; None where there is none. known: structures that are not wanted again."""
        if self.make is not None:
            return self.make(parent.model, parent.inputs, rng)
        chosen = {k: rng.choice(list(v)) if isinstance(v, (list, tuple)) else v for k, v in sorted(self.options.items())}
        cls = passes()[self.name]
        if "seed" in {f.name for f in dataclasses.fields(cls)}:
            chosen["seed"] = rng.randrange(2 ** 31)
        places = parent.places(self.places)
        if places:
            kind, _ = _form(describe(cls(where=places[0], **chosen)))
            places = parent.open(kind, places, known)
        return cls(where=rng.choice(places), **chosen) if places else None


def default_mutations() -> list[Mutation]:
    """Widths and depths mostly, as in the report; kernels, branches, skips and gates now and then."""
    return [Mutation("widen", 4, "classes", {"factor": [1.25, 1.5, 2.0], "method": ["r2r", "netmorph"]}),
            Mutation("deepen", 3, "blocks", {"method": ["r2r", "netmorph"]}),
            Mutation("kernel", 1, "convolutions", {"size": [5]}),
            Mutation("branch", 1, "convolutions", {"join": ["sum"], "method": ["r2r"]}),
            Mutation("skip", 0.5, "modules", {"weight": ["scalar", "channel"]}),
            Mutation("se", 0.5, "modules", {"reduction": [4, 16]})]


def mutations_of(tables: Sequence[Mapping[str, Any]], weights: str = "inherit") -> list[Mutation]:
    """The mutations that a search's settings name.

    Raises:
        TrainError: a table does not say a pass that there is, or has options that the pass has not.
    """
    made = []
    for table in tables:
        rest = dict(table)
        name = rest.pop("pass", None)
        if name not in passes():
            raise TrainError(f"a mutation needs a pass, and there is none called {name!r}"
                             f"{nearest(str(name), list(passes()))}; there are {', '.join(passes())}")
        weight, places = rest.pop("weight", 1.0), rest.pop("places", USUAL.get(name, "modules"))
        if not isinstance(places, str) or places not in PLACES:
            raise TrainError(f"mutation {name}: places is {places!r}; it must be one of {', '.join(PLACES)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise TrainError(f"mutation {name}: weight is {weight!r}; it must be a number above 0")
        options = [f.name for f in dataclasses.fields(passes()[name]) if f.init]  # type: ignore[arg-type]
        for option, value in rest.items():
            if option in ("where", "seed"):
                raise TrainError(f"mutation {name}: {option} is drawn anew for each child; leave it out")
            if option not in options:
                raise TrainError(f"mutation {name}: the pass has no option {option!r}{nearest(option, options)}")
            if isinstance(value, (list, tuple)) and not value:
                raise TrainError(f"mutation {name}: {option} is an empty list; give at least one value to draw")
        try:
            for chosen in itertools.product(*(v if isinstance(v, (list, tuple)) else [v] for v in rest.values())):
                passes()[name](where="x", **dict(zip(rest, chosen)))
        except (TypeError, ValueError, FxgrowError) as error:
            raise TrainError(f"mutation {name}: {error}") from error
        made.append(Mutation(name, float(weight), places, rest))
    made = made or default_mutations()
    if weights == "share":
        for each in made:
            methods = each.options.get("method", "r2r")
            if not set([methods] if isinstance(methods, str) else methods) <= set(SHARED):
                raise TrainError(f"mutation {each.name}: with weights share, method must be {' or '.join(SHARED)}, whose "
                                 "old numbers are the parent's")
    return made


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
    """growth: how many times its parent a child may be, in parameters and in FLOPs; tied: whether its old numbers are to be
    its parent's; the others are of a child itself."""
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
    """One child of one of the parents: grown, compared with its parent, costed, and no duplicate; and what was tried before.

    Args:
        known: graph hashes of networks that there are already.

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
            with parent.known.used():
                grown = grow(parent.model, parent.inputs, drawn)
            return _checked(parent, grown, step, limits, known), discarded
        except (GrowthError, SelectionError, CaptureError) as error:
            parent.led[_form(step)] = ""
            discarded.append(Discarded(parent.number, step, str(error)))
        except Unwanted as why:
            discarded.append(Discarded(parent.number, step, str(why)))
    return None, discarded


def _form(step: Mapping[str, Any]) -> tuple[str, str]:
    """What a step's structure follows from: what is done (all but the seed), and where."""
    rest = {k: v for k, v in step.items() if k not in ("where", "seed")}
    return json.dumps(rest, sort_keys=True), str(step.get("where"))


class Unwanted(Exception):
    """A child that is too large, a duplicate, or not equal to its parent."""


def _checked(parent: Parent, grown: Grown, step: dict[str, Any], limits: Limits, known: Collection[str]) -> Child:
    structure = parent.led[_form(step)] = graph_hash(grown.model)  # type: ignore[arg-type]
    if structure in known:
        raise Unwanted("a network of this structure is there already")
    parameters, flops = costs(grown.model, parent.inputs)
    for name, value, before, most in (("parameters", parameters, parent.costs[0], limits.parameters),
                                      ("FLOPs", flops, parent.costs[1], limits.flops)):
        if value > limits.growth * before or most is not None and value > most:
            parent.led[_form(step)] = ""
        if value > limits.growth * before:
            raise Unwanted(f"{value / before:.2f} times its parent's {name}; at most {limits.growth:g} times")
        if most is not None and value > most:
            raise Unwanted(f"{value:,} {name}; at most {most:,.0f}")
    error = gap(parent.outputs, outputs(grown.model, parent.inputs))
    if error > TOLERANCE.get(parent.inputs.dtype, 1e-4):
        raise Unwanted(f"not equal to its parent: relative error {error:.1e}")
    if limits.tied:
        fxgrow.tie(parent.model, grown.model, grown.record)  # raises where that cannot be
    child = Child(parent.number, grown, step, structure, parameters, flops)
    if limits.latency is not None:
        child.latency = latency(grown.model, parent.inputs)
        if child.latency > limits.latency:
            raise Unwanted(f"takes {child.latency:.2f} ms; at most {limits.latency:g} ms")
    return child


def grow(model: GraphModule, inputs: Tensor, step: PassBase | Mapping[str, Any]) -> Grown:
    """A child, with the record of this one step alone."""
    held = model.meta.pop("growth", None)
    try:
        return fxgrow.transform(model, inputs, step if isinstance(step, PassBase) else build(step))
    finally:
        if held is not None:
            model.meta["growth"] = held


@functools.cache
def passes() -> dict[str, type[PassBase]]:
    """All passes that are installed, by name."""
    return {name: load_pass(name) for name in found()}


def describe(drawn: PassBase) -> dict[str, Any]:
    """A pass as data; `build` makes it again."""
    name = next((n for n, cls in passes().items() if type(drawn) is cls), None)
    if name is None:
        raise TrainError(f"{type(drawn).__name__} is no pass that is registered under fxgrow.passes, so a search could not "
                         "go on after an interruption: register it")
    step = {"pass": name, **{f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn)  # type: ignore[arg-type]
                             if f.init and getattr(drawn, f.name) is not None}}
    for option, value in step.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TrainError(f"{name}: {option} is {value!r}, which cannot be kept for going on after an interruption: give "
                             "numbers and words") from error
    return step


def build(step: Mapping[str, Any]) -> PassBase:
    """The pass that `describe` gave."""
    rest = dict(step)
    return passes()[rest.pop("pass")](**rest)


@torch.no_grad()
def outputs(model: GraphModule, inputs: Tensor) -> Tensor:
    """What a model gives in eval mode."""
    was = model.training
    try:
        return model.eval()(inputs)
    finally:
        model.train(was)


def gap(before: Tensor, after: Tensor) -> float:
    """The largest difference, relative to the largest output; infinite where something is not finite."""
    error = float((before - after).abs().max()) / max(float(before.abs().max()), 1e-30)
    return error if error == error else float("inf")


def costs(model: GraphModule, inputs: Tensor) -> tuple[int, int]:
    """Parameters, and FLOPs of a forward pass for one sample."""
    count = fxgrow.count_flops(model, inputs[:1])
    return count.parameters, count.forward


def latency(model: GraphModule, inputs: Tensor, repeats: int = 7) -> float:
    """The median time of a forward pass of one sample in eval mode, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        outputs(model, inputs[:1])
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times)[repeats // 2]
