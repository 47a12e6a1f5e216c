"""The container: one zip file of three stored members, the same bytes for the same content, every bit of it checked.

    graph.json             the model as data
    manifest.json          sha256 of the other two
    tensors.safetensors    all numbers
    (zip comment)          sha256 of the file up to here, which also covers what is between the members
"""
import hashlib
import json
import os
import zipfile
from typing import Any, BinaryIO

from fxgrow.errors import ArchiveError

FORMAT = "fxgrow"
FIRST, VERSION = 1, 2  # a file is of the first version that can hold it
GRAPH, MANIFEST, TENSORS = MEMBERS = ("graph.json", "manifest.json", "tensors.safetensors")
MAX_JSON = 64 * 2 ** 20
SEAL = b"sha256="
SEAL_SIZE = len(SEAL) + 64


def to_json(data: Any) -> bytes:
    """Write compact JSON; refuse what only Python would read back (NaN) and what loading would refuse (too long)."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_JSON:
        raise ArchiveError(f"the graph takes {len(text)} bytes; an archive holds at most {MAX_JSON}")
    return text


def from_json(data: bytes, what: str) -> dict:
    """Read strict JSON: an object, no key twice, no NaN; raise ArchiveError for anything else."""
    def once(pairs):
        unique = dict(pairs)
        if len(unique) != len(pairs):
            raise ValueError("a key appears twice")
        return unique

    def refuse(token):
        raise ValueError(f"{token} is not JSON")

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ArchiveError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ArchiveError(f"{what} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ArchiveError(f"{what} is not a JSON object")
    return content


def write(file: BinaryIO, graph: dict, tensors: bytes) -> None:
    """Write an archive into an empty seekable file."""
    content = {GRAPH: to_json({"format": FORMAT, "version": FIRST, **graph}), TENSORS: tensors}
    content[MANIFEST] = to_json(_manifest(content))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in MEMBERS:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content[name])
        archive.comment = SEAL + b"0" * 64  # its length is part of what is sealed
    end = file.seek(0, os.SEEK_END)
    seal = _hash(file, end - SEAL_SIZE)
    file.seek(end - SEAL_SIZE)
    file.write(seal)


def _manifest(content: dict[str, bytes]) -> dict:
    return {"sha256": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}}


def _hash(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 2 ** 20))):
        digest.update(block)
        size -= len(block)
    return SEAL + digest.hexdigest().encode()


def read(file: BinaryIO, archive: zipfile.ZipFile) -> tuple[dict, bytes]:
    """Read the graph's description and the tensors' bytes; raise ArchiveError for another format or any bit changed."""
    size, infos = file.seek(0, os.SEEK_END), archive.infolist()
    if [i.filename for i in infos] != list(MEMBERS):
        raise ArchiveError(f"an archive holds exactly {', '.join(MEMBERS)}, in this order")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits or info.compress_size != info.file_size \
                or info.file_size > size:
            raise ArchiveError(f"member {info.filename} is compressed, encrypted or larger than the file")
    if max(infos[0].file_size, infos[1].file_size) > MAX_JSON:
        raise ArchiveError("its description is too long")
    graph = from_json(archive.read(GRAPH), GRAPH)
    _check_version(graph)
    file.seek(size - SEAL_SIZE)
    if file.read() != _hash(file, size - SEAL_SIZE):
        raise ArchiveError("it is damaged: its content does not have the checksum at its end")
    tensors = archive.read(TENSORS)
    if from_json(archive.read(MANIFEST), MANIFEST) != _manifest({GRAPH: archive.read(GRAPH), TENSORS: tensors}):
        raise ArchiveError("it is damaged: a member does not have the checksum in manifest.json")
    return graph, tensors


def _check_version(graph: dict) -> None:
    if graph.get("format") != FORMAT:
        raise ArchiveError(f"its format is {str(graph.get('format'))[:40]!r}, not {FORMAT!r}")
    version = graph.get("version")
    if type(version) is not int or version < 1:
        raise ArchiveError(f"its version {str(version)[:40]!r} is not a version")
    if version > VERSION:
        raise ArchiveError(f"its version is {version} and this fxgrow reads up to {VERSION}; install a newer fxgrow")
