"""Tensors in the format of safetensors, one at a time: the library's own bytes, and archives of many numbers."""
from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from archives import refused, small_archive
from torch import nn

import fxgrow
from fxgrow.archive import container, numbers
from fxgrow.errors import ArchiveError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


@pytest.fixture
def many(monkeypatch):
    """Archives of a few numbers as if they were many: what they are written as, and cut into many blocks."""
    monkeypatch.setattr(container, "FEW", 0)
    monkeypatch.setattr(numbers, "BLOCK", 64)


def tensors() -> dict[str, torch.Tensor]:
    made = {f"of {dtype}": torch.randn(3, 5, dtype=torch.double).mul(9).abs().to(dtype) for dtype in numbers.NAMES}
    return made | {"scalar": torch.tensor(2.5), "empty": torch.ones(2, 0, 3), 'größe "\n': torch.ones(1)}


def test_the_bytes_are_those_of_the_library():
    given = tensors()
    written, seen = b"".join(numbers.Numbers(given)), bytearray()
    assert written == safetensors.torch.save(given) and len(written) == len(numbers.Numbers(given))
    read = numbers.read_numbers(io.BytesIO(written + b"more"), len(written), seen.extend)
    assert seen == written and read.keys() == given.keys()
    for name, tensor in given.items():
        assert read[name].dtype is tensor.dtype and read[name].shape == tensor.shape
        assert read[name].view(-1).view(torch.uint8).tolist() == tensor.view(-1).view(torch.uint8).tolist()


def test_tensors_are_given_as_they_lie_in_memory():
    tensor = torch.randn(1000)
    *_, part = numbers.Numbers({"a": tensor})
    assert np.shares_memory(np.asarray(part), tensor.numpy())
    turned = torch.randn(3, 4, dtype=torch.complex64).t().conj()
    assert b"".join(numbers.Numbers({"a": turned})).endswith(turned.resolve_conj().contiguous().numpy().tobytes())
    with pytest.raises(ArchiveError, match="'a' is torch.complex128"):
        numbers.Numbers({"a": torch.ones(2, dtype=torch.complex128)})


@pytest.mark.parametrize("lie", [{"data_offsets": [0, 8]}, {"data_offsets": [4, 16]}, {"dtype": "F64"}, {"dtype": "F7"},
                                 {"shape": [4]}, {"shape": [-3]}, {"shape": [True, 3]}, {"shape": [2 ** 70, 0]}])
def test_headers_that_lie(lie):
    header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], **lie}}
    text = container.to_json(header)
    data = len(text).to_bytes(8, "little") + text + bytes(12)
    with pytest.raises(ArchiveError):
        numbers.read_numbers(io.BytesIO(data), len(data), lambda block: None)


def test_many_numbers_are_of_a_version_of_their_own(many, path):
    archive = small_archive.__wrapped__()
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.testzip() is None and file.namelist() == list(container.MEMBERS)
        assert b'"version":3' in file.read("graph.json") and b"xxh3_128" in file.read("manifest.json")
        assert safetensors.torch.load(file.read("tensors.safetensors"))
    path.write_bytes(archive)
    model = fxgrow.load(path)
    fxgrow.save(model, path)
    assert path.read_bytes() == archive == small_archive.__wrapped__()
    for a, b in zip(fxgrow.load(path).parameters(), model.parameters()):
        assert torch.equal(a, b)


def test_any_bit_of_many_numbers_may_flip(many, path):
    archive = small_archive.__wrapped__()
    size = len(archive)
    for place in sorted({*range(0, size, size // 150), *range(40), *range(size - 600, size, 3), *range(size - 90, size)}):
        damaged = bytearray(archive)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        refused(path)
    half = size // 2
    for damaged in (archive[:-1], archive[1:], archive + b"\0", archive[:half], archive[:half] + archive[half + 1:]):
        path.write_bytes(damaged)
        refused(path)


def test_versions_go_by_the_bytes_of_numbers(path):
    for width, version in ((8, 1), (600, 3)):
        fxgrow.save(nn.Sequential(nn.Linear(width, width)), path, example_inputs=torch.randn(2, width))
        with zipfile.ZipFile(path) as file:
            assert f'"version":{version},'.encode() in file.read("graph.json")
        assert fxgrow.load(path)(torch.ones(2, width)).shape == (2, width)
