"""Archives that are damaged, forged or no archives: one ArchiveError, whatever the file says."""
from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile

import pytest
from archives import refused, small_archive
from hypothesis import given
from hypothesis import strategies as st
from proving import proves

from fxgrow.archive import container


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


@pytest.fixture
def archive():
    return small_archive()


def test_any_bit_may_flip(archive, tmp_path):
    path = tmp_path / "flipped"
    size = len(archive)
    places = {*range(0, size, size // 150), *range(40), *range(size - 600, size, 3), *range(size - 120, size)}
    for place in sorted(places):
        damaged = bytearray(archive)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        refused(path)


@given(st.data())
@proves(60)
def test_random_damage(archive, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged"
    cut = data.draw(st.integers(0, len(archive) - 1))
    length = data.draw(st.integers(0, 50))
    middle = data.draw(st.binary(max_size=50))
    damaged = data.draw(st.sampled_from([archive[:cut], archive[cut:], archive[:cut] + middle + archive[cut + length:],
                                         archive + middle, middle + archive, middle]))
    if damaged == archive:
        return
    path.write_bytes(damaged)
    refused(path)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "other"
    others = (b"hello world", b"\x80\x02.", pickle.dumps({"a": 1}), b"\x93NUMPY" + b"\0" * 200)
    for content, match in ((b"", "empty"), (b"PK\x03\x04", "damaged"), *((content, "neither") for content in others)):
        path.write_bytes(content)
        refused(path, match)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")
    refused(path, "zip file")
    refused(tmp_path / "missing", "No such file")
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    if os.geteuid():
        path.chmod(0)
        refused(path, "Permission denied")


def rezip(archive: bytes, path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        members = [(n, file.read(n)) for n in file.namelist()]
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in change(members):
            file.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_exactly_ours(archive, tmp_path):
    path = tmp_path / "members"
    for change in (lambda m: [*m, ("evil.txt", b"x")], lambda m: [*m, ("../evil.txt", b"x")], lambda m: [*m, m[0]],
                   lambda m: m[1:], lambda m: m[::-1], lambda m: [("../" + n, c) for n, c in m],
                   lambda m: [("/" + n, c) for n, c in m], lambda m: [*m, ("archive/data.pkl", b"cos\nsystem\n.")]):
        rezip(archive, path, change)
        refused(path)
    assert os.listdir(tmp_path) == ["members"]
    rezip(archive, path, lambda m: m)
    refused(path, "damaged")  # the same members in a container that we did not write
    rezip(archive, path, lambda m: m, zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


def test_bombs_are_refused_at_once(archive, tmp_path):
    path = tmp_path / "bomb"
    rezip(archive, path, lambda m: [*m[:2], (m[2][0], b"\0" * 200_000_000)], zipfile.ZIP_DEFLATED)
    refused(path, "compressed")
    header = json.dumps({"model/x": {"dtype": "F32", "shape": [2 ** 40, 2 ** 10], "data_offsets": [0, 2 ** 52]}}).encode()
    out = io.BytesIO()
    graph = {k: v for k, v in json.loads(zipfile.ZipFile(io.BytesIO(archive)).read("graph.json")).items()
             if k not in ("format", "version")}
    container.write(out, graph, len(header).to_bytes(8, "little") + header)
    path.write_bytes(out.getvalue())
    refused(path)
    for claimed in (2 ** 62, 2 ** 64 - 1):
        out = io.BytesIO()
        container.write(out, graph, claimed.to_bytes(8, "little") + b"{}")
        path.write_bytes(out.getvalue())
        refused(path)
    rezip(archive, path, lambda m: [(m[0][0], b"[" * 1_000_000), *m[1:]])
    refused(path, "nested")


def test_a_right_seal_does_not_stand_for_right_members(archive, path):
    rezip(archive, path, lambda m: [(n, c.replace(b"1.5", b"2.5")) for n, c in m])
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"sha256=" + b"0" * 64
    data = path.read_bytes()[:-71]
    path.write_bytes(data + b"sha256=" + hashlib.sha256(data).hexdigest().encode())
    refused(path, "checksum in manifest.json")


def test_versions_and_formats(archive, path):
    def rewrite(**changes):
        def change(members):
            graph = {**json.loads(members[0][1]), **changes}
            return [(members[0][0], json.dumps(graph).encode()), *members[1:]]
        rezip(archive, path, change)

    rewrite(version=container.VERSION + 1)
    refused(path, f"version is {container.VERSION + 1}.*newer fxgrow")
    for version in (0, -1, "1", True, None, 1.0):
        rewrite(version=version)
        refused(path, "version")
    rewrite(format="other")
    refused(path, "format is 'other'")
    rewrite(extra="changed")
    refused(path, "damaged")
    rezip(archive, path, lambda m: [(m[0][0], m[0][1][:-1] + b',"format":"fxgrow"}'), *m[1:]])
    refused(path, "not valid JSON")
