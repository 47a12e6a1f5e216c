"""Copies of tensors: of their memory at once, or when either is first written to, as operating systems copy pages."""
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_address: Callable[[Tensor], int] = torch._C._data_address  # type: ignore[attr-defined]  # reading it copies nothing
_LATER: ContextVar[bool] = ContextVar("copied when written", default=False)


@contextlib.contextmanager
def copied_when_written() -> Iterator[None]:
    """Let `copy_of` give tensors inside that have the memory of the original until torch writes to either.

    What writes past torch is seen by both: a NumPy array of the original that was made before, code of one's own with its
    address.
    """
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def copy_of(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, which can be written to and the original does not change."""
    bare = tensor.detach() if tensor.requires_grad else tensor
    if _LATER.get() and type(tensor) in (Tensor, nn.Parameter) and tensor.device.type in ("cpu", "cuda"):
        with contextlib.suppress(RuntimeError):  # of memory that torch has not allocated for itself, or that is no plain one
            if tensor.untyped_storage().nbytes() == tensor.nbytes:  # else a small part would keep all of it
                return torch._lazy_clone(bare)
    return bare.clone()


def is_same_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors of the same form lie at the same place, so that they hold the same numbers."""
    return a.device == b.device and not a.is_meta and a.layout is torch.strided and _address(a) == _address(b)
