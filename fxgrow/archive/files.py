"""`save` and `load`: a captured or grown model in one file that holds data only, and other people's files read warily.

What a file may name is in `_archive_allow`, the container in `_archive_zip`, files of torch.save in `_archive_foreign`.
"""
from __future__ import annotations

import contextlib
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.archive import container, foreign
from fxgrow.archive.graph import decode_graph, encode_graph
from fxgrow.archive.modules import Encoder, find_module, graphs_of, usable_name
from fxgrow.archive.tree import Tree
from fxgrow.archive.values import Unencodable, decode, encode, fields
from fxgrow.aten import tree_leaves
from fxgrow.common import atomic_write, one_line
from fxgrow.errors import ArchiveError, CaptureError
from fxgrow.graph import as_tuple, hold, tensors_of, to_meta
from fxgrow.record import Grown, GrowthRecord, Outcome, record_in, untie
from fxgrow.tracing import capture, capture_parts, plain_attributes, put_back

RECORD, ORIGIN = "record/", "origin/{}/"
TREE = {"modules": list, "tensors": list, "strides": dict, "meta": dict}
_MAPS = {"index": torch.int64, "fresh": torch.bool, "shares": torch.float64}


def save(model_or_grown: nn.Module | Grown, path: str | os.PathLike, *, example_inputs: Any = None,
         extra: Any = None) -> None:
    """Writes a model, its growth record and its input shapes to one file, whole or not at all.

    A model is written as the graph that capture made of it. One that can only be captured in parts (a detector) is written
    as these graphs inside its outer modules, which must be torchvision's or timm's own.

    The same model gives the same bytes. Tied parameters, dtypes, memory layouts, `requires_grad` and the training flag of
    every module are kept; parameters are written from any device and load on the CPU.

    Args:
        model_or_grown: what `transform`, `capture` or `load` returned, or any module together with `example_inputs`.
        path: an existing file is replaced in one step.
        example_inputs: as for `capture`; needed only if the model is not captured yet.
        extra: anything made of numbers, strings, lists, tuples and dicts, found again in
            `load(path).meta["fxgrow"]["extra"]`. None keeps what a loaded model brought along.

    Raises:
        ArchiveError: the model holds something that cannot be written as data (it says where, and what to do), or the
            file cannot be written.
        CaptureError: the model cannot be captured.
    """
    model, inputs, record = _captured(model_or_grown, example_inputs)
    _check_record(record, model)
    encoder = Encoder(model)
    meta: dict = getattr(model, "meta", {})
    if extra is None:
        extra = meta.get("fxgrow", {}).get("extra")
    recorded = {RECORD + name: tensor.detach().cpu().contiguous().clone()  # maps may be shared between parameters
                for name, tensor in record.to_tensors().items()}
    if isinstance(model, GraphModule):
        nodes, parts = encode_graph(model), {}
    else:
        nodes = None
        parts = {path: {"class": _class_name(gm), "nodes": encode_graph(gm), "attributes": encode(plain_attributes(gm))}
                 for path, gm in encoder.graphs.items()}
    origin, held = _encode_origin(record)
    graph = {"class": _class_name(model), "nodes": nodes, "parts": parts, "inputs": _encode_inputs(inputs),
             "leaves": dict(meta.get("leaves", {})), "extra": _encoded("extra", extra), "record": _record_json(record),
             "origin": origin, **_encoded_tree(encoder)}
    data = _tensor_bytes({**encoder.data, **recorded, **held})
    with atomic_write(path) as file:
        container.write(file, graph, data)


def load(path: str | os.PathLike, *, trust_pickle: bool = False) -> nn.Module:
    """Reads a model; no code from the file ever runs.

    Returns:
        For an archive written by `save`, a model that computes bit by bit what the saved one did: a GraphModule, or the
        outer module with GraphModules in it. Its
        `meta["fxgrow"]` holds `input_shapes`, `input_dtypes`, `extra` and `record`; it can be grown further. For a module
        written by `torch.save`, that module, if it is made of layers of torch, torchvision and timm only.

    Args:
        path: the file.
        trust_pickle: unpickle a `torch.save` file without looking. This runs code from the file: only for files of people
            you trust.

    Raises:
        ArchiveError: the file is missing, damaged, of another kind, holds only weights, or asks for something that
            loading never does.
    """
    with _opened(path) as file:
        kind = foreign.kind_of(file)
        if kind == "fxgrow":
            return _build(*_read(file))
        return foreign.load_foreign(file, kind, trust_pickle)


def load_weights(path: str | os.PathLike) -> Any:
    """The state_dict in a file of any kind that `load` reads, or what else the file holds; no code from it ever runs.

    Raises:
        ArchiveError: as for `load`.
    """
    with _opened(path) as file:
        kind = foreign.kind_of(file)
        found = _build(*_read(file)) if kind == "fxgrow" else foreign.read_foreign(file, kind)
        return found.state_dict() if isinstance(found, nn.Module) else found


def check(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Finds out before the long work whether what grows out of a model can be written.

    Returns:
        the captured model, to be grown in its place; a model that can only be captured in parts, as it is.

    Raises:
        ArchiveError, CaptureError: as `save` would.
    """
    captured, _, _ = _captured(model, example_inputs)
    for gm in Encoder(captured).graphs.values():
        encode_graph(gm)
    return captured if isinstance(captured, GraphModule) else model


def _encode_origin(record: GrowthRecord) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """The structure of the small model, by path, and the few tensors in it that are not parameters or buffers."""
    described, data = {}, {}
    for number, (path, gm) in enumerate(sorted(record.origin.items())):
        encoder = Encoder(gm, ORIGIN.format(number))
        described[path] = {"class": _class_name(gm), "nodes": encode_graph(gm), "inputs": _encode_inputs(
            gm.meta["example_inputs"]), "leaves": dict(gm.meta.get("leaves", {})), **_encoded_tree(encoder)}
        data.update(encoder.data)
    return described, data


def _encoded_tree(encoder: Encoder) -> dict:
    return {"modules": encoder.modules, "tensors": encoder.objects, "strides": encoder.strides, "meta": encoder.meta}


def _encode_inputs(inputs: tuple) -> Any:
    return _encoded("an example input", to_meta(inputs), _shape)


def _captured(model_or_grown: nn.Module | Grown, example_inputs: Any) -> tuple[nn.Module, tuple, GrowthRecord]:
    """The captured model or the shell with its captured parts, its inputs, and its growth."""
    grown = model_or_grown if isinstance(model_or_grown, Grown) else None
    model: Any = model_or_grown if grown is None else grown.model
    if not isinstance(model, nn.Module):
        raise ArchiveError(f"a {type(model).__name__} is not a model; pass a module, or what fxgrow.transform returned")
    meta: dict = getattr(model, "meta", {})
    inputs = meta.get("example_inputs") or (grown.example_inputs if grown else None) or example_inputs
    if inputs is None:
        raise ArchiveError(f"{type(model).__name__} is not captured yet: pass example_inputs=, a tensor or tuple of "
                           "tensors as you would call the model with")
    if not graphs_of(model) or isinstance(model, GraphModule) and "example_inputs" not in meta:
        model = _captured_in_parts(model, as_tuple(inputs))
    record = grown.record if grown else record_in(model) or GrowthRecord()
    return untie(model), as_tuple(inputs), record


def _captured_in_parts(model: nn.Module, inputs: tuple) -> nn.Module:
    """The model as one graph, else its largest parts that can be captured inside its own outer modules."""
    try:
        return capture(model, inputs)
    except CaptureError as stop:
        try:
            return put_back(model, capture_parts(model, inputs))
        except Exception:
            raise stop from None


def _class_name(model: nn.Module) -> str:
    name = type(model).__name__
    return name if name.isidentifier() else "GraphModule"


def _encoded(what: str, value: Any, special=lambda value: None) -> Any:
    try:
        return encode(value, special)
    except (Unencodable, RecursionError) as error:
        raise ArchiveError(f"{what} holds a {one_line(error)}, which an archive cannot hold") from None


def _shape(value: Any) -> dict | None:
    """An example input: its shape and type, no numbers."""
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), encode(value.dtype)]}
    return None


def _record_json(record: GrowthRecord) -> Any:
    try:
        return json.loads(record.to_json())
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"the growth record holds something that is not data: {one_line(error)}") from error


def _check_record(record: GrowthRecord, model: nn.Module) -> None:
    """Every entry fits the parameter or buffer it is about, and the one of the small model that it names."""
    tensors = tensors_of(model)
    small = {name: t.shape for gm in record.origin.values() for name, t in tensors_of(gm).items()}
    for name in record.parameters.keys() & tensors.keys():
        entry = record.parameters[name]
        if entry.misfit(tensors[name].shape, small.get(str(entry.source))):
            raise ArchiveError(f"the growth record does not fit {name!r}")
        if record.origin and entry.source is not None and entry.source not in small:
            raise ArchiveError(f"the growth record has {name!r} from {entry.source[:80]!r}, which the small model has not")


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    try:
        return safetensors.torch.save(tensors)
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        odd = next((f" ({n!r} is {t.dtype})" for n, t in tensors.items() if str(t.dtype) in str(error)), "")
        raise ArchiveError(f"the tensors cannot be written{odd}: {one_line(error)}") from error


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """The file; only a regular one, since a pipe would block and a device never ends. All that goes wrong is told alike."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ArchiveError("it is a directory")
        if not stat.S_ISREG(mode):
            raise ArchiveError("it is not a regular file")
        with open(path, "rb") as file:
            yield file
    except ArchiveError as error:
        raise ArchiveError(f"cannot load {os.fspath(path)!r}: {' '.join(str(error).split())[:1000]}") from error
    except (Exception, RecursionError, MemoryError) as error:  # a damaged file can upset any reader in any way
        what = f"({type(error).__name__}: {one_line(error)[:200]})"  # it may quote the file
        reason = one_line(error) if isinstance(error, OSError) and error.strerror else f"it is damaged {what}"
        raise ArchiveError(f"cannot load {os.fspath(path)!r}: {reason}") from error


def _read(file: BinaryIO) -> tuple[dict, dict[str, Tensor]]:
    with zipfile.ZipFile(file) as archive:
        description, tensors = container.read(file, archive)
        return description, safetensors.torch.load(tensors)


def _build(description: dict, data: dict[str, Tensor]) -> nn.Module:
    _, _, class_name, nodes, parts, inputs, leaves, extra, recorded, origin, *described = fields(
        description, "graph.json", format=str, version=int, **{"class": str}, nodes=(list, type(None)), parts=dict,
        inputs=dict, leaves=dict, extra=object, record=dict, origin=dict, **TREE)
    record = _rebuild_record(recorded, _taken(data, RECORD))
    record.origin = _decode_origin(origin, data)
    tree = _tree(described, data)
    if nodes is None:
        model = _shell(tree, parts)
    elif parts:
        raise ArchiveError("a model is one graph or has parts, not both")
    else:
        model = _assemble(class_name, tree.part(""), nodes)
    _check_record(record, model)
    _describe(model, inputs, leaves, decode(extra), record)
    return model


def _decode_origin(described: dict, data: dict[str, Tensor]) -> dict[str, nn.Module]:
    """The small model's structure: as safe as the model itself, and without numbers."""
    if list(described) != sorted(described) or "" in described and len(described) > 1:
        raise ArchiveError("the small model is one graph or has parts, not both")
    found: dict[str, nn.Module] = {}
    for number, (path, entry) in enumerate(described.items()):
        name, nodes, inputs, leaves, *tree = fields(entry, "the small model", **{"class": str}, nodes=list, inputs=dict,
                                                    leaves=dict, **TREE)
        prefix = ORIGIN.format(number)
        held = {prefix + n: t for n, t in _taken(data, prefix).items()}
        found[path] = gm = _assemble(name, _tree(tree, held).part(""), nodes)
        if not all(t.is_meta for t in tensors_of(gm).values()) or path and not isinstance(
                find_module(gm, path), nn.Module):
            raise ArchiveError("the small model has numbers, or is not where its path says")
        gm.meta.update(_meta_of(inputs, leaves))
    return found


def _taken(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it, out of `data`."""
    return {n.removeprefix(prefix): data.pop(n) for n in list(data) if n.startswith(prefix)}


def _tree(described: list, data: dict[str, Tensor]) -> Tree:
    modules, objects, strides, meta = described
    return Tree(modules, objects, strides, data, meta)


def _shell(tree: Tree, parts: dict) -> nn.Module:
    """The outer module, each part in its places made a graph."""
    made: dict[int, nn.Module] = {}
    for path, entry in parts.items():
        name, nodes, encoded = fields(entry, f"part {path[:80]!r}", **{"class": str}, nodes=list, attributes=dict)
        part = tree.part(path)
        made[id(part.root)] = gm = _assemble(name, part, nodes)
        attributes = decode(encoded)
        if not isinstance(attributes, dict) or not all(usable_name(n, GraphModule) for n in attributes):
            raise ArchiveError(f"part {path[:80]!r} has attributes that may hold code")
        vars(gm).update(attributes)
    if not made or not tree.is_layer_module(tree.root):
        raise ArchiveError("the model has neither a graph nor parts")
    for module in list(tree.root.modules()):
        module._modules.update({n: made[id(m)] for n, m in module._modules.items() if id(m) in made})
    return tree.root


def _assemble(class_name: str, tree: Tree, nodes: list) -> GraphModule:
    """The GraphModule, its parts in the order they had (torch.fx alone would order them by use and drop the unused)."""
    if not class_name.isidentifier():
        raise ArchiveError("the model's class name is not a name")
    graph = decode_graph(nodes, tree)
    gm: Any = hold(GraphModule(nn.Module(), Graph(), class_name), tree.root)
    gm.training = tree.root.training
    try:
        with warnings.catch_warnings():  # the source that torch.fx compiles is not the user's
            warnings.simplefilter("ignore", SyntaxWarning)
            gm.graph = graph
        graph.lint()
    except Exception as error:
        raise ArchiveError(f"the graph is not a program: {one_line(error)}") from error
    return gm


def _describe(model: Any, inputs: Any, leaves: dict, extra: Any, record: GrowthRecord) -> None:
    told = _meta_of(inputs, leaves)
    flat = tree_leaves(told["example_inputs"])
    known = {"input_shapes": [tuple(getattr(t, "shape", ())) for t in flat],
             "input_dtypes": [getattr(t, "dtype", type(t)) for t in flat], "extra": extra, "record": record}
    if not isinstance(model, GraphModule):
        model.meta = {}
    model.meta.update(told, growth={"record": record, "outcomes": []}, fxgrow=known)


def _meta_of(inputs: Any, leaves: dict) -> dict:
    """What a captured model knows of itself."""
    example = decode(inputs, _meta_tensor)
    if not isinstance(example, tuple) or not all(isinstance(v, str) for v in leaves.values()):
        raise ArchiveError("the model's inputs are not described")
    return {"example_inputs": example, "leaves": leaves}


def _meta_tensor(kind: str, content: Any) -> Any:
    if kind != "tensor":
        return NotImplemented
    if not isinstance(content, list) or len(content) != 2:
        raise ArchiveError("an example input has a shape and a type")
    shape = decode({"size": content[0]})
    dtype = decode(content[1])
    if not isinstance(dtype, torch.dtype):
        raise ArchiveError("an example input has no type")
    try:
        return torch.empty(shape, dtype=dtype, device="meta")
    except RuntimeError as error:
        raise ArchiveError("an example input has an impossible shape") from error


def _rebuild_record(data: dict, tensors: dict[str, Tensor]) -> GrowthRecord:
    """The record, if it holds what a record holds and writing it again would give the same."""
    if any(t.dtype is not _MAPS.get(name.partition("/")[0]) for name, t in tensors.items()):
        raise ArchiveError("a map of the growth record does not hold positions, truth values or shares")
    try:
        data = {"certificate": [], **data}
        record = GrowthRecord.rebuild(json.dumps(data), tensors)
        same = json.loads(record.to_json()) == data and record.to_tensors().keys() == tensors.keys()
        [Outcome(**each) for each in record.certificate]
        typed = all(isinstance(step, dict) for step in record.lineage) and all(map(_is_text, record.removed)) and all(
            (p.source is None or _is_text(p.source)) and isinstance(p.scale, float) for p in record.parameters.values())
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ArchiveError("the growth record does not hold what it should") from error
    if not same or not typed:
        raise ArchiveError("the growth record does not fit its index maps")
    return record


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
