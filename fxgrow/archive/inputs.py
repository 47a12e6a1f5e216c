"""Example inputs in an archive: their shapes and types, no numbers."""
from typing import Any

import torch
from torch import Tensor

from fxgrow.archive.values import Convert, Unencodable, decode, encode
from fxgrow.common import one_line
from fxgrow.errors import ArchiveError
from fxgrow.graph import to_meta


def encode_inputs(inputs: tuple) -> Any:
    """Return example inputs as JSON, without their numbers.

    Raises:
        ArchiveError: they hold something that a file cannot hold.
    """
    return encoded("an example input", to_meta(inputs), _shape)


def encoded(what: str, value: Any, special=lambda value: None) -> Any:
    """Return `encode(value, special)`; `what` names the value in the ArchiveError of one that a file cannot hold."""
    try:
        return encode(value, special)
    except (Unencodable, RecursionError) as error:
        raise ArchiveError(f"{what} holds a {one_line(error)}, which an archive cannot hold") from None


def _shape(value: Any) -> dict | None:
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), encode(value.dtype)]}
    return None


def decode_facts(inputs: Any, leaves: dict) -> tuple[tuple, dict[str, str]]:
    """Return the inputs of a captured model as meta tensors, and the layers that capture kept whole.

    Raises:
        ArchiveError: the file does not describe them so.
    """
    example = decode(inputs, {"tensor": _meta_tensor})
    if not isinstance(example, tuple) or not all(isinstance(v, str) for v in leaves.values()):
        raise ArchiveError("the model's inputs are not described")
    return example, leaves


def _meta_tensor(content: Any, inner: Convert) -> Tensor:
    size, kind = content
    dtype = inner(kind)
    if not isinstance(dtype, torch.dtype):
        raise ArchiveError("an example input has no type")
    return torch.empty(inner({"size": size}), dtype=dtype, device="meta")
