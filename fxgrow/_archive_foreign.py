"""Files that are not ours: a module written by `torch.save` is read if it is made of known layers only.

The pickle is run twice. First with stand-ins for everything it names, which finds the names and whether each storage is
as large as it claims (torch would read beyond it). Then by `torch.load(weights_only=True)`, with stand-ins for the layer
classes, so that no constructor runs; the layers are made of what these received, after a look at it.
"""
from __future__ import annotations

import _compat_pickle
import collections
import enum
import functools
import io
import os
import pickle
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from fxgrow import _archive_allow as allow
from fxgrow._archive_modules import OWN_OF_MODULE
from fxgrow._archive_zip import MEMBERS
from fxgrow.errors import ArchiveError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's format before 1.6: pickles one after another
CORE = frozenset("""collections.OrderedDict builtins.set builtins.complex torch.Size torch.device torch.Tensor
torch.nn.parameter.Parameter torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3 torch._utils._rebuild_parameter
torch._utils._rebuild_parameter_with_state torch.serialization._get_layout""".split())
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.layout,
         torch.memory_format)
ITEM_SIZES = {"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ComplexDoubleStorage": 16,
              "ComplexFloatStorage": 8, "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1,
              "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1}
TELL = {"torchscript": "it is a TorchScript program, which has no modules to grow; save the Python module with torch.save",
        "export": "it is a torch.export program, which has no modules to grow; save the Python module with torch.save",
        "safetensors": "it holds only weights", "empty": "it is empty",
        "zip": "it is a zip file, but neither an fxgrow archive nor a model written by torch.save",
        "unknown": "it is neither an fxgrow archive nor a model written by torch.save"}
TRUST = ", or, if you trust whoever wrote the file, pass trust_pickle=True (command line: --trust-pickle)"
WEIGHTS = ("it holds only weights, not a model: load it into the model it belongs to with load_state_dict (command line: "
           "MODEL --weights FILE)")


def kind_of(file: BinaryIO) -> str:
    """What the file is: fxgrow, torch, legacy, or a key of `TELL`.

    Raises:
        ArchiveError: it begins like an archive and is none.
    """
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


def load(file: BinaryIO, kind: str, trust_pickle: bool) -> nn.Module:
    """The module in a file written by `torch.save`.

    Raises:
        ArchiveError: the file is of another kind, holds no module, or asks for anything but known layers.
    """
    if kind in ("torch", "legacy"):
        with torch.no_grad():
            found = _trusting(file) if trust_pickle else _wary(file, kind)
    elif kind == "safetensors":
        raise ArchiveError(WEIGHTS)
    else:
        raise ArchiveError(TELL[kind])
    if isinstance(found, nn.Module):
        return found
    if isinstance(found, (dict, list, tuple, Tensor)):
        raise ArchiveError(WEIGHTS)
    raise ArchiveError(f"it holds a {type(found).__name__}, not a model")


def _trusting(file: BinaryIO) -> Any:
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=False)


def _wary(file: BinaryIO, kind: str) -> Any:
    if kind == "torch":
        names, file = _unpacked(file)
    else:
        names = _names_in_legacy(file)
    if any(n.startswith("torch.fx.graph_module.") for n in names):
        raise ArchiveError(f"it is a traced graph, which torch.save writes as code: write it with fxgrow.save{TRUST}")
    stand_ins: list[Any] = [(s, n) for n in sorted(names) if (s := _stand_in(n)) is not None]
    file.seek(0)
    with torch.serialization.safe_globals(stand_ins):
        return _Finish().value(torch.load(file, map_location="cpu", weights_only=True))


# --- first run: what it names, how large its storages are --------------------------------------------------------------


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
        raise ArchiveError(f"it holds a storage of unknown type {allow._shown(name)}")
    return ITEM_SIZES[attribute]


def _unpacked(file: BinaryIO) -> tuple[set[str], BinaryIO]:
    """The names in the pickle, and the members in a fresh zip file, so that torch sees what was checked here."""
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


# --- second run: what stands for what ------------------------------------------------------------------------------------


class _Shell:
    """Stands for an object while the pickle runs: keeps what it was made of."""
    real: Any = None

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state


class _Layer(_Shell):
    def __new__(cls, *args):
        if args:
            raise ArchiveError(f"it calls the constructor of {cls.real.__name__}")
        shell = object.__new__(cls)
        shell.args, shell.state = (), None
        return shell

    def __init__(self, *args):
        raise ArchiveError(f"it calls the constructor of {self.real.__name__}")


class _Plain(_Layer):
    """An object of a plain class that comes with a model (a box coder, a configuration)."""


class _Member(_Shell):
    """A member of an enumeration, by value."""


class _MemberByName(_Shell):
    """`getattr(Enumeration, name)`: how some Python versions write a member."""


class _Partial(_Shell):
    """functools.partial."""


class _Function:
    """A function of the allow-list, not to be called."""

    def __init__(self, name: str):
        self.real = allow.find_function(name)


def _stand_in(name: str) -> Any:
    """What takes the place of a global of the pickle; None for torch's own ones, which need no place.

    Raises:
        ArchiveError: the name is nothing that loading is ready to resolve.
    """
    module, _, attribute = name.rpartition(".")
    if name in CORE or (module in ("torch", "torch.storage") and attribute in ITEM_SIZES) or (
            module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)):
        return None
    if name == "functools.partial":
        return _Partial
    if name == "builtins.getattr":
        return _MemberByName
    for base, find in ((_Layer, allow.find_class), (_Member, allow.find_enum), (_Plain, allow.find_plain)):
        try:
            return type(attribute, (base,), {"real": find(name)})
        except ArchiveError as error:
            reason = str(error)
            if "install" in reason:
                raise
    try:
        return _Function(name)
    except ArchiveError:
        raise ArchiveError(f"it asks for {allow._shown(name)}, which is not a layer of torch, torchvision or timm: save its "
                           f"state_dict instead{TRUST}") from None


class _Finish:
    """Turns what the second run gave into the real thing, refusing whatever a plain module does not hold."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._make(value)
        return self.done[id(value)]

    def _make(self, value: Any) -> Any:
        if isinstance(value, _Plain):
            return self._plain(value)
        if isinstance(value, _Layer):
            return self._layer(value)
        if isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter):
            return value
        if type(value) in (dict, collections.OrderedDict):
            return type(value)((self.value(k), self.value(v)) for k, v in value.items())
        if type(value) in (list, tuple, set):
            return type(value)(self.value(v) for v in value)
        if isinstance(value, _Function) and value.real is not getattr:
            return value.real
        if isinstance(value, type) and issubclass(value, _Layer):
            return value.real
        if isinstance(value, _Member) and len(value.args) == 1:
            return value.real(self.value(value.args[0]))
        if isinstance(value, _MemberByName) and len(value.args) == 2 and issubclass(value.args[0], _Member):
            members: dict[str, enum.Enum] = value.args[0].real.__members__
            return members[value.args[1]]
        if isinstance(value, _Partial) and isinstance(value.state, tuple) and len(value.state) == 4:
            function, args, kwargs = (self.value(v) for v in value.state[:3])
            return functools.partial(function, *args, **(kwargs or {}))
        raise ArchiveError(f"it holds a {type(value).__name__}, which a model of plain layers does not")

    def _layer(self, shell: _Layer) -> nn.Module:
        cls = shell.real
        module = self.done[id(shell)] = object.__new__(cls)
        nn.Module.__init__(module)
        state = self.value(shell.state)
        if not isinstance(state, dict):
            raise ArchiveError(f"a layer of class {cls.__name__} has no state")
        for name, value in state.items():
            self._check_attribute(cls, name, value)
        module.__setstate__(state)
        return module

    def _plain(self, shell: _Plain) -> Any:
        made = self.done[id(shell)] = object.__new__(shell.real)
        state = self.value(shell.state)
        for name in state or ():
            self._check_own(shell.real, name, True)
        vars(made).update(state or {})
        return made

    def _check_attribute(self, cls: type, name: Any, value: Any) -> None:
        kinds = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
        if name in kinds:
            fits = isinstance(value, dict) and all(v is None or isinstance(v, kinds[name]) for v in value.values()) \
                and all(isinstance(k, str) and not allow.shadows(cls, k) for k in value)
        elif name == "training":
            fits = isinstance(value, bool)
        elif name == "_non_persistent_buffers_set":
            fits = isinstance(value, set)
        elif name in OWN_OF_MODULE:
            fits = not value  # hooks
        else:
            fits = True
        self._check_own(cls, name, fits)

    @staticmethod
    def _check_own(cls: type, name: Any, fits: bool) -> None:
        own = isinstance(name, str) and (name in OWN_OF_MODULE or not (name.startswith("__") or allow.shadows(cls, name)))
        if not (fits and own):
            raise ArchiveError(f"an object of class {cls.__name__} has an attribute {allow._shown(name)} that may hold code")
