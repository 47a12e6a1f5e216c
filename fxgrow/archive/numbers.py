"""Tensors in the format of safetensors, written and read one at a time (the library itself holds all bytes at once).

    8 bytes       length of the header, little-endian
    header        JSON: name to dtype, shape and place of each tensor
    the numbers   one tensor after another, row by row
"""
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from fxgrow.archive.values import fields, from_json
from fxgrow.errors import ArchiveError

# in the order in which the library writes them
DTYPES = {"U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64, "F32": torch.float32,
          "U32": torch.uint32, "I32": torch.int32, "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16,
          "I16": torch.int16, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ENTRY = {"dtype": str, "shape": list, "data_offsets": list}
MAX_HEADER = 100_000_000  # as in the library
BLOCK = 2 ** 19  # what is read, summed up and written at once stays in the processor's cache


class Numbers:
    """The bytes of tensors, given block by block: of those elsewhere or in another layout one is copied at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        """Take tensors of any device and layout; raise ArchiveError for a type of number that the format does not know."""
        for name, tensor in tensors.items():
            if tensor.dtype not in NAMES:
                raise ArchiveError(f"the tensors cannot be written ({name!r} is {tensor.dtype})")
        order = {dtype: place for place, dtype in enumerate(NAMES)}
        self._tensors = sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0]))
        header, end = {}, 0
        for name, tensor in self._tensors:
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._size = len(self._header) + end

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        yield from blocks(memoryview(self._header))
        for _, tensor in self._tensors:
            yield from blocks(_bytes(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()))


def blocks(data: memoryview) -> Iterator[memoryview]:
    """Cut bytes into blocks."""
    return (data[start:start + BLOCK] for start in range(0, len(data), BLOCK))


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def read_numbers(file: BinaryIO, size: int, seen: Callable[[memoryview], None]) -> dict[str, Tensor]:
    """Read the next `size` bytes as tensors, each straight into memory of its own; `seen` is shown every byte in order.

    Raises ArchiveError where they are not in the format or the file ends: no more is allocated than the file is long.
    """
    def fill(memory: memoryview) -> memoryview:
        for block in blocks(memory):
            if file.readinto(block) != len(block):  # type: ignore[attr-defined]
                raise ArchiveError("it is damaged: it ends within its tensors")
            seen(block)
        return memory

    length = int.from_bytes(fill(memoryview(bytearray(8))), "little")
    if length > min(size - 8, MAX_HEADER):
        raise ArchiveError("its tensors have a header that is longer than they are")
    header = from_json(bytes(fill(memoryview(bytearray(length)))), "the header of its tensors")
    entries = {name: fields(entry, f"tensor {name[:80]!r}", ENTRY) for name, entry in header.items()}
    tensors, end = {}, 0
    for name, (kind, shape, place) in sorted(entries.items(), key=lambda item: item[1][2]):
        fits = kind in DTYPES and all(type(n) is int and n >= 0 for n in shape)
        start, end = end, end + math.prod(shape) * DTYPES[kind].itemsize if fits else -1
        if place != [start, end] or end > size - 8 - length:
            raise ArchiveError(f"tensor {name[:80]!r} is not where it should be, or of another size or type")
        tensors[name] = torch.empty(shape, dtype=DTYPES[kind])
        fill(_bytes(tensors[name]))
    if end != size - 8 - length:
        raise ArchiveError("its tensors are longer than their header says")
    return tensors
