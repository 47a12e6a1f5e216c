"""The module tree out of JSON and tensors, the inverse of modules.py.

No constructor runs, and whatever is not as `Encoder` would have written it is refused.
"""
import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from fxgrow.archive import allow
from fxgrow.archive.hooks import decode_hooks
from fxgrow.archive.own import OWN, Donor, give, insist_fits, own_hooks
from fxgrow.archive.structure import Nesting, is_dense, missing_constant, usable_attribute, usable_name
from fxgrow.archive.values import Convert, Decoder, decode, fields
from fxgrow.errors import ArchiveError

TREE = {"modules": list, "tensors": list, "strides": dict, "meta": dict}
MODULE = {"class": (str, dict, type(None)), "training": bool, "attributes": dict, "parameters": dict, "buffers": dict,
          "not_persistent": list, "children": dict}


class Tree:
    """Modules and tensors of an archive, built; `root` is the whole model without its graph."""

    def __init__(self, description: dict, data: dict[str, Tensor], donor: Donor | None):
        """Build from what `Encoder.tree` gave, of the types in TREE, or raise ArchiveError; empty `data` of its tensors.

        donor: gives the modules with code of their own; None: containers stand for them.
        """
        modules, objects, strides, meta = (description[part] for part in TREE)
        if not modules:
            raise ArchiveError("the model has no modules")
        self._data = {**_laid_out(data, strides), **_without_data(meta)}
        self.tensors = self._make_tensors(objects)
        self.modules: list[nn.Module] = []
        self._tensors_only: dict[str, Decoder] = {"tensor": lambda index, inner: self._tensor(index)}
        self._layers: set[int] = set()
        self._nesting = Nesting()
        self._used: set[int] = set()
        self._entries, self.donor = modules, donor
        self._places = {} if donor is None else self._lent(donor)
        for index, entry in enumerate(modules):
            self._add_module(index, entry)
        if len(self._used) != len(modules) - 1:
            raise ArchiveError("the model has modules that are not part of it")
        self.root = self.modules[-1]

    def part(self, path: str) -> "Tree":
        """Return the tree below a path, which will become a captured graph; refuse a module with code of its own."""
        root = self._at(path)
        if root is None or (self.is_layer(root) and not (path and root._modules)) or not all(
                usable_name(n, GraphModule) for n in [*root._modules, *root._parameters, *root._buffers]):
            raise ArchiveError(f"{path or 'the model itself'!r} is not a plain container")
        below = copy.copy(self)
        below.root = root
        return below

    def _at(self, path: str) -> nn.Module | None:
        """Return the module that was built for a path; where the user's own module stands in its place, not that."""
        index: Any = len(self._entries) - 1
        for name in path.split(".") if path else ():
            index = None if index is None else self._entries[index]["children"].get(name)
        return None if index is None else self.modules[index]

    def _lent(self, donor: Donor) -> dict[int, nn.Module]:
        """Return the modules with code of their own by their number: what is inside one is what its instance has there."""
        lent: dict[int, nn.Module] = {}
        for index in range(len(self._entries) - 1, -1, -1):  # from the root inwards
            of, children = self._entries[index].get("class"), self._entries[index].get("children")
            if not isinstance(of, dict) or not isinstance(children, dict):
                continue
            if index not in lent:
                lent[index] = donor.module(*fields(of, "a class", OWN))
            for name, child in children.items():
                inner = dict(lent[index]._modules.items()).get(name)
                if type(child) is int and 0 <= child < index and inner is not None \
                        and isinstance(self._entries[child].get("class"), dict):
                    lent.setdefault(child, inner)
        return lent

    def is_layer(self, module: nn.Module | None) -> bool:
        """Tell whether a module of the tree has a class of its own, other than a plain container."""
        return id(module) in self._layers

    def _make_tensors(self, objects: list) -> list[Tensor]:
        tensors: list[Tensor] = []
        for entry in objects:
            key, requires_grad, kind = fields(entry, "a tensor", {"data": str, "requires_grad": bool, "kind": str})
            is_complex, kind = kind.startswith("complex "), kind.removeprefix("complex ")
            if key not in self._data or kind not in ("parameter", "tensor"):
                raise ArchiveError(f"tensor {key[:80]!r} is not in the file")
            data = self._data[key].detach()  # a view for each object: the memory stays shared
            try:
                data = torch.view_as_complex(data) if is_complex else data
                data.requires_grad_(requires_grad)
            except RuntimeError as error:
                raise ArchiveError(f"tensor {key!r} holds no complex numbers, or none with a gradient") from error
            tensors.append(nn.Parameter(data, requires_grad) if kind == "parameter" else data)
        if {entry["data"] for entry in objects} != self._data.keys():
            raise ArchiveError("the file holds tensors that are not part of the model")
        return tensors

    def _add_module(self, index: int, entry: Any) -> None:
        hooked = {"hooks": list} if isinstance(entry, dict) and "hooks" in entry else {}
        name, training, attributes, parameters, buffers, hidden, children, *hooks = fields(
            entry, "a module", {**MODULE, **hooked})
        if isinstance(name, dict) and index in self._places:
            self._add_own(self._places[index], entry, *hooks)
            return
        is_layer = name is not None
        if isinstance(name, dict):  # a container in its place
            name, attributes, hooks = None, {}, []
        cls = nn.Module if name is None else allow.LAYERS.find(name)
        parts = [*parameters, *buffers, *children]
        if len({*attributes, *parts}) != len(attributes) + len(parts) or not all(usable_name(n, cls) for n in parts):
            raise ArchiveError(f"a module ({name or 'container'}) has parts whose names cannot be used")
        if (name is None and attributes) or not all(isinstance(n, str) and n in buffers for n in hidden):
            raise ArchiveError(f"a module ({name or 'container'}) does not fit its description")
        decoders = {"module": lambda index, inner: self._child(index), **self._tensors_only, **DECODERS}
        module: nn.Module = object.__new__(cls)
        nn.Module.__init__(module)
        module.training = training
        module._modules.update({n: None if i is None else self._child(i) for n, i in children.items()})
        self._add_tensors(module, parameters, buffers, hidden)
        own = {n: decode(v, decoders) for n, v in attributes.items()}
        if not all(usable_attribute(n, v, cls) for n, v in own.items()):
            raise ArchiveError(f"a module ({name}) has attributes that may hold code")
        module.__dict__.update(own)
        decode_hooks(module, *hooks)
        self._check(module, children)
        self.modules.append(module)
        if is_layer:
            self._layers.add(id(module))

    def _add_tensors(self, module: nn.Module, parameters: dict, buffers: dict, hidden: list) -> None:
        module._parameters = {n: None if i is None else self._tensor(i, nn.Parameter) for n, i in parameters.items()}
        module._buffers = {n: None if i is None else self._tensor(i) for n, i in buffers.items()}
        module._non_persistent_buffers_set = set(hidden)

    def _add_own(self, module: nn.Module, entry: dict, hooks: Any = ()) -> None:
        """Give a module of the instance what the file holds of it: its mode, its tensors and its numbers."""
        _, training, attributes, parameters, buffers, hidden, children = (entry[name] for name in MODULE)
        for kind, names, held in (("parameter", parameters, module._parameters.keys()),
                                  ("buffer", buffers, module._buffers.keys()),
                                  ("part", children, module._modules.keys()), ("hook", hooks, own_hooks(module))):
            insist_fits(module, kind, names, held)
        for index in children.values():
            if index is not None:
                self._child(index)
        module.training = training
        if isinstance(module, torch.jit.ScriptModule):
            for name, index in {**parameters, **buffers}.items():
                getattr(module, name).data = self._tensor(index)  # it gives out its own tensors, and takes no others
        else:
            self._add_tensors(module, parameters, buffers, hidden)
        give(module, {n: decode(v, self._tensors_only) for n, v in attributes.items()})
        if isinstance(module, nn.RNNBase):
            _tie_flat_weights(module)
        self._nesting.add([i for i in children.values() if i is not None])
        self.modules.append(module)
        self._layers.add(id(module))

    def _check(self, module: nn.Module, children: dict) -> None:
        self._nesting.add([i for i in children.values() if i is not None])
        if missing_constant(module):
            raise ArchiveError(f"a layer of class {type(module).__name__} lacks its attribute {missing_constant(module)!r}")
        if isinstance(module, nn.RNNBase):
            _tie_flat_weights(module)
        if module._modules.get("parametrizations") is not None and type(module) is not nn.Module:
            _parametrize(module)

    def _child(self, index: Any) -> nn.Module:
        if type(index) is not int or not 0 <= index < len(self.modules):
            raise ArchiveError("a module has a part that does not come before it")
        self._used.add(index)
        return self.modules[index]

    def _tensor(self, index: Any, kind: type = Tensor) -> Any:
        if type(index) is not int or not 0 <= index < len(self.tensors) or not isinstance(self.tensors[index], kind):
            raise ArchiveError("a module has a parameter or buffer that is not one")
        return self.tensors[index]


def _decode_function(name: Any, inner: Convert) -> Callable:
    if name == "builtins.getattr":  # allowed only where its argument is checked
        raise ArchiveError("an attribute may not hold getattr")
    return allow.find_function(name)


def _decode_enum(content: Any, inner: Convert) -> Any:
    name, member = content
    return allow.ENUMS.find(name).__members__.get(member)


def _decode_plain(content: Any, inner: Convert) -> Any:
    name, attributes = content
    cls = allow.PLAIN.find(name)
    if not all(usable_name(n, cls) for n in attributes):
        raise ArchiveError(f"an object of class {cls.__name__} has attributes that may hold code")
    plain: Any = object.__new__(cls)
    vars(plain).update({n: inner(v) for n, v in attributes.items()})
    return plain


def _decode_partial(content: Any, inner: Convert) -> functools.partial:
    function, args, kwargs = (inner(v) for v in content)
    if not isinstance(args, list):
        raise TypeError("a list of arguments is needed")
    return functools.partial(function, *args, **kwargs)


DECODERS: dict[str, Decoder] = {
    "function": _decode_function, "class": lambda name, inner: allow.LAYERS.find(name), "enum": _decode_enum,
    "plain": _decode_plain, "partial": _decode_partial}


def _laid_out(data: dict[str, Tensor], strides: dict) -> dict[str, Tensor]:
    """Give the tensors the layout that they had (a channels-last weight runs other kernels)."""
    if not strides.keys() <= data.keys():
        raise ArchiveError("the layouts do not fit the tensors")
    result = {}
    for key in list(data):
        tensor = data.pop(key)  # one at a time: the whole model is not held twice
        shape, stride = tuple(tensor.shape), strides.get(key)
        if stride is not None and not (isinstance(stride, list) and len(stride) == len(shape) and is_dense(shape, stride)
                                       and all(type(s) is int and 0 <= s < 2 ** 48 for s in stride)):
            raise ArchiveError(f"the layout of {key!r} does not fit its shape")
        result[key] = tensor if stride is None \
            else torch.empty_strided(shape, stride, dtype=tensor.dtype).copy_(tensor)
    return result


def _without_data(meta: dict) -> dict[str, Tensor]:
    """Make the tensors on the meta device, which have no numbers."""
    made = {}
    for key, entry in meta.items():
        size, strides, kind = fields(entry, f"tensor {key[:80]!r}", {"size": list, "strides": list, "dtype": dict})
        try:
            shape, stride, dtype = decode({"size": size}), decode({"size": strides}), decode(kind)
            made[key] = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        except (TypeError, RuntimeError) as error:
            raise ArchiveError(f"tensor {key[:80]!r} has an impossible shape or type") from error
    return made


def _parametrize(module: nn.Module) -> None:
    """Give a layer the properties that compute its weights (weight_norm, spectral_norm), as torch does."""
    held = module._modules["parametrizations"]
    if not isinstance(held, nn.ModuleDict) or not held._modules or isinstance(module, nn.RNNBase) or not all(
            isinstance(p, parametrize.ParametrizationList) and allow.IDENTIFIER.fullmatch(name)
            and name not in module._parameters and usable_name(name, type(module)) for name, p in held._modules.items()):
        raise ArchiveError(f"a layer of class {type(module).__name__} has parametrizations that are none")
    parametrize._inject_new_class(module)
    for name in held._modules:
        parametrize._inject_property(module, name)


def _tie_flat_weights(module: nn.RNNBase) -> None:
    """Restore the list of its own parameters that an RNN keeps beside them."""
    names = module.__dict__.get("_flat_weights_names")
    if not isinstance(names, list) or not all(isinstance(n, str) and n in module._parameters for n in names):
        raise ArchiveError(f"a layer of class {type(module).__name__} lacks some of its weights")
    module.__dict__["_flat_weights"] = weights = [module._parameters[n] for n in names]
    module.__dict__["_flat_weight_refs"] = [None if w is None else weakref.ref(w) for w in weights]
