"""What to change in a configuration whose model is no start as it stands, found by trying it on models without numbers.

No rule here knows a model: what the big configuration says and the small one says otherwise, or does not say, is put as the
small one has it, together and one by one; of what fits, that is told which it needs.
"""
import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from fxgrow.models import changed, dtype_of, example_inputs, with_layers, without_numbers
from fxgrow.passes.into.growing import Into
from fxgrow.passes.into.mixtures import run_everywhere
from fxgrow.passes.into.plan import Options

NAMES = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "problem_type")  # what is no setting
LAYERS = 2  # of the models that are tried
MOST = 10  # settings that are tried
FILLINGS = 4  # kinds of new layers that are tried


def advice(small: Any, big: Any, asked: Collection[str] = ()) -> str:
    """Return in words how the big model's configuration has to change for it to compute what the small one does.

    asked: the numbers of it that a user has set, which are left as they are. "": no such change is known.
    """
    ours, theirs = (dict(_settings(model.config.to_dict())) for model in (small, big))
    less = [f"{path}={theirs[path]} is less than the {ours[path]} of the small model" for path in asked
            if _are_sizes(ours.get(path), theirs.get(path)) and theirs[path] < ours[path]]
    if less:
        return f"; {' and '.join(less)}"
    found = {path: value for path, value in _candidates(ours, theirs, asked) if _fresh(big, {path: value}) is not None}
    if _fits(small, big, {}):  # of few layers: it is what is said of each that does not go together
        return _told(_lists(small, big))
    known = {path: value for path, value in found.items() if path in ours}
    tries = [known, *({path: value} for path, value in found.items()), dict([*found.items()][:MOST])]
    found = next((changes for changes in tries[:MOST] + tries[-1:] if changes and _fits(small, big, changes)), {})
    for path in [*found]:
        fewer = {p: v for p, v in found.items() if p != path}
        if fewer and _fits(small, big, fewer):
            found = fewer
    return _told(found)


def _told(changes: Mapping[str, Any]) -> str:
    words = " ".join(f"--set {shlex.quote(f'{path}={json.dumps(value)}')}" for path, value in changes.items())
    return f"; it fits with {words}" if words else ""


def _lists(small: Any, big: Any) -> dict[str, Any]:
    """Return what fits of what a configuration says of each layer (`layer_types`): old ones as they were, then new ones."""
    kept, before = {i: i for i in range(getattr(small.config, "num_hidden_layers", 0))}, big.config.to_dict()
    for config in islice(with_layers(big.config, small.config, kept), 1, FILLINGS):
        changes = {name: value for name, value in config.to_dict().items() if before.get(name) != value}
        if _fits(small, big, changes, few=False):
            return changes
    return {}


def _settings(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers, words and switches of a configuration, by path."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{path}{name}.")
        elif (value is None or isinstance(value, (bool, int, float, str))) and name not in NAMES \
                and not str(name).startswith("_") and not str(name).endswith("_token_id"):
            yield f"{path}{name}", value


def _candidates(ours: dict[str, Any], theirs: dict[str, Any], asked: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield settings of the big model with values that the small one has, or that switch off what only the big one has."""
    for path, value in theirs.items():
        if path in asked:
            continue
        if path not in ours:
            like = [size for name, size in ours.items() if path.endswith(f"_{name}") and _are_sizes(size, value)]
            if isinstance(value, bool):
                yield path, not value
            elif isinstance(value, int):
                yield path, like[0] if like else None
        elif value != ours[path]:
            if not _are_sizes(value, ours[path]) or value < ours[path]:
                yield path, ours[path]
        elif _are_sizes(value, value):  # a size that was equal to one that has changed
            grown = [theirs[name] for name in asked if ours.get(name) == value and _are_sizes(theirs.get(name))]
            yield from ((path, size) for size in grown)


def _are_sizes(*values: Any) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values)


def _fresh(model: Any, changes: Mapping[str, Any], few: bool = True) -> Any:
    """Return a model of few layers without numbers by a changed configuration; None where there is none."""
    layers = getattr(model.config, "num_hidden_layers", 0)
    fewer = {"num_hidden_layers": min(layers, LAYERS)} if few and isinstance(layers, int) and layers else {}
    try:
        made = without_numbers(type(model), changed(model.config, {**changes, **fewer}), dtype_of(model))
        return run_everywhere(made.eval())
    except Exception:  # what a class says of values that do not go together
        return None


def _fits(small: Any, big: Any, changes: Mapping[str, Any], few: bool = True) -> bool:
    """Tell whether a model by a changed configuration can compute what the small one does."""
    one, two = _fresh(small, {}, few), _fresh(big, changes, few)
    inputs = None if one is None else example_inputs(one)
    if inputs is None or two is None:
        return False
    try:
        return not Into(one, two, inputs, Options("netmorph", "end", False, True, 0), streamed=True).wrong
    except Exception:  # whatever is in the way: this is no advice
        return False

