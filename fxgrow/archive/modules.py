"""The module tree and its tensors as JSON: a layer is its class name, its plain attributes and its tensors.

Shared layers, shared parameters and shared memory are written once. The way back is in tree.py.
"""
import contextlib
import enum
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.archive import allow
from fxgrow.archive.container import FIRST, OWN_CODE
from fxgrow.archive.hooks import encode_hooks
from fxgrow.archive.own import REBUILT_OF_RNN, class_of, full_name, own_attributes, own_hooks
from fxgrow.archive.structure import OWN_OF_MODULE, Nesting, is_dense, missing_constant, usable_attribute, usable_name
from fxgrow.archive.values import Unencodable, encode
from fxgrow.errors import ArchiveError
from fxgrow.graph import is_captured, tensors_of, trains
from fxgrow.layers import Applied
from fxgrow.record import GrowthRecord

PREFIX = "model/"
OWN_OF_GRAPH = OWN_OF_MODULE.union(vars(GraphModule(nn.Module(), Graph())))
META = "meta"  # what a loaded shell knows of its inputs and growth, beside its attributes


def graphs_of(model: nn.Module, path: str = "") -> dict[str, GraphModule]:
    """Return the captured graphs in a model by path: the model itself, and the parts of modules that are no graph."""
    found = {path: model} if is_captured(model) else {}
    for name, child in model.named_children():  # each child once
        found |= graphs_of(child, _join(path, name))
    return found


def _outside_graphs(model: nn.Module) -> set[int]:
    """Return the ids of modules outside all captured graphs: their classes' own code runs."""
    if is_captured(model):
        return set()
    return {id(model)}.union(*map(_outside_graphs, model.children()))


class Encoder:
    """Modules (children before parents), tensor objects and tensor data of a captured model or a shell with such parts."""

    def __init__(self, model: nn.Module, prefix: str = PREFIX, record: GrowthRecord | None = None):
        self.graphs, self.prefix, self.record = graphs_of(model), prefix, record or GrowthRecord()
        self._root = model
        self.modules: list[dict] = []
        self.objects: list[dict] = []
        self.data: dict[str, Tensor] = {}
        self.strides: dict[str, list[int]] = {}
        self.meta: dict[str, dict] = {}
        self.version = FIRST  # of the format, which it takes to write this
        self._module_index: dict[int, int | None] = {}
        self._object_index: dict[int, int] = {}
        self._memory: dict[tuple, str] = {}
        self._parameter_ranges: list[tuple[int, int, str]] = []
        self._nesting = Nesting()
        self._layers, self._own = _outside_graphs(model), set[int]()
        for gm in self.graphs.values():
            called = {str(n.target) for n in gm.graph.nodes if n.op == "call_module"}
            self._layers.update(*(_outside_graphs(gm.get_submodule(path)) for path in called))
            if any(isinstance(n.target, Applied) for n in gm.graph.nodes):
                self.version = OWN_CODE
        for module in model.modules():
            self._is_own(module)
        self._add_module(model, "")
        self._refuse_overlaps()

    def tree(self) -> dict:
        """Return the fields of an archive that describe the modules and tensors."""
        return {"modules": self.modules, "tensors": self.objects, "strides": self.strides, "meta": self.meta}

    def _add_module(self, module: nn.Module, path: str) -> int:
        if id(module) in self._module_index:
            index = self._module_index[id(module)]
            if index is None:
                raise ArchiveError(f"module {path!r} contains itself; an archive cannot hold that")
            return index
        self._module_index[id(module)] = None
        layer, attributes, hooks = self._description(module, path)
        children = {n: None if m is None else self._add_module(m, _join(path, n)) for n, m in module._modules.items()}
        entry = {"class": layer, "training": bool(module.training), "attributes": attributes,
                 "parameters": {n: self._add_tensor(t, _join(path, n)) for n, t in module._parameters.items()},
                 "buffers": {n: self._add_tensor(t, _join(path, n)) for n, t in module._buffers.items()},
                 "not_persistent": sorted(module._non_persistent_buffers_set.intersection(module._buffers.keys())),
                 "children": children}
        if hooks:
            entry["hooks"], self.version = hooks, OWN_CODE
        self._nesting.add([i for i in children.values() if i is not None])
        self.modules.append(entry)
        self._module_index[id(module)] = len(self.modules) - 1
        return len(self.modules) - 1

    def _description(self, module: nn.Module, path: str) -> tuple[Any, dict[str, Any], list]:
        """Return what a file says of a module beside its parts: its class, its attributes and its hooks."""
        if self._is_own(module):
            self.version = OWN_CODE
            special = functools.partial(self._special, path)
            held = {n: encode(v, special) for n, v in own_attributes(module).items() if path or n != META}
            return {"own": full_name(module), "at": self._place(path)}, held, own_hooks(module)
        for name in [*module._modules, *module._parameters, *module._buffers]:
            if not usable_name(name, type(module)):
                raise ArchiveError(f"module {path!r} has a part named {name!r}, which an archive cannot hold; rename it")
        if id(module) not in self._layers:
            return *_of_part(module), encode_hooks(module, path)
        _refuse_layer(module, path)
        return allow.LAYERS.name_of(class_of(module)), self._attributes(module, path), encode_hooks(module, path)

    def _is_own(self, module: nn.Module) -> bool:
        """Tell a module with code of its own, or one inside such a module, where its own code finds it."""
        if id(module) in self._layers and not allow.LAYERS.name_of(class_of(module)):
            self._own |= _outside_graphs(module)
        return id(module) in self._own

    def _place(self, path: str) -> str | None:
        """Return where the model that grew has the module at a path, as the record of the numbers in it or around it says.

        None: it is new.
        """
        around = path
        while around:
            names = tensors_of(self._root.get_submodule(around))
            for name in names:
                entry = self.record.parameters.get(f"{around}.{name}")
                source = f"{around}.{name}" if entry is None else entry.source
                if source is not None and source.endswith(f".{name}"):
                    return source.removesuffix(f".{name}") + path[len(around):]
            if names:
                return None
            around = around.rpartition(".")[0]
        return path

    def _attributes(self, module: nn.Module, path: str) -> dict[str, Any]:
        skipped = OWN_OF_MODULE.union(REBUILT_OF_RNN if isinstance(module, nn.RNNBase) else (), () if path else (META,))
        entry = {}
        if missing_constant(module):
            raise ArchiveError(f"layer {path!r} ({type(module).__name__}) lacks its attribute {missing_constant(module)!r}")
        for name in sorted(vars(module).keys() - skipped):
            where = f"attribute {name!r} of {path!r} ({type(module).__name__})"
            if not usable_attribute(name, vars(module)[name], type(module)):
                raise ArchiveError(f"{where} replaces a method of its class; an archive holds no code, so remove it")
            try:
                entry[name] = encode(vars(module)[name], functools.partial(self._special, f"{path}.{name}"))
            except Unencodable as error:
                raise ArchiveError(f"{where} holds a {error}, which an archive cannot hold; make it a number, a string, "
                                   "a tensor or a container of these") from None
        return entry

    def _special(self, where: str, value: Any) -> dict | None:
        """Encode attributes beyond plain data: tensors, layers, enumerations, functions and classes of the allow-lists."""
        if isinstance(value, Tensor):
            return {"tensor": self._add_tensor(value, where)}
        if isinstance(value, nn.Module):
            self._layers.update(id(m) for m in value.modules())
            return {"module": self._add_module(value, where)}
        if isinstance(value, enum.Enum):
            if not allow.ENUMS.name_of(type(value)):
                raise Unencodable(value)
            return {"enum": [allow.ENUMS.name_of(type(value)), value.name]}
        special = functools.partial(self._special, where)
        if isinstance(value, functools.partial):
            return {"partial": [encode(v, special) for v in (value.func, list(value.args), value.keywords)]}
        return _allowed(value, special)

    def _add_tensor(self, tensor: Tensor | None, path: str) -> int | None:
        if tensor is None:
            return None
        if id(tensor) not in self._object_index:
            _refuse_tensor(tensor, path)
            kind, numbers = "parameter" if isinstance(tensor, nn.Parameter) else "tensor", tensor.detach()
            if tensor.dtype is torch.complex128 and not tensor.is_meta:  # which safetensors does not know
                kind, numbers, self.version = f"complex {kind}", torch.view_as_real(numbers.resolve_conj()), OWN_CODE
            self.objects.append({"data": self._add_data(numbers, path), "requires_grad": trains(tensor), "kind": kind})
            self._object_index[id(tensor)] = len(self.objects) - 1
            if isinstance(tensor, nn.Parameter) and tensor.numel() and tensor.device.type == "cpu":
                last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
                end = tensor.data_ptr() + (last + 1) * tensor.element_size()
                self._parameter_ranges.append((tensor.data_ptr(), end, path))
        return self._object_index[id(tensor)]

    def _add_data(self, tensor: Tensor, path: str) -> str:
        """Return the key of the tensor's data; the same memory seen the same way has one key."""
        view = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and view in self._memory and not tensor.is_meta:
            return self._memory[view]
        key = self.prefix + path
        while key in self.data or key in self.meta:  # an attribute may hold several tensors
            key += "'"
        self._memory[view] = key
        if tensor.is_meta:  # no numbers: sizes, strides and type
            self.meta[key] = {"size": list(tensor.shape), "strides": list(tensor.stride()), "dtype": encode(tensor.dtype)}
            return key
        self.data[key] = tensor
        usual = torch.empty(tensor.shape, device="meta").stride()  # the file has the numbers row by row
        if tensor.stride() != usual and is_dense(tuple(tensor.shape), tensor.stride()):
            self.strides[key] = list(tensor.stride())
        return key

    def _refuse_overlaps(self) -> None:
        """Refuse parameters that share part of their memory: they train together, and would not once read from a file."""
        ranges = sorted(self._parameter_ranges)
        for (start, end, name), (start_2, end_2, other) in zip(ranges, ranges[1:]):
            if start_2 < end and (start, end) != (start_2, end_2):
                raise ArchiveError(f"parameters {name!r} and {other!r} share part of their memory, which an archive "
                                   "cannot hold; clone one of them")


def _allowed(value: Any, special: Callable[[Any], dict | None]) -> dict | None:
    """Encode a class or function of the allow-lists, or an object of a plain class that comes with a model."""
    if isinstance(value, type) and issubclass(value, nn.Module) and allow.LAYERS.name_of(value):
        return {"class": allow.LAYERS.name_of(value)}
    if callable(value) and value is not getattr and allow.function_name(value):
        return {"function": allow.function_name(value)}
    name = allow.PLAIN.name_of(type(value))
    if not name or not all(usable_name(n, type(value)) for n in vars(value)):
        return None
    return {"plain": [name, {n: encode(v, special) for n, v in vars(value).items()}]}


def _of_part(module: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """Return class and attributes of a module behind a graph, as far as a file may hold what its shell asks for."""
    cls = getattr(type(module), "part_of", type(module))
    name = None if cls is nn.Module or missing_constant(module) else allow.LAYERS.name_of(cls)
    attributes: dict[str, Any] = {}
    for attribute, value in sorted(vars(module).items() if name else ()):
        if attribute not in OWN_OF_GRAPH and usable_attribute(attribute, value, type(module)):
            with contextlib.suppress(Unencodable):
                attributes[attribute] = encode(value, _without_parts)
    return name, attributes


def _without_parts(value: Any) -> dict | None:
    """Encode classes, functions and plain objects of the allow-lists, and nothing that holds tensors."""
    return _allowed(value, _without_parts)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse_layer(module: nn.Module, path: str) -> None:
    cls = class_of(module)
    if cls is not type(module) and isinstance(module, nn.RNNBase):
        names = ", ".join(module.parametrizations)  # type: ignore[union-attr, arg-type]
        raise ArchiveError(f"layer {path!r} has parametrizations ({names}), which an archive cannot hold in a recurrent "
                           "layer; call torch.nn.utils.parametrize.remove_parametrizations on it first")
    if issubclass(cls, nn.modules.lazy.LazyModuleMixin):
        raise ArchiveError(f"layer {path!r} ({cls.__name__}) has no weights yet; run the model once first")


def _refuse_tensor(tensor: Tensor, path: str) -> None:
    plain = type(tensor) in (Tensor, nn.Parameter)
    if not plain or tensor.layout is not torch.strided or tensor.is_quantized:
        reason = "is sparse or quantized" if plain else f"is a {type(tensor).__name__}"
        raise ArchiveError(f"tensor {path!r} {reason}, which an archive cannot hold; make it a plain dense tensor first")
