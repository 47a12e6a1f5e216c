"""Single ATen ops: what the schema of one states (what it writes, whether it gives a view, its numbers), what ran of it."""
import functools
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fxgrow.aten.families import SIZED

WRITTEN = 4096  # numbers at most that a tensor is made of by hand; ranges and masks are, and ops with numbers make these


@dataclass(eq=False)
class Recorded:
    """One ATen op that was run on meta tensors; analyses extend it by what they say of its results.

    name: without namespace and overload. place: the layer or node in which it ran, in words; node: the graph node's name.
    func: the overload. args: positional arguments. ins: for each tensor that it was given, what stands for it.
    """
    name: str = ""
    place: str = ""
    node: str = ""
    func: Any = None
    args: tuple = ()
    ins: list = field(default_factory=list)

    @property
    def numbers(self) -> list[int | float]:
        """Return the numbers among the positional arguments."""
        return [a for a in self.args if isinstance(a, (int, float))]

    def arg(self, position: int, default: Any = None) -> Any:
        """Return a positional argument, or `default` where it was not given."""
        return self.args[position] if len(self.args) > position else default


@functools.cache
def effects(func) -> tuple[str, bool, tuple]:
    """Return an ATen overload's name, whether its result is a view, and the positions or names of what it writes."""
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    written = tuple(a.name if a.kwarg_only else i for i, a in enumerate(schema.arguments)
                    if a.alias_info is not None and a.alias_info.is_write)
    view = not written and any(r.alias_info is not None for r in schema.returns)
    return name if namespace == "aten" else schema.name, view, () if "batch_norm" in name else written


def tensors_in(values) -> list[Tensor]:
    """Return the tensors among the arguments or results of an ATen op (which nest lists at most)."""
    tensors: list[Tensor] = []
    for v in values:
        if isinstance(v, Tensor):
            tensors.append(v)
        elif isinstance(v, (list, tuple)) and v and type(v[0]) is not int:  # else sizes
            tensors += tensors_in(v)
    return tensors


def storage_of(tensor: Tensor) -> int:
    """Identify the memory that a tensor lies in, the same for all views of it."""
    return tensor.untyped_storage()._cdata


def all_numbers_in(name: str, args, kwargs) -> list:
    """Return the numbers of `numbers_in`, and those in tensors that were made of plain numbers: only these have data."""
    written = [t for t in tensors_in((*args, *kwargs.values())) if not t.is_meta and t.numel() <= WRITTEN]
    return [*numbers_in(name, args, kwargs), *(t.tolist() for t in written)]


def numbers_in(name: str, args, kwargs) -> list:
    """Return the numbers of an ATen call that a grown graph must have too (a slice: its start as a position)."""
    if name in SIZED:
        return []
    if name == "slice":
        dim, start, _, step = (list(args[1:]) + [0, None, None, 1][len(args) - 1:])
        return [dim, bound(start, args[0].shape[dim]), step]
    if name == "arange":
        args = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]  # start, end, step
    elif name in ("full", "new_full"):
        args = args[-1:]
    elif name == "convolution":
        args = args[3:8]  # without the groups
    return [a for a in (*args, *kwargs.values())
            if not isinstance(a, Tensor) and not (isinstance(a, (list, tuple)) and tensors_in(a))]


def bound(start: int | None, size: int) -> int:
    """Return the start of a slice as a position."""
    start = start or 0
    return max(start + size, 0) if start < 0 else min(start, size)
