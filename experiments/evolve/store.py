"""The folder of a search: every evaluation before it counts, in SQLite, and networks in files by content.

A kill at any moment leaves the last finished transaction. A network's file, named by a hash of the network and checked by
it, may be the difference to its parent's: bits of old numbers exclusive-or the parent's, mostly zero.
"""
import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

import fxgrow
from fxgrow.common import atomic_write
from fxgrow.errors import ArchiveError, FxgrowError
from fxgrow.experiments.evolve.member import Member, Scored
from fxgrow.experiments.settings import TrainError
from fxgrow.graph import clone_structure, tensors_of
from fxgrow.record import GrowthRecord, record_in

NAME = "search.sqlite"
DEEPEST = 6    # differences in a row, at most
REMEMBERED = 8  # networks that are kept in memory
WHOLE, DIFFERENCE = b"fxw1", b"fxd1"
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, parent INTEGER, step TEXT,
    graph TEXT NOT NULL, parameters INTEGER NOT NULL, flops INTEGER NOT NULL, latency REAL);
CREATE TABLE IF NOT EXISTS evaluations (member INTEGER NOT NULL REFERENCES members, round INTEGER NOT NULL,
    archive TEXT NOT NULL, accuracy REAL NOT NULL, loss REAL NOT NULL, correct TEXT NOT NULL, spent INTEGER NOT NULL,
    steps INTEGER NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (member, round));
CREATE TABLE IF NOT EXISTS fitness (member INTEGER NOT NULL, round INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (member, round));
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, kept TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS discarded (round INTEGER NOT NULL, parent INTEGER NOT NULL, step TEXT NOT NULL,
    reason TEXT NOT NULL);
"""


def to_bytes(model: GraphModule) -> bytes:
    """Return a network as `fxgrow.save` writes it; the same network gives the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        fxgrow.save(model, path)
        return path.read_bytes()


def from_bytes(content: bytes | memoryview) -> GraphModule:
    """Return the network of `to_bytes`; nothing in the content is run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        path.write_bytes(content)
        return fxgrow.load(path)  # type: ignore[return-value]


class Store:
    """The folder of a search; TrainError where it cannot be made or is not a search's."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        try:
            (self.folder / "networks").mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(self.folder / NAME, isolation_level=None)
            self._insist_whole()
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.executescript(TABLES)
        except (OSError, sqlite3.OperationalError) as error:
            raise TrainError(f"{self.folder} cannot hold a search ({error}): choose another folder") from error
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from error

    def _insist_whole(self) -> None:
        """Raise TrainError if the file is there and is damaged, or another program's; nothing in it is changed."""
        if (found := str(self.db.execute("PRAGMA quick_check(1)").fetchone()[0])) != "ok":
            raise self._damaged(found.splitlines()[-1])
        if not (self.folder / NAME).stat().st_size and any((self.folder / "networks").iterdir()):
            raise self._damaged("it is empty")
        there = _columns(self.db)
        with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(TABLES)
            wanted = _columns(fresh)
        others = [name for name, columns in wanted.items() if there.get(name, columns) != columns]
        if there and (others or "settings" not in there):
            raise TrainError(f"{self.folder / NAME} is another program's file, not a search's: choose another folder")

    def _damaged(self, why: str) -> TrainError:
        return TrainError(f"{self.folder / NAME} is damaged ({why}): put a copy of it there, or start anew in another "
                          "folder")

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all or nothing of what is written inside."""
        self.db.execute("BEGIN IMMEDIATE")
        with self.db:
            yield

    def settings(self) -> dict[str, Any] | None:
        """Return what the search was started with; None in a new folder."""
        row = self.db.execute("SELECT value FROM settings WHERE name = 'config'").fetchone()
        return None if row is None else {"anneal": "each", **json.loads(row[0])}  # as all did before there was a choice

    def keep_settings(self, config: Mapping[str, Any]) -> None:
        """Write what the search is started with."""
        self.db.execute("INSERT OR REPLACE INTO settings VALUES ('config', ?)", (json.dumps(config),))

    def add_members(self, members: Sequence[Member], round: int, kept: Sequence[int], discarded: Sequence[Any] = ()) -> None:
        """Write a round's new members, whom it keeps of the ones before, and the mutations that led to nothing."""
        with self.transaction():
            self.db.executemany("INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [
                (m.number, m.round, m.parent, None if m.step is None else json.dumps(m.step), m.graph, m.parameters,
                 m.flops, m.latency) for m in members])
            self.db.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?)", (round, json.dumps(list(kept))))
            self.db.executemany("INSERT INTO discarded VALUES (?, ?, ?, ?)", [
                (round, d.parent, json.dumps(d.step), d.reason) for d in discarded])

    def members(self) -> dict[int, Member]:
        """Return all members by number."""
        rows = self.db.execute("SELECT * FROM members ORDER BY number")
        return {n: Member(n, r, p, None if s is None else json.loads(s), g, c, f, t) for n, r, p, s, g, c, f, t in rows}

    def kept(self, round: int) -> list[int] | None:
        """Return whom a round kept; None: it has not begun."""
        return self.all_kept().get(round)

    def all_kept(self) -> dict[int, list[int]]:
        """Return whom each round kept."""
        return {r: json.loads(kept) for r, kept in self.db.execute("SELECT round, kept FROM rounds ORDER BY round")}

    def discarded(self) -> list[dict[str, Any]]:
        """Return the mutations that led to nothing, in order."""
        rows = self.db.execute("SELECT * FROM discarded ORDER BY rowid")
        return [{"round": r, "parent": p, "step": json.loads(s), "reason": why} for r, p, s, why in rows]

    def add_evaluations(self, scored: Sequence[Scored]) -> None:
        """Write evaluations, all or none."""
        with self.transaction():
            self.db.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [
                (s.number, s.round, s.archive, s.accuracy, s.loss, s.correct, s.spent, s.steps, s.seconds) for s in scored])
            self.db.executemany("INSERT INTO fitness VALUES (?, ?, ?)", [
                (s.number, s.round, s.fitness) for s in scored if s.fitness is not None])

    def evaluations(self, members: Mapping[int, Member] | None = None) -> list[Scored]:
        """Return the evaluations in the order in which they ended."""
        member_of = self.members() if members is None else members
        rows = self.db.execute("SELECT evaluations.*, value FROM evaluations LEFT JOIN fitness USING (member, round) "
                               "ORDER BY evaluations.rowid")
        return [Scored(member_of[n], *rest) for n, *rest in rows]

    def put(self, content: bytes, parent: str | None = None) -> str:
        """Keep a network (`to_bytes`) and return its hash; parent: that of what it grew from or is a later state of."""
        name = hashlib.sha256(content).hexdigest()
        self._remember(name, content)
        path = self.path(name)
        if path.exists():
            return name
        whole = WHOLE + zlib.compress(content, 1)
        smaller = None if parent is None else self._difference(content, parent)
        with atomic_write(path) as file:
            file.write(smaller if smaller is not None and len(smaller) < len(whole) else whole)
        return name

    def put_moments(self, name: str, content: bytes) -> None:
        """Keep the moments of the optimizer that trained the network of a hash."""
        with atomic_write(self.path(name).with_suffix(".moments")) as file:
            file.write(zlib.compress(content, 1))

    def moments(self, name: str) -> bytes:
        """Return what `put_moments` kept, or raise ArchiveError."""
        path = self.path(name).with_suffix(".moments")
        try:
            return zlib.decompress(path.read_bytes())
        except (OSError, zlib.error) as error:
            raise ArchiveError(f"{path.name} cannot be read: {error}") from error

    def path(self, name: str) -> Path:
        """Return the file of a network."""
        return self.folder / "networks" / f"{name}.fxn"

    def get(self, name: str) -> bytes:
        """Return the content of the network of a hash.

        Raises:
            ArchiveError: its file, or that of one that it is the difference to, is missing or damaged.
        """
        if name not in self._memory:
            self._remember(name, self._read(name))
        self._memory.move_to_end(name)
        return self._memory[name]

    def model(self, name: str) -> GraphModule:
        """Return the network of a hash; raises as `get` does."""
        return from_bytes(self.get(name))

    def structure(self, name: str) -> GraphModule:
        """Return a network and its record from its own file alone: of a difference, the numbers mean nothing."""
        return from_bytes(self._content(name)[1])

    def check(self, thorough: bool = True) -> dict[str, str]:
        """Return the networks that can no longer be read, and why; what is known of them stays.

        Args:
            thorough: put each network together and compare it with its hash; else, which is many times as fast, find out
                whether the checksum of its file is right, and of those that it is the difference to.
        """
        sound: set[str] = set()
        rows = self.db.execute("SELECT DISTINCT archive FROM evaluations WHERE archive != '' ORDER BY rowid").fetchall()
        problems = {archive: self._problem(archive, sound, thorough) for archive, in rows}
        return {archive: problem for archive, problem in problems.items() if problem is not None}

    def _problem(self, name: str, sound: set[str], thorough: bool) -> str | None:
        """Return why a network cannot be read, if it cannot; the checked files go to `sound`, and are not checked again."""
        line: list[str] = []
        try:
            if thorough:
                self._read(name)
                return None
            while name and name not in sound:
                line.append(name)
                name, _ = self._content(name)
        except ArchiveError as error:
            return str(error)
        sound.update(line)
        return None

    def _content(self, name: str) -> tuple[str, bytes]:
        """Return which network a file holds the difference to (empty: it is whole), and that or the whole as bytes."""
        path = self.path(name)
        try:
            raw = path.read_bytes()
            if raw[:4] not in (WHOLE, DIFFERENCE):
                raise ValueError("it is no network of a search")
            content = zlib.decompress(raw[4:])
            start = 64 if raw[:4] == DIFFERENCE else 0  # behind the parent's hash
            return content[:start].decode(), content[start:]
        except (OSError, ValueError, zlib.error) as error:
            raise ArchiveError(f"{path.name} cannot be read: {error}") from error

    def _remember(self, name: str, content: bytes) -> None:
        self._memory[name] = content
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)

    def _read(self, name: str) -> bytes:
        file = self.path(name).name
        parent, content = self._content(name)
        try:
            if parent:
                content = to_bytes(_apply(from_bytes(content), from_bytes(self.get(parent))))
        except ArchiveError as error:
            raise ArchiveError(f"{file}: {error}") from error
        except (OSError, ValueError, FxgrowError) as error:
            raise ArchiveError(f"{file} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise ArchiveError(f"{file} is damaged: what it holds is another network")
        return content

    def _difference(self, content: bytes, parent: str) -> bytes | None:
        """Return the file of a network as a difference; None where there are too many in a row."""
        if self._depth(parent) >= DEEPEST:
            return None
        theirs = from_bytes(self.get(parent))
        body = to_bytes(_apply(from_bytes(content), theirs))
        if to_bytes(_apply(from_bytes(body), theirs)) != content:  # of a type that does not come back bit by bit
            return None
        return DIFFERENCE + zlib.compress(parent.encode() + body, 1)

    def _depth(self, name: str) -> int:
        """Return how many differences have to be read for a network."""
        depth = 0
        try:
            while name := self._content(name)[0]:
                depth += 1
        except ArchiveError:
            return DEEPEST  # nothing is built on what cannot be read
        return depth


@contextlib.contextmanager
def opened(folder: str | os.PathLike) -> Iterator[Store]:
    """Open the folder of a search that has begun; raise TrainError if there is none."""
    if not (Path(folder) / NAME).is_file():
        raise TrainError(f"{os.fspath(folder)} holds no search: name the folder that `fxgrow evolve -o` wrote")
    with contextlib.closing(Store(Path(folder))) as store:
        if store.settings() is None:
            raise TrainError(f"{os.fspath(folder)} holds a search that had not begun: start it anew")
        yield store


def _columns(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the columns of each table."""
    tables = [name for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    return {table: [c for c, in db.execute("SELECT name FROM pragma_table_info(?)", (table,))] for table in tables}


def _apply(model: GraphModule, parent: GraphModule) -> GraphModule:
    """Return a network, a child of `parent` or a later state of it, exclusive-or the parent's bits; twice, it is itself."""
    theirs, ours = tensors_of(parent), tensors_of(model)
    if {n: t.shape for n, t in theirs.items()} != {n: t.shape for n, t in ours.items()}:
        theirs = (record_in(model) or GrowthRecord()).migrate_tensors(theirs)
    names = {id(t): n for n, t in ours.items()}

    def exclusive_or(tensor: Tensor) -> Tensor:
        was = theirs.get(names.get(id(tensor), ""))
        if was is None or was.shape != tensor.shape or was.dtype != tensor.dtype or tensor.element_size() not in BITS:
            return tensor.detach().clone()
        a, b = (t.detach().reshape(-1).view(BITS[tensor.element_size()]) for t in (tensor, was))
        return torch.empty_like(tensor).copy_((a ^ b).view(tensor.dtype).view(tensor.shape))

    new: GraphModule = clone_structure(model, exclusive_or)  # type: ignore[assignment]
    new.recompile()
    return new
