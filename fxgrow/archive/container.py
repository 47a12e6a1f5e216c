"""The container: one zip file of three stored members, the same bytes for the same content, every bit of it checked.

    graph.json             the model as data
    manifest.json          checksums of the other two
    tensors.safetensors    all numbers
    (zip comment)          checksum of the rest: of the two members before the tensors and of what is between and behind them

In the first two versions the checksums are sha256, and the last one is of the tensors, too. Many numbers are summed up by
XXH3 of 128 bits instead, once, since sha256 takes ten times as long as writing them.
"""
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from fxgrow.archive.numbers import Numbers, blocks, read_numbers
from fxgrow.archive.values import from_json
from fxgrow.errors import ArchiveError

FORMAT = "fxgrow"
FIRST, OWN_CODE, MANY_NUMBERS = 1, 2, 3  # a file is of the first version that can hold it
VERSION = MANY_NUMBERS
FEW = 2 ** 20  # bytes of numbers up to which a file is of the first two versions, which older releases read, too
GRAPH, MANIFEST, TENSORS = MEMBERS = ("graph.json", "manifest.json", "tensors.safetensors")
MAX_JSON = 64 * 2 ** 20


class Sums(NamedTuple):
    """The checksums of a version: `new` makes one to update, `size` is the length of its text, `crc32` is zip's own."""
    name: str
    size: int
    new: Callable[[], Any]
    crc32: Callable[[memoryview, int], int]

    @classmethod
    def of(cls, version: int) -> "Sums":
        """Return those of a version; the libraries are asked for when a file needs them."""
        if version < MANY_NUMBERS:
            return cls("sha256", 64, hashlib.sha256, zlib.crc32)
        from xxhash import xxh3_128
        from zlib_ng.zlib_ng import crc32
        return cls("xxh3_128", 32, xxh3_128, crc32)

    @property
    def seal_size(self) -> int:
        """Return the length of the zip comment."""
        return len(self.name) + 1 + self.size

    def manifest(self, graph: str, tensors: str) -> bytes:
        """Return manifest.json for the checksums of the two other members."""
        return to_json({self.name: {GRAPH: graph, TENSORS: tensors}})

    def seal(self, file: BinaryIO, tensors: range, end: int) -> bytes:
        """Return the zip comment of a file that goes on to `end` without it, with its tensors at these places."""
        digest = self.new()
        for start, stop in [(0, end)] if self.name == "sha256" else [(0, tensors.start), (tensors.stop, end)]:
            file.seek(start)
            while start < stop and (block := file.read(min(stop - start, 2 ** 20))):
                digest.update(block)
                start += len(block)
        return f"{self.name}={digest.hexdigest()}".encode()


def to_json(data: Any) -> bytes:
    """Write compact JSON; refuse what only Python would read back (NaN) and what loading would refuse (too long)."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_JSON:
        raise ArchiveError(f"the graph takes {len(text)} bytes; an archive holds at most {MAX_JSON}")
    return text


def write(file: BinaryIO, graph: dict, tensors: Numbers | bytes) -> None:
    """Write an archive into an empty seekable file, each number once."""
    graph = {"format": FORMAT, "version": FIRST, **graph}
    if len(tensors) > FEW:
        graph["version"] = MANY_NUMBERS
    sums = Sums.of(graph["version"])
    described, of_graph = _member(file, sums, GRAPH, to_json(graph))
    place = file.tell()
    _member(file, sums, MANIFEST, sums.manifest(of_graph, "0" * sums.size))  # as long as it will be
    numbers, of_numbers = _member(file, sums, TENSORS, tensors)
    stop = file.tell()
    file.seek(place)
    manifest, _ = _member(file, sums, MANIFEST, sums.manifest(of_graph, of_numbers))
    file.seek(stop)
    with zipfile.ZipFile(file, "w") as archive:  # writes the directory
        archive.filelist += [described, manifest, numbers]
        archive.comment = bytes(sums.seal_size)  # its length is part of what is sealed
    end = file.seek(0, os.SEEK_END) - sums.seal_size
    seal = sums.seal(file, range(stop - len(tensors), stop), end)
    file.seek(end)
    file.write(seal)


def _member(file: BinaryIO, sums: Sums, name: str, data: bytes | Numbers) -> tuple[zipfile.ZipInfo, str]:
    """Write a member, stored; return its entry in the directory and its checksum."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr, info.header_offset = 3, 0o644 << 16, file.tell()
    info.file_size = info.compress_size = len(data)
    info.CRC, digest = 0, sums.new()
    file.write(info.FileHeader())
    for part in blocks(memoryview(data)) if isinstance(data, bytes) else data:
        file.write(part)  # first: the sums then find it in the cache
        info.CRC = sums.crc32(part, info.CRC)
        digest.update(part)
    stop = file.tell()
    file.seek(info.header_offset)
    file.write(info.FileHeader())
    file.seek(stop)
    return info, digest.hexdigest()


def read(file: BinaryIO, archive: zipfile.ZipFile) -> tuple[dict, dict[str, Tensor]]:
    """Read the graph's description and the tensors; raise ArchiveError for another format or any bit changed."""
    size, infos = file.seek(0, os.SEEK_END), archive.infolist()
    if [i.filename for i in infos] != list(MEMBERS):
        raise ArchiveError(f"an archive holds exactly {', '.join(MEMBERS)}, in this order")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits or info.compress_size != info.file_size \
                or info.file_size > size:
            raise ArchiveError(f"member {info.filename} is compressed, encrypted or larger than the file")
    if max(infos[0].file_size, infos[1].file_size) > MAX_JSON:
        raise ArchiveError("its description is too long")
    described = archive.read(GRAPH)
    graph = from_json(described, GRAPH)
    sums = Sums.of(_version(graph))
    place = _start(file, infos[-1])
    seal = sums.seal(file, range(place, place + infos[-1].file_size), size - sums.seal_size)
    if file.read() != seal:
        raise ArchiveError("it is damaged: its content does not have the checksum at its end")
    digest, of_graph = sums.new(), sums.new()
    of_graph.update(described)
    file.seek(place)
    tensors = read_numbers(file, infos[-1].file_size, digest.update)
    if archive.read(MANIFEST) != sums.manifest(of_graph.hexdigest(), digest.hexdigest()):
        raise ArchiveError("it is damaged: a member does not have the checksum in manifest.json")
    return graph, tensors


def _start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin, behind a header whose length it says itself."""
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + name + extra


def _version(graph: dict) -> int:
    """Return the version of a file; raise ArchiveError for another format or a version to come."""
    if graph.get("format") != FORMAT:
        raise ArchiveError(f"its format is {str(graph.get('format'))[:40]!r}, not {FORMAT!r}")
    version = graph.get("version")
    if type(version) is not int or version < 1:
        raise ArchiveError(f"its version {str(version)[:40]!r} is not a version")
    if version > VERSION:
        raise ArchiveError(f"its version is {version} and this fxgrow reads up to {VERSION}; install a newer fxgrow")
    return version
