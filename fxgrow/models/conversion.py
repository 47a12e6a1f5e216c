"""Tensors of a class of transformers in the names and forms of its files: experts that stand one by one there, say.

What transformers does when it loads and saves a whole model, done for one tensor of the class at a time.
"""
import copy
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from fxgrow.common import Refusal
from fxgrow.models.folders import quietly


class Conversion:
    """The way between the tensors of a model's class and those of its files."""

    def __init__(self, model: Any):
        self.core = importlib.import_module("transformers.core_model_loading")
        find = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping
        self.model, self.steps = model, find(model, add_legacy=False)
        self.converters = [step for step in self.steps if hasattr(step, "operations")]
        if any(len(step.target_patterns) > 1 for step in self.converters) or \
                any(type(step).__name__ not in ("WeightRenaming", "WeightConverter") for step in self.steps):
            raise Refusal("its files have several tensors of its class in one")
        model._weight_conversions = self.steps or None  # which the library would look for at each tensor

    def to_files(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return what the files have for a tensor of the class, by the names there."""
        return self.core.revert_weight_conversion(self.model, {name: tensor}) if self.steps else {name: tensor}

    def sources(self, names: Iterable[str]) -> dict[str, list[tuple[str, Any, str]]]:
        """Return for each tensor of the class those of the files: the name, what converts it, and as which of its parts."""
        found: dict[str, list[tuple[str, Any, str]]] = {}
        for name in sorted(names, key=self.core.dot_natural_key):
            theirs = name
            for step in self.steps:
                if step not in self.converters:
                    theirs = step.rename_source_key(theirs)[0]
            used, pattern = None, ""
            for step in self.converters:
                renamed, matched = step.rename_source_key(theirs)
                if matched is not None:
                    theirs, used, pattern = renamed, step, matched
                    break
            found.setdefault(theirs, []).append((name, used, pattern))
        return found

    def from_files(self, name: str, parts: list[tuple[str, Any, str]], read: Callable[[str], Tensor]) -> Tensor:
        """Return a tensor of the class, of those that `read` gives."""
        if parts[0][1] is None:
            return read(parts[0][0])
        converter = copy.deepcopy(parts[0][1])
        for source, _, pattern in parts:
            converter.add_tensor(name, source, pattern, read(source))
        with quietly():
            made = converter.convert(name, model=self.model, config=self.model.config)
        return (made[0] if isinstance(made, tuple) else made)[name]  # a tuple: in the first versions with conversions
