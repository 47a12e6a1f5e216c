"""What grow_into is given: modules, or folders and configurations, which become modules."""
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxgrow.errors import GrowthError
from fxgrow.models import changed, example_inputs, fresh, load_model, parse_changes


def loaded(small: nn.Module | str, big: nn.Module | str | Mapping[str, Any], inputs: Any,
           seed: int) -> tuple[nn.Module, nn.Module, Any]:
    """Return the small and the big model as modules, and inputs for both."""
    if not isinstance(small, nn.Module):
        small, drawn = load_model(os.fspath(small), need_inputs=inputs is None)
        inputs = drawn if inputs is None else inputs
    elif inputs is None:
        inputs = drawn_for(small)
    return small, bigger(small, big, seed), inputs


def drawn_for(module: nn.Module) -> Any:
    """Return inputs by the configuration of a module; raise GrowthError where it says too little."""
    found = example_inputs(module) if hasattr(module, "config") else None
    if found is None:
        raise GrowthError(f"{type(module).__name__} does not say what its inputs are: pass example_inputs")
    return found


def bigger(small: nn.Module, big: nn.Module | str | Mapping[str, Any], seed: int) -> nn.Module:
    """Return the big model: as it is, from a folder or configuration, or of the small one's class with changes."""
    if isinstance(big, nn.Module):
        return big
    if not isinstance(big, Mapping):
        return load_model(os.fspath(big), need_inputs=False, seed=seed, like=small)[0]
    if not hasattr(small, "config"):
        raise GrowthError(f"{type(small).__name__} has no configuration that could change: give the bigger model itself")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fresh(type(small), changed(small.config, big), small)


def bigger_by_words(small: nn.Module, big: str | None, changes: Sequence[str], seed: int,
                    options: Mapping[str, Any]) -> nn.Module:
    """Return the big model as the command line names it: MODEL, changes of the small one's configuration, or of MODEL's."""
    told = parse_changes(changes)
    if big is None:
        return bigger(small, told, seed)
    module = load_model(big, **options, need_inputs=False, seed=seed, like=small)[0]
    return bigger(module, told, seed) if told else module


def folder_of(module: nn.Module) -> str | None:
    """Return the folder that a model of transformers was loaded from; None where it is not from one."""
    place = getattr(getattr(module, "config", None), "_name_or_path", "")
    return place if place and Path(place).is_dir() else None
