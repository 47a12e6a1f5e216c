"""Ops that give as many positions as their data say, on meta tensors, which have no data: any number will do there.

Which number means nothing, and nothing may depend on it: a recording is made with two (`other_counts`).
"""
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
T = TypeVar("T")
_NOTED: ContextVar[list[int] | None] = ContextVar("counts that were made up", default=None)
_TELLS = WeakTensorKeyDictionary()  # of numbers that tell of positions: what they tell, of how many
_MORE: ContextVar[int | None] = ContextVar("how many more positions; None: there are none at all", default=0)


@contextlib.contextmanager
def noted_counts(noted: list[int]) -> Iterator[None]:
    """Write each number down that is made up inside."""
    token = _NOTED.set(noted)
    try:
        yield
    finally:
        _NOTED.reset(token)


@contextlib.contextmanager
def other_counts(none: bool = False) -> Iterator[None]:
    """Let there be other numbers of positions inside, or none at all."""
    token = _MORE.set(None if none else 1)
    try:
        yield
    finally:
        _MORE.reset(token)


def with_some(run: Callable[[], T], counts: list[int]) -> tuple[T, Exception | None]:
    """Run something where masks have positions; if it raises then (`if x.isnan().any()`), where they have none.

    counts: the numbers of positions that were made up are added to it.
    Returns: what it gives, and what it raised where masks have positions.
    """
    try:
        with noted_counts(counts):
            return run(), None
    except Exception as error:
        if not counts:
            raise
        stopped = error
    with other_counts(none=True):
        return run(), stopped


def _count(size: int) -> int:
    """Return how many of `size` positions there are said to be."""
    more = _MORE.get()
    count = 0 if more is None else size and size // 2 + 1 + more
    if (noted := _NOTED.get()) is not None:
        noted.append(count)
    return count


def is_mask(index: Tensor | None) -> bool:
    """Tell whether what a tensor is indexed with takes the positions where it is true."""
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _places(mask: Tensor) -> list[Tensor]:
    """Return the positions of a mask along each of its dimensions."""
    return [torch.empty(_count(mask.numel()), dtype=torch.int64, device="meta") for _ in range(mask.ndim)]


def _nonzero(args, kwargs) -> Tensor | None:
    x = args[0]
    return torch.empty((_count(x.numel()), x.ndim), dtype=torch.int64, device="meta") if x.is_meta else None


def _masked_select(args, kwargs) -> Tensor | None:
    x, mask = args
    size = torch.broadcast_shapes(x.shape, mask.shape).numel()
    return torch.empty(_count(size), dtype=x.dtype, device="meta") if x.is_meta and mask.is_meta else None


def _index(args, kwargs) -> Tensor | None:
    x, indices = args[:2]
    if not any(is_mask(i) and i.is_meta for i in indices):
        return None
    return aten.index.Tensor(x, [place for i in indices for place in (_places(i) if is_mask(i) else [i])])


def _unique(args, kwargs) -> tuple | None:
    x = args[0]
    if not x.is_meta or len(args) > 3 or kwargs.get("dim") is not None:  # not along one dimension
        return None
    count = _count(x.numel())
    return (torch.empty(count, dtype=x.dtype, device="meta"), torch.empty(x.shape, dtype=torch.int64, device="meta"),
            torch.empty(count, dtype=torch.int64, device="meta"))


def _repeat_interleave(args, kwargs) -> Tensor | None:
    size = kwargs.get("output_size")
    count = _count(2 * args[0].numel()) if size is None else size
    return torch.empty(count, dtype=torch.int64, device="meta") if args[0].is_meta else None


def _told(size: int, dtype: torch.dtype, what: str) -> Tensor:
    """Return a number that tells how many there are ("count"), whether there are any ("some"), or whether not ("none")."""
    out = torch.empty((), dtype=dtype, device="meta")
    _TELLS[out] = what, size
    return out


def _any(args, kwargs) -> Tensor | None:
    return _told(args[0].numel(), torch.bool, "some") if args[0].is_meta else None


def _all(args, kwargs) -> Tensor | None:
    return _told(args[0].numel(), torch.bool, "none") if args[0].is_meta else None  # of what is not


def _sum(args, kwargs) -> Tensor | None:
    x = args[0]
    whole = len(args) == 1 and not kwargs  # not along one dimension
    return _told(x.numel(), torch.int64, "count") if whole and x.is_meta and x.dtype is torch.bool else None


def _against_none(what: str) -> Callable:
    def compare(args, kwargs) -> Tensor | None:
        tells, size = _TELLS.get(args[0], ("", 0))
        return _told(size, torch.bool, what) if tells == "count" and args[1] == 0 else None
    return compare


def _number(args, kwargs) -> int | bool | None:
    """Return what a number that tells of positions is, where code asks for it: inside what is kept whole."""
    if args[0] not in _TELLS:
        return None
    what, size = _TELLS[args[0]]
    count = _count(size)
    return count if what == "count" else (count > 0) is (what == "some")


COUNTED: dict[object, Callable] = {
    aten.nonzero.default: _nonzero, aten.masked_select.default: _masked_select, aten.index.Tensor: _index,
    aten._unique2.default: _unique, aten.unique_consecutive.default: _unique,
    aten.repeat_interleave.Tensor: _repeat_interleave,
    aten.any.default: _any, aten.all.default: _all, aten.sum.default: _sum,
    aten.count_nonzero.default: _sum, aten.gt.Scalar: _against_none("some"), aten.ne.Scalar: _against_none("some"),
    aten.eq.Scalar: _against_none("none"), aten._local_scalar_dense.default: _number}
