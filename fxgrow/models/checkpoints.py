"""Checkpoints as trainers leave them: which of the tensors in a file are a model's, under which names.

What does not live here: how files are read (fxgrow/archive).
"""
import json
import warnings
from collections import ChainMap, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxgrow.archive import load_weights
from fxgrow.common import nearest_file, shortened
from fxgrow.errors import ArchiveError, ChoiceWarning, ModelError

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch puts these in names, anywhere
State = dict[str, Tensor]


def apply_weights(module: nn.Module, path: str) -> None:
    """Load the tensors of a checkpoint into a module, whose names they all have once wrappers are taken off.

    A warning says which were taken where there are others. No code from the file runs.

    Raises:
        ModelError: the file holds no state_dict, or none that fits; the message names the keys and prefixes in it.
    """
    held = dict(_states(_content(path), ""))
    if not held:
        raise ModelError(f"{path} is no state_dict: save it with torch.save(model.state_dict(), ...)")
    for key in sorted(held, key=lambda key: "ema" in key.lower()):  # what was trained, rather than its mean
        state = _unwrapped(held[key])
        for prefix in _prefixes(state, module):
            if _loads(module, _behind(prefix, state)):
                left = [*(repr(other) for other in held if other != key), *(n for n in state if not n.startswith(prefix))]
                if left:
                    told = f"{path}: took {repr(key or prefix)} and left {shortened(left)}"
                    warnings.warn(told, ChoiceWarning, stacklevel=2)
                return
    reasons = "; ".join(_misfit(key, _unwrapped(state), module) for key, state in held.items())
    raise ModelError(f"{path} does not fit {type(module).__name__}: {reasons}")


def _loads(module: nn.Module, state: State) -> bool:
    """Load a state_dict if each name is matched, and tell whether it was."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError:
        return False
    return True


def _content(path: str) -> Any:
    """Return what a file holds; of an index of shards, the tensors of all of them."""
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{path} is no file here{nearest_file(path)}; --weights takes the file of a state_dict, or DEFAULT")
    try:
        if file.suffix == ".json":
            shards = sorted({Path(name).name for name in json.loads(file.read_text())["weight_map"].values()})
            return dict(ChainMap(*(load_weights(file.parent / shard) for shard in shards)))
        return load_weights(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no index of shards, which has a weight_map") from error
    except ArchiveError as error:
        why = str(error).partition(": ")[2].partition(": save its state_dict")[0]
        raise ModelError(f"{path} is no state_dict that can be read without running code from it ({why}): save it with "
                         "torch.save(model.state_dict(), ...)") from error


def _states(content: Any, key: str) -> Iterator[tuple[str, State]]:
    """Yield all that may be a state_dict, by the keys that lead there."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, content
    for name, value in content.items():
        yield from _states(value, f"{key}.{name}".lstrip("."))


def _unwrapped(state: State) -> State:
    """Take the words of wrappers out of names; the versions of layers that a state_dict notes stay with it."""
    found: State = OrderedDict()
    for name, tensor in state.items():
        for word in WRAPPERS:
            name = name.replace(word, "")
        found[name] = tensor
    if isinstance(state, OrderedDict):
        vars(found).update(vars(state))
    return found


def _behind(prefix: str, state: State) -> State:
    """Return the tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)} if prefix else state


def _prefixes(state: State, module: nn.Module) -> list[str]:
    """Return what the names in a state_dict may have in front of those of a module, the shortest first."""
    first = next(iter(module.state_dict()), "")
    return sorted({"", *(name.removesuffix(first) for name in state if name.endswith(f".{first}"))}, key=len)


def _misfit(key: str, state: State, module: nn.Module) -> str:
    """Return how a state_dict differs from what a module takes."""
    wanted = module.state_dict()
    prefix = max(_prefixes(state, module), key=lambda prefix: len(_behind(prefix, state).keys() & wanted.keys()))
    held = _behind(prefix, state)
    sizes = [f"{n} {list(t.shape)} for {list(wanted[n].shape)}" for n, t in held.items()
             if n in wanted and t.shape != wanted[n].shape]
    reasons = [f"{what} {shortened(names)}" for what, names in (
        ("it has no", [n for n in wanted if n not in held]), ("the model has no", [n for n in held if n not in wanted]),
        ("it has other sizes, of", sizes)) if names]
    return f"{f'under {key!r}, ' if key else ''}{f'behind {prefix!r}, ' if prefix else ''}{' and '.join(reasons)}"
