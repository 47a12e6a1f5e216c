"""A dense model whose perceptrons became experts, put into a class of mixtures of transformers.

No rule here knows a class: those whose configuration counts experts are tried without numbers, first those named like the
small one's, then those that know the fewest settings besides. What a number of a configuration does is seen by changing it.
"""
import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxgrow.common import nearest, one_line
from fxgrow.compare import verify
from fxgrow.errors import GrowthError
from fxgrow.graph import uncached
from fxgrow.models import (
    changed,
    class_of,
    configurations_for,
    example_inputs,
    fresh,
    library,
    numbers,
    results_alone,
    shapes_of,
    without_numbers,
)
from fxgrow.passes.into.advice import LAYERS, NAMES
from fxgrow.passes.into.copied_experts import counts_of
from fxgrow.passes.into.growing import Into
from fxgrow.passes.into.mixtures import TENSORS, Mixture, experts_of, run_everywhere
from fxgrow.passes.into.plan import Options
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.sources import folder_of
from fxgrow.record import Grown

EXPERT = re.compile(r"(?:^|(?<=\.))experts(?:_\d+)?\.(\d+)\.")  # as the pass `experts` names them
OPTIONS = Options("netmorph", "end", False, False, 0)  # nothing is drawn by them: both have the same sizes
TRIED = 12  # classes


def is_mixture(grown: Grown) -> bool:
    """Tell whether a grown graph has perceptrons that became experts, one by one."""
    return any(_number(name) for name in grown.model.state_dict())


def put_into_mixture(grown: Grown, model: Any, inputs: Any, kind: str | None = None) -> GrownInto:
    """Return a grown model with experts as one of a stock class of mixtures; both are compared.

    kind: the class by its `model_type`, as `mixtral` (None: the first that fits).

    Raises:
        GrowthError: no class fits, or that of this name doesn't; says why.
    """
    numbers = _Numbers(grown)
    dense = numbers.dense(model)
    reasons: list[str] = []
    for config in _configurations(dense, numbers, kind, reasons):
        big = fresh(class_of(config, dense), config, dense)
        into = Into(dense, big, inputs, OPTIONS)
        found = into.grow(check=False)
        numbers.fill(found.model, into)
        found.model = run_everywhere(found.model)
        with uncached(found.model), results_alone(found.model):
            found.verification = into.allowing(verify(grown.model, found.model, inputs))
        if not found.verification.ok:
            raise GrowthError(f"a {type(big).__name__} differs by {found.verification.max_rel_error:.2g} of the largest "
                              "output: do the other passes first, into a folder, and --pass experts on that")
        found.record, found.source = numbers.record().then(found.record), folder_of(model)
        return found
    placed = next((why for why in reasons if "alone have experts" in why), None)
    raise GrowthError(reasons[0] if kind else placed or "no class of mixtures that transformers has computes the same")


class _Numbers:
    """The numbers of a grown graph whose perceptrons became experts, by the names that the dense model had for them."""

    def __init__(self, grown: Grown):
        self.grown, self.held = grown, grown.model.state_dict()
        self.count = 1 + max(filter(None, map(_number, self.held)))
        chosen = {n.args[1] for n in grown.model.graph.nodes if n.target is torch.topk}
        self.top_k = chosen.pop() if len(chosen) == 1 else 0
        first = [name for name in self.held if _number(name) == 0]
        self.routers = {f"{home}router.weight": home.rstrip(".") for home in dict.fromkeys(map(_home, first))}
        self.names = {EXPERT.sub("", name, 1): name for name in self.held
                      if not _number(name) and name not in self.routers}

    def dense(self, model: Any) -> Any:
        """Return the dense model of the first experts, of the class of `model`."""
        known = shapes_of(self.grown.model)
        shapes = {dense: known[name] for dense, name in self.names.items() if name in known}
        config = next(configurations_for(model, shapes), None)
        if config is None:
            raise GrowthError(f"no configuration of {type(model).__name__} has the grown shapes")
        dense = fresh(type(model), config, model).eval()
        dense.load_state_dict({name: self.held[ours] for name, ours in self.names.items()}, strict=False)
        return dense

    @torch.no_grad()
    def fill(self, big: nn.Module, into: Into) -> None:
        """Put each expert's own numbers and those of the routers into a mixture that was filled with equal ones."""
        homes = {self._home_of(mixture, into): mixture for mixture in into.mixtures}
        if homes.keys() != {*self.routers.values()}:
            raise GrowthError(f"{type(big).__name__} has experts in {', '.join(m.path for m in into.mixtures)}, and the "
                              f"grown model in {', '.join(self.routers.values())}")
        for router, home in self.routers.items():
            mixture = homes[home]
            up, down = (big.get_parameter(f"{mixture.path}.{mixture.experts}.{name}") for name in TENSORS)
            for i in range(self.count):
                gate, rise, fall = (self.held[self._of(i, self._dense_name(mixture, part, into))]
                                    for part in ("gate", "up", "down"))
                up[i] = torch.cat([gate, rise])
                down[i] = fall / mixture.total  # type: ignore[operator]
            own = [p for n, p in big.get_submodule(mixture.path).named_parameters()
                   if p.shape == self.held[router].shape and not n.startswith(f"{mixture.experts}.")]
            if len(own) != 1:
                raise GrowthError(f"{mixture.path} has no router that is known")
            own[0].copy_(self.held[router])

    def _dense_name(self, mixture: Mixture, part: str, into: Into) -> str:
        return into.pairing.names[f"{mixture.path}.{part}_proj.weight"]

    def _home_of(self, mixture: Mixture, into: Into) -> str:
        return _home(self.names[self._dense_name(mixture, "down", into)]).rstrip(".")

    def _of(self, i: int, name: str) -> str:
        """Return the name that expert i has for a tensor of the dense model."""
        first = self.names[name]
        start, end = EXPERT.search(first).span(1)  # type: ignore[union-attr]
        return f"{first[:start]}{i}{first[end:]}"

    def record(self) -> Any:
        """Return the record of the growth up to the dense model, with the whole lineage."""
        record = self.grown.record
        kept = {name: record.parameters[ours] for name, ours in self.names.items() if ours in record.parameters}
        return replace(record, parameters=kept, removed=record.removed - kept.keys())


def _number(name: str) -> int | None:
    """Return of which expert a tensor is (None: of none)."""
    found = EXPERT.search(name)
    return int(found[1]) if found else None


def _home(name: str) -> str:
    """Return what stands in front of the experts in the name of a tensor of one ("": it is of none)."""
    found = EXPERT.search(name)
    return name[:found.start()] if found else ""


def _configurations(dense: Any, wanted: _Numbers, kind: str | None, reasons: list[str]) -> Iterator[Any]:
    """Yield configurations of mixtures that compute what a dense model does with these experts.

    reasons: takes why others don't.
    """
    small = _few(dense.config, dense)
    found: list[tuple[int, str, Any, Any]] = []
    names = {*shapes_of(small)}
    for name in [kind] if kind else islice(_kinds(dense), TRIED):
        try:
            config = _filled(name, dense, wanted)
            big = _few(config, dense)
            found.append((len(names ^ {*shapes_of(big)}), name, config, big))
        except Exception as why:  # whatever a class says of settings of another one
            reasons.append(f"{name}: {(str(why).strip().splitlines() or [one_line(why)])[-1].strip()}")
    for _, name, config, big in sorted(found, key=lambda entry: entry[0]):  # whose other layers have the same names, first
        try:
            into = Into(small, big, example_inputs(small), OPTIONS, streamed=True)
            if into.wrong or not into.mixtures or any(mixture.carries for mixture in into.mixtures):
                raise GrowthError("its experts alone do not compute this")
        except Exception as why:
            reasons.append(f"{name}: {one_line(why)}")
            continue
        placed = next(_placed(config, dense, wanted), None)
        if placed is None:
            homes = ", ".join(wanted.routers.values())
            reasons.append(f"{name}: its configuration does not say that {homes} alone have experts: name another "
                           "class (--mixture, kind=)")
            continue
        yield placed


def _placed(config: Any, dense: Any, wanted: _Numbers) -> Iterator[Any]:
    """Yield configurations by which the layers that have experts are those wanted: as it is, or by a list of the others."""
    layers = {_layer(home) for home in wanted.routers.values()}
    others = [i for i in range(dense.config.num_hidden_layers) if i not in layers]
    empty = [name for name, value in config.to_dict().items() if value == []] if others else []
    for changes in ({}, *({name: others} for name in empty)):
        other = changed(config, changes)
        big = without_numbers(class_of(other, dense), other, dense.dtype)
        if {_layer(path) for path, _ in experts_of(big)} == layers:
            yield other


def _layer(path: str) -> int | None:
    """Return the number of the layer that a path is in."""
    return next((int(word) for word in path.split(".") if word.isdigit()), None)


def _few(config: Any, dense: Any) -> Any:
    """Return a model of few layers without numbers."""
    few = changed(config, {"num_hidden_layers": min(LAYERS, dense.config.num_hidden_layers)})
    return without_numbers(class_of(config, dense), few, dense.dtype).eval()


def _kinds(dense: Any) -> Iterator[str]:
    """Yield the names of configurations that may be of mixtures: first those that begin like the dense one's."""
    auto, own = _auto(), dense.config.model_type
    root = Path(library().__path__[0], "models")
    found = [kind for kind in auto.CONFIG_MAPPING_NAMES if kind != own and any(
        "expert" in file.read_text() for file in (root / auto.model_type_to_module_name(kind)).glob("configuration_*.py"))]
    known, others = {*dense.config.to_dict()}, {}
    for kind in found:
        try:
            config = auto.CONFIG_MAPPING[kind]()
            class_of(config, dense)
            settings = {*config.to_dict()}
            if "num_hidden_layers" in settings:
                others[kind] = not kind.startswith(own), len(settings - known)
        except Exception:  # one that has no defaults, or not this head
            continue
    yield from sorted(others, key=others.__getitem__)


def _filled(kind: str, dense: Any, wanted: _Numbers) -> Any:
    """Return a configuration of a mixture with the settings that the dense one has too, and so many experts.

    Which number counts experts, and which those that are chosen, is seen by changing it.
    """
    names = _auto().CONFIG_MAPPING
    if kind not in names:
        raise GrowthError(f"transformers knows no {kind!r}{nearest(kind, names)}")
    ours, data = dense.config.to_dict(), {}
    for name, value in names[kind]().to_dict().items():
        like = next((size for other, size in ours.items() if name.endswith(f"_{other}")), None)
        if name in ours and name not in NAMES:
            data[name] = ours[name]
        elif type(like) is type(value) is int:  # the size of an expert, or of a shared one
            data[name] = like
        elif name == "norm_topk_prob":  # without which the weights of equal experts have no sum of their own
            data[name] = True
    config = names[kind].from_dict(data)
    before = counts_of(_few(config, dense))
    found: dict[str, int] = {}
    for path, value in numbers(config.to_dict()):
        if value in before and path not in ours:
            after = counts_of(_few(changed(config, {path: value + 1}), dense))
            for old, new, wish in zip(before, after, (wanted.count, wanted.top_k)):
                found |= {path: wish} if old != new else {}
    return changed(config, found)


def _auto() -> Any:
    return importlib.import_module("transformers.models.auto.configuration_auto")
