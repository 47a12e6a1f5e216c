"""Configurations of stock classes: one changed by names and values, and those by which a class has given shapes.

No rule here knows a model: what a number of a configuration does is seen on models without numbers (on the meta device).
"""
import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxgrow.common import nearest, one_line
from fxgrow.errors import ModelError
from fxgrow.graph import prefixes
from fxgrow.models.folders import class_of

Shapes = dict[str, tuple[int, ...]]


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read `hidden_size=4096`, `tie_word_embeddings=false`, `rope_parameters.rope_theta=1e6` as names and values."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ModelError(f"--set {text!r}: write a name of the configuration and a value, as hidden_size=4096")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return a configuration with other values, by name, or by path in what it holds (`text_config.vocab_size`, `depths.1`).

    What its class works out from other values, a list for each layer, is worked out anew.

    Raises:
        ModelError: it has no such name, or refuses the value.
    """
    kind, data, late = type(config), config.to_dict(), {}
    asked = {path.partition(".")[0] for path in changes}
    for name, value in data.items():
        if isinstance(value, list) and name not in asked:
            rest = {k: v for k, v in data.items() if k != name}
            with contextlib.suppress(Exception):  # of values that do not go together without it
                data = rest if kind.from_dict(rest).to_dict().get(name) == value else data
    for path, value in changes.items():
        *above, last = path.split(".")
        place: Any = data
        for name in above:
            place = _held(place).get(name, {})
        last = getattr(config, "attribute_map", {}).get(last, last) if place is data else last
        if getattr(getattr(kind, last, None), "fset", None) and place is data:
            late[last] = value  # what the class works out from others, and others from it (num_labels)
            continue
        if last not in _held(place):
            raise ModelError(f"{kind.__name__} has no {path!r}{nearest(path, config.to_dict())}")
        place[int(last) if isinstance(place, list) else last] = value
    try:
        made = kind.from_dict(data)
        for name, value in late.items():
            setattr(made, name, value)
    except Exception as error:
        what = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise ModelError(f"{kind.__name__} cannot have {what}: {_told(error)}") from error
    if kept := _kept(config, changes, made):
        raise ModelError(f"{kind.__name__} keeps {kept}")
    return made


def _held(value: Any) -> dict[str, Any]:
    """Return what a part of a configuration holds by name, or by number."""
    return {str(i): v for i, v in enumerate(value)} if isinstance(value, list) else value if isinstance(value, dict) else {}


def _kept(config: Any, changes: Mapping[str, Any], made: Any) -> str:
    """Return what a configuration still says although it was to change ("": nothing), of numbers the type, say."""
    before, after = config.to_dict(), made.to_dict()
    for name, value in changes.items():
        if name in ("dtype", "torch_dtype") and str(value).removeprefix("torch.") != before.get("dtype"):
            return f"dtype={before.get('dtype')}: a growth casts nothing"
        if name in after and value != before.get(name) == after[name] is not None and name not in ("dtype", "torch_dtype"):
            return f"{name}={after[name]}: another class is given by its own configuration"
    return ""


def _told(error: Exception) -> str:
    """Return what a class says of a value: of several lines, the last, which has the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else one_line(error)


def shapes_of(model: nn.Module) -> Shapes:
    """Return the shape of each parameter, by each of its names."""
    return {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}


def configurations_for(model: Any, wanted: Shapes) -> Iterator[Any]:
    """Yield the configurations by which a model's class has parameters of these names and shapes."""
    search = _Search(class_of(model.config, model), model.config, wanted)
    yield from search.solutions(model.config)


def with_layers(config: Any, start: Any, kept: Mapping[int, int]) -> Iterator[Any]:
    """Yield a configuration, then those in which what it says of each layer (`layer_types`) goes with the layers.

    kept: by the number of a layer, that which it had under `start`. A new one is like the one in front, or like another.
    """
    yield config
    old, known = dict(_lists(start.to_dict())), dict(_lists(config.to_dict()))
    lists = {path: old[path] for path, values in known.items()
             if len(old.get(path, ())) == len({*kept.values()}) and len(values) > len(old[path])}
    fillings = list(dict.fromkeys(repr(v) for values in lists.values() for v in values))
    for filling in [None, *fillings]:
        changes = {}
        for path, values in lists.items():
            found: list = []
            others = [v for v in values if repr(v) == filling]
            for i in range(len(known[path])):
                found.append(values[kept[i]] if i in kept else others[0] if others else found[-1] if found else values[0])
            if found != known[path]:
                changes[path] = found
        if changes:
            yield changed(config, changes)


def _lists(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, list]]:
    """Yield the lists in a configuration, by path."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _lists(value, f"{path}{name}.")
        elif isinstance(value, list):
            yield f"{path}{name}", value


@dataclass
class _Search:
    """A search over the whole numbers of a configuration: each change mends the first difference between shapes.

    effects: by number, the axes of parameters that it changes, and the names that it adds. silent: by number, how many
    numbers of layers it changes (heads, that divide a width, change no shape).
    """
    kind: Any
    start: Any
    wanted: Shapes
    effects: dict[str, set] = field(default_factory=dict)
    silent: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        before = self._built(self.start)
        for path, value in numbers(self.start.to_dict()):
            after = next(filter(None, (self._built(self._with(self.start, path, v)) for v in (2 * value, value + 1))), None)
            if before is None or after is None:
                continue
            old, new = shapes_of(before), shapes_of(after)
            axes = {(name, d) for name in old.keys() & new.keys()
                    for d, (n, m) in enumerate(zip(old[name], new[name])) if n != m}
            if axes or new.keys() != old.keys():
                self.effects[path] = axes | (new.keys() - old.keys())
            self.silent[path] = len(set(_facts(before)) ^ set(_facts(after)))

    def solutions(self, config: Any, tried: frozenset[str] = frozenset()) -> Iterator[Any]:
        """Yield the configurations with the wanted shapes that other numbers than those tried lead to."""
        shapes = self._shapes(config) or {}
        lacking = self.wanted.keys() - shapes.keys()
        place = next(((name, d) for name in sorted(self.wanted) if name in shapes
                      for d, (n, m) in enumerate(zip(shapes[name], self.wanted[name])) if n != m), None)
        if shapes == self.wanted:
            yield config
            moves: list[tuple[str, int | None]] = self._silently(config, tried)
        else:
            moves = [(path, self._value(config, path, shapes, place)) for path, effect in self.effects.items()
                     if path not in tried and (lacking & effect if lacking else place in effect)]
        for path, value in moves:
            other = None if value is None else self._with(config, path, value)
            if other is not None:
                yield from self.solutions(other, tried | {path})

    def _silently(self, config: Any, tried: frozenset[str]) -> list[tuple[str, int | None]]:
        """Return numbers that may have grown as others have, those first that most layers know of."""
        old, new = dict(numbers(self.start.to_dict())), dict(numbers(config.to_dict()))
        ratios = {new[path] / old[path] for path in tried if any(isinstance(e, tuple) for e in self.effects.get(path, ()))}
        return [(path, int(new[path] * ratio)) for path, count in self.silent.most_common() if count and path not in tried
                for ratio in sorted(ratios - {1.0}) if path in new and float(new[path] * ratio).is_integer()]

    def _value(self, config: Any, path: str, shapes: Shapes, place: tuple[str, int] | None) -> int | None:
        """Return the value of a number by which the wanted names are there, or an axis has its wanted size."""
        value, lacking = dict(numbers(config.to_dict())).get(path, 0), self.wanted.keys() - shapes.keys()
        steps = (1,) if lacking else (value, 1)
        step, after = next(((n, s) for n in steps if (s := self._shapes(self._with(config, path, value + n)))), (0, {}))
        if lacking:
            new, known = after.keys() - shapes.keys(), {place for name in shapes for place in prefixes(name)}
            lists = {_list_of(name, known) for name in new}
            count = sum(_list_of(name, known) in lists for name in lacking)
            return value + count // len(new) if new and count % len(new) == 0 else None
        if place is None or place[0] not in after:
            return None
        name, d = place
        slope = (after[name][d] - shapes[name][d]) / step
        found = value + (self.wanted[name][d] - shapes[name][d]) / slope if slope else 0
        return int(found) if found == int(found) and found > 0 else None

    def _with(self, config: Any, path: str, value: int) -> Any:
        try:
            return changed(config, {path: value})
        except ModelError:
            return None

    def _shapes(self, config: Any) -> Shapes | None:
        """Return the shapes of a model by a configuration; None where there is no such model."""
        model = self._built(config)
        return None if model is None else shapes_of(model)

    def _built(self, config: Any) -> nn.Module | None:
        try:
            with torch.device("meta"):
                return None if config is None else self.kind(config)
        except Exception:  # what a class says of sizes that do not go together
            return None


def _facts(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield the numbers that layers have among their attributes."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, (int, float)):
                yield path, name, value


def numbers(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a configuration that may be sizes, by path."""
    for name, value in data.items():
        if str(name).endswith("_token_id"):
            continue
        if isinstance(value, (dict, list)):
            yield from numbers(_held(value), f"{path}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield f"{path}{name}", value


def _list_of(name: str, known: Collection[str]) -> str:
    """Return the list of layers in a parameter's name: what stands in front of its first number that is not known."""
    return next((place.rpartition(".")[0] for place in prefixes(name) if place not in known
                 and place.rpartition(".")[2].isdigit()), name)
