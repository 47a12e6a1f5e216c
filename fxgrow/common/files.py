"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed over it."""
import contextlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fxgrow.common.words import one_line
from fxgrow.errors import ArchiveError, TrainError

LOCK = ".lock"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a binary file for writing and reading that becomes `path` when the block ends without an error.

    Whatever goes wrong, `path` keeps what it held before and nothing is left beside it. A symbolic link keeps pointing
    where it did; a device (`/dev/null`) is written to and not replaced.

    Raises:
        ArchiveError: the folder is missing or not writable, the disk is full, the path is a folder.
    """
    name = os.fspath(path)
    try:
        place = Path(os.path.realpath(name))
        exists = place.exists()
        mode = place.stat().st_mode if exists else stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(None, "it is a directory")
        if stat.S_ISCHR(mode):
            content = io.BytesIO()
            yield content
            with place.open("wb", buffering=0) as device:
                device.write(content.getbuffer())
        elif stat.S_ISREG(mode):
            if exists and not os.access(place, os.W_OK):
                raise PermissionError(None, "the file there is write-protected")
            with _beside(place, stat.S_IMODE(mode) if exists else None) as file:
                yield file
        else:
            raise OSError(None, "it is neither a file nor a device")
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "null byte" not in str(error):
            raise
        why = one_line(error)
        if isinstance(error, FileNotFoundError) and name:
            why = f"the folder {str(Path(name).absolute().parent)!r} does not exist; make it first"
        raise ArchiveError(f"cannot write {name!r}: {why}") from error


@contextlib.contextmanager
def held(folder: str | os.PathLike | None) -> Iterator[None]:
    """Keep a folder, made if it is not there, for one process at a time; TrainError if another has it.

    The system takes the lock from a run that ends, however it does, a kill included. A folder that cannot be written to is
    not locked (what comes next says so), nor is any where the system has no such locks.
    """
    handle = None if folder is None else _locked(Path(folder))
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """Return the open file by which a folder is held, or None where that cannot be."""
    try:
        import fcntl
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which processes that it starts do not hold as well
    except (BlockingIOError, PermissionError) as error:
        os.close(handle)
        raise TrainError(f"another run is writing to {folder}: wait until it has ended, or choose another folder") from error
    except OSError:  # a file system without locks
        pass
    return handle


@contextlib.contextmanager
def _beside(place: Path, mode: int | None) -> Iterator[BinaryIO]:
    temporary = place.with_name(f".{place.name[:100]}.{secrets.token_hex(6)}.part")
    # os.open, so that the umask decides the permissions as it does for any other file
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, place)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # put the rename itself on the disk; file systems that cannot do it are left alone
        handle = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Make a folder that becomes `path` when the block ends without an error, and else leaves nothing behind.

    Raises:
        ArchiveError: there is a file or a folder with something in it already, or none can be made there.
    """
    name = os.fspath(path)
    place = Path(name).absolute()
    temporary = place.with_name(f".{place.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise FileExistsError(None, "it exists already: name a new folder")
        temporary.mkdir()
        try:
            yield temporary
            if place.exists():
                place.rmdir()
            temporary.replace(place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        why = one_line(error)
        if isinstance(error, FileNotFoundError):
            why = f"the folder {str(place.parent)!r} does not exist; make it first"
        raise ArchiveError(f"cannot write {name!r}: {why}") from error
