"""Rules that a module tree in an archive keeps, whoever writes or reads it: names, depth, paths and layouts."""
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.archive import allow
from fxgrow.errors import ArchiveError
from fxgrow.graph import find_module

MAX_DEPTH = 100
MAX_PATHS = 1_000_000  # names in the tree: layers shared many times over would make them explode
OWN_OF_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_UNUSABLE_NAME = re.compile(r'[."\\\x00-\x1f\x7f]|__.*__')  # torch.fx writes names of modules into Python source


def usable_name(name: Any, cls: type) -> bool:
    """Tell whether a class's modules may have a part so named: it hides no method and does not break torch.fx's source."""
    return _is_proper(name) and not allow.shadows(cls, name)


def usable_attribute(name: Any, value: Any, cls: type) -> bool:
    """Tell whether a class's modules may have an attribute of this name and value.

    A public method may be hidden by plain data (ultralytics gives each layer a word `type`): it cannot be called, so that
    no other code runs for it.
    """
    if not _is_proper(name):
        return False
    return not allow.shadows(cls, name) or (not name.startswith("_") and name != "forward" and is_data(value))


def _is_proper(name: Any) -> bool:
    return (isinstance(name, str) and 0 < len(name) < 1000 and not _UNUSABLE_NAME.search(name)
            and unicodedata.normalize("NFKC", name) == name and name not in OWN_OF_MODULE)


def is_data(value: Any, also: tuple[type, ...] = ()) -> bool:
    """Tell plain numbers, words and containers of them: nothing that has code of its own, or is of a class of its own.

    also: further classes of which what is inside may be.
    """
    if type(value) in (list, tuple, set, torch.Size):
        return all(is_data(v, also) for v in value)
    if type(value) is dict:
        return all(is_data(k) and is_data(v, also) for k, v in value.items())
    return type(value) in (type(None), bool, int, float, complex, str, *also)


class Nesting:
    """Depth of the module tree and number of names in it, children counted before parents."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.paths: list[int] = []

    def add(self, children: list[int]) -> None:
        """Count a module with these children; raise ArchiveError if programs that walk the tree could not bear it."""
        self.depths.append(1 + max((self.depths[i] for i in children), default=0))
        self.paths.append(1 + sum(self.paths[i] for i in children))
        if self.depths[-1] > MAX_DEPTH or self.paths[-1] > MAX_PATHS:
            raise ArchiveError(f"the model nests more than {MAX_DEPTH} modules, or shares them too many times over")


def is_readable(root: nn.Module, path: str) -> bool:
    """Tell whether the path is a parameter, a buffer, or the training flag of a module: what a graph may read."""
    parent, _, name = path.rpartition(".")
    module = find_module(root, parent)
    return module is not None and (
        name == "training" or isinstance({**module._parameters, **module._buffers}.get(name), Tensor))


def missing_constant(module: nn.Module) -> str | None:
    """Return the first attribute that the module's class counts on and the module lacks."""
    computed = getattr(module._modules.get("parametrizations"), "_modules", {})
    annotated = {n for cls in type(module).__mro__ for n in vars(cls).get("__annotations__", ())}
    names = [*getattr(type(module), "__constants__", ()), *({"weight"} & annotated)]
    return next((n for n in names if n not in computed and not hasattr(module, n)), None)


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether a tensor so laid out fills its memory without gaps or overlaps (a permuted contiguous one)."""
    expected = 1
    for stride, size in sorted((st, n) for st, n in zip(strides, shape) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
