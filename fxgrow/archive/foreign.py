"""Files that are not ours: a module that `torch.save` wrote is read if it is made of known layers only.

The pickle is run twice. First with stand-ins for everything it names, which finds the names and whether each storage is
as large as it claims (torch would read beyond it). Then by `torch.load(weights_only=True)`, with stand-ins for the layer
classes, so that no constructor runs; the layers are made of what these received, after a look at it.
"""
import _compat_pickle  # noqa: PLC2701
import io
import os
import pickle
import types
import zipfile
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from fxgrow.archive import allow
from fxgrow.archive.container import MEMBERS
from fxgrow.archive.standins import ITEM_SIZES, TRUST, Finish, stand_in
from fxgrow.compare import Verification
from fxgrow.errors import ArchiveError
from fxgrow.record import Grown, GrowthRecord, Outcome, ParameterRecord

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's format before 1.6: pickles one after another
NO_MODEL = {
    "torchscript": "it is a TorchScript program, which has no modules to grow; save the Python module with torch.save",
    "export": "it is a torch.export program, which has no modules to grow; save the Python module with torch.save",
    "empty": "it is empty",
    "zip": "it is a zip file, but neither an fxgrow archive nor a model written by torch.save",
    "unknown": "it is neither an fxgrow archive nor a model written by torch.save"}
# where fxgrow 0.1.0 had the classes that its pickles name
MOVED = {("fxgrow._record", "GrowthRecord"): GrowthRecord, ("fxgrow._record", "ParameterRecord"): ParameterRecord,
         ("fxgrow._transform", "Grown"): Grown, ("fxgrow._transform", "Outcome"): Outcome,
         ("fxgrow._verify", "Verification"): Verification}
WEIGHTS = ("it holds only weights, not a model: load it into the model it belongs to with load_state_dict (command line: "
           "MODEL --weights FILE)")


def kind_of(file: BinaryIO) -> str:
    """Tell what the file is: fxgrow, torch, legacy, safetensors or a key of `NO_MODEL`; refuse half a zip file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(64)
    if start.startswith(b"PK"):
        return _kind_of_zip(file)
    if start.startswith(MAGIC):
        return "legacy"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "safetensors"
    return "unknown" if start else "empty"


def _kind_of_zip(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:
        raise ArchiveError("it is damaged or cut short") from error
    if set(MEMBERS) & set(names):
        return "fxgrow"
    ends = {n.partition("/")[2] for n in names}
    if "constants.pkl" in ends:
        return "torchscript"
    if ends & {"archive_format", "models/model.json"} or "serialized_exported_program.json" in names:
        return "export"
    return "torch" if "data.pkl" in ends else "zip"


def load_foreign(file: BinaryIO, kind: str, trust_pickle: bool) -> nn.Module:
    """Return the module in a file written by `torch.save`; raise ArchiveError if it holds none or more than known layers."""
    if kind == "safetensors":
        raise ArchiveError(WEIGHTS)
    content = read_foreign(file, kind, trust_pickle)
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, (dict, list, tuple, Tensor)):
        raise ArchiveError(WEIGHTS)
    raise ArchiveError(f"it holds a {type(content).__name__}, not a model")


def read_foreign(file: BinaryIO, kind: str, trust_pickle: bool = False) -> Any:
    """Return whatever a file written by `torch.save` or by safetensors holds; refuse as `load_foreign` does."""
    file.seek(0)
    if kind == "safetensors":
        return safetensors.torch.load(file.read())
    if kind not in ("torch", "legacy"):
        raise ArchiveError(NO_MODEL[kind])
    with torch.no_grad():
        if trust_pickle:
            return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_PICKLE)
        return _wary(file, kind)


class _Unpickler(pickle.Unpickler):
    """Finds the classes that have moved."""

    def find_class(self, module: str, name: str) -> Any:
        return MOVED.get((module, name)) or super().find_class(module, name)


# what torch asks of the module `pickle`
_PICKLE = types.SimpleNamespace(__name__="pickle", Unpickler=_Unpickler,
                                load=lambda file, **options: _Unpickler(file, **options).load())


def _wary(file: BinaryIO, kind: str) -> Any:
    names, file = _unpacked(file) if kind == "torch" else (_names_in_legacy(file), file)
    if any(n.startswith(("torch.fx.graph_module.", "fxgrow.layers.unpickled")) for n in names):
        raise ArchiveError(f"it is a traced graph, which torch.save writes with functions: write it with fxgrow.save{TRUST}")
    stand_ins = {name: stand_in(name) for name in sorted(names)}
    file.seek(0)
    with torch.serialization.safe_globals([(stands, name) for name, stands in stand_ins.items() if stands is not None]):
        return Finish().value(torch.load(file, map_location="cpu", weights_only=True))


class _Stub:
    """Stands for anything; takes whatever a pickle does to it and does nothing."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def _ignore(self, *args, **kwargs):
        return None

    __init__ = __setstate__ = __setitem__ = append = extend = add = update = _ignore  # type: ignore[assignment]

    def __call__(self, *args, **kwargs):
        return _Stub()


class _DryRun(pickle._Unpickler):  # type: ignore[name-defined]  # in Python: the C one can be made to allocate at will
    """Collects the names in a pickle and the storages it asks for, and calls nothing."""

    def __init__(self, file):
        super().__init__(file)
        self.proto = 0  # the pickle itself sets it
        self.names: set[str] = set()
        self.storages: list[tuple[str, int]] = []

    def find_class(self, module, name):
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)  # Python 2's names, which pickles still use
        self.names.add(f"{module}.{name}")
        return type(name, (_Stub,), {"named": f"{module}.{name}"})

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            raise ArchiveError("it is a module in the format of torch before 1.6, which is code: save it with a newer torch"
                               + TRUST)
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or type(pid[4]) is not int or pid[4] < 0:
            raise ArchiveError("it asks for something that is not a tensor's storage")
        self.storages.append((str(pid[2]), pid[4] * _item_size(getattr(pid[1], "named", ""))))
        return _Stub()


def _item_size(name: str) -> int:
    module, _, attribute = name.rpartition(".")
    if module not in ("torch", "torch.storage") or attribute not in ITEM_SIZES:
        raise ArchiveError(f"it holds a storage of unknown type {allow.shown(name)}")
    return ITEM_SIZES[attribute]


def _unpacked(file: BinaryIO) -> tuple[set[str], BinaryIO]:
    """Return the names in the pickle, and the members in a fresh zip file, so that torch sees what was checked here."""
    size = file.seek(0, os.SEEK_END)
    fresh = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as copy:
        infos = {i.filename.partition("/")[2]: i for i in archive.infolist()}
        if len(infos) != len(archive.infolist()) or any(
                i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size for i in infos.values()) \
                or sum(i.file_size for i in infos.values()) > size:
            raise ArchiveError("its members are compressed, doubled or larger than the file")
        run = _DryRun(io.BytesIO(archive.read(infos["data.pkl"])))
        run.load()
        if run.proto != 2:
            raise ArchiveError(f"it is pickled with protocol {run.proto}: save it with torch.save's own, 2{TRUST}")
        for key, claimed in run.storages:
            if f"data/{key}" not in infos or infos[f"data/{key}"].file_size != claimed:
                raise ArchiveError(f"it is damaged: storage {key[:40]!r} is not as large as it claims")
        for name, info in infos.items():
            copy.writestr(f"archive/{name}", archive.read(info))
    return run.names, fresh


def _names_in_legacy(file: BinaryIO) -> set[str]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    names: set[str] = set()
    for _ in range(5):  # a magic number, the version, the system, the object, the keys of its storages
        run = _DryRun(file)
        run.load()
        names |= run.names
        if any(claimed > size for _, claimed in run.storages):
            raise ArchiveError("it is damaged: a storage is not as large as it claims")
    return names
