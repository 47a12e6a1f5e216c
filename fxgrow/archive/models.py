"""Captured models as JSON and back: graphs over modules, inputs, and the growth record with the small model's structure.

What a file cannot hold, and whatever in a file is not as it would have been written, is refused with an ArchiveError.
"""
import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.archive.container import FIRST
from fxgrow.archive.graph import decode_graph, encode_graph
from fxgrow.archive.modules import Encoder
from fxgrow.archive.own import Donor, give
from fxgrow.archive.structure import usable_attribute
from fxgrow.archive.tree import TREE, Tree
from fxgrow.archive.values import Convert, Unencodable, decode, encode, fields
from fxgrow.common import one_line
from fxgrow.errors import ArchiveError
from fxgrow.graph import Captured, find_module, hold, rename, tensors_of, to_meta
from fxgrow.layers import CapturedModule
from fxgrow.record import GrowthRecord, Outcome
from fxgrow.tracing import of_class, plain_attributes, put_back

PART = {"class": str, "nodes": list, "attributes": dict}
SMALL_MODEL = {"class": str, "nodes": list, "inputs": dict, "leaves": dict, **TREE}
RECORD, ORIGIN = "record/", "origin/{}/"
Lend = Callable[[bool], Donor | None]  # what gives modules with code of their own, on meta tensors or not (None: containers)
MAP_DTYPES = {"index": torch.int64, "fresh": torch.bool, "shares": torch.float64}


def _class_name(model: nn.Module) -> str:
    """Return the name that a model's class gets in the file."""
    name = type(model).__name__
    return name if name.isidentifier() else "GraphModule"


def encode_model(model: nn.Module, encoder: Encoder) -> dict:
    """Return the class of a model, its graph if it is captured, and the graphs of its parts."""
    parts = {path: {"class": _class_name(gm), "nodes": encode_graph(gm), "attributes": encode(plain_attributes(gm))}
             for path, gm in encoder.graphs.items() if gm is not model}
    nodes = encode_graph(model) if isinstance(model, GraphModule) else None
    return {"class": _class_name(model), "nodes": nodes, "parts": parts}


def decode_model(description: dict, data: dict[str, Tensor], lend: Lend) -> nn.Module:
    """Return the model that an archive describes."""
    tree = Tree(description, data, lend(False))
    root = tree.root
    if description["nodes"] is not None:
        root = _assemble(description["class"], tree.part(""), description["nodes"])
    elif not description["parts"]:
        raise ArchiveError("the model has neither a graph nor parts")
    return _with_graphs(root, tree, description["parts"]) if description["parts"] else root


def _with_graphs(root: nn.Module, tree: Tree, parts: dict) -> nn.Module:
    """Return the outer module, each part in its places made a graph."""
    graphs: dict[int, nn.Module] = {}
    own: dict[str, tuple[GraphModule, dict]] = {}  # the parts inside modules with code of their own
    for path, entry in parts.items():
        name, nodes, attributes = fields(entry, f"part {path[:80]!r}", PART)
        part = tree.part(path)
        graphs[id(part.root)] = gm = _assemble(name, part, nodes)
        attributes = decode(attributes)
        if not isinstance(attributes, dict) or not all(
                usable_attribute(n, v, GraphModule) for n, v in attributes.items()):
            raise ArchiveError(f"part {path[:80]!r} has attributes that may hold code")
        Captured(gm).inputs = ()
        if find_module(root, path) is not part.root:
            own[path] = gm, attributes
            continue
        vars(gm).update({n: v for n, v in vars(part.root).items() if n not in vars(gm)} | attributes)
        if tree.is_layer(part.root):
            of_class(gm, type(part.root))
    for module in list(root.modules()):
        module._modules.update({n: graphs[id(m)] for n, m in module._modules.items() if id(m) in graphs})
    return _with_parts(root, own) if own else root


def _with_parts(model: nn.Module, parts: dict[str, tuple[GraphModule, dict]]) -> nn.Module:
    """Return a copy of a model of the user's own class with the parts in their places, and their numbers and modes."""
    modes = {f"{path}.{name}".rstrip("."): module.training for path, (gm, _) in parts.items()
             for name, module in gm.named_modules(remove_duplicate=False)}
    new = put_back(model, {path: _under(path, gm) for path, (gm, _) in parts.items()})
    for path, (_, attributes) in parts.items():
        give(new.get_submodule(path), attributes)
    for path, module in new.named_modules(remove_duplicate=False):
        module.training = modes.get(path, module.training)
    return new


def _under(path: str, gm: GraphModule) -> GraphModule:
    """Return a part as capture makes it: alone at its path, under the names that it has in the whole model."""
    whole: Any = CapturedModule(nn.Module(), Graph())
    *outer, last = path.split(".")
    place = whole
    for name in outer:
        place.add_module(name, nn.Module())
        place = place.get_submodule(name)
    place.add_module(last, hold(nn.Module(), gm))
    graph = Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    for node in graph.nodes:
        rename(node, lambda name: f"{path}.{name}" if name else path)
    whole._graph, graph.owning_module = graph, whole
    Captured(whole).inputs = Captured(gm).inputs
    return whole


def _assemble(name: str, tree: Tree, nodes: list) -> GraphModule:
    """Return the GraphModule, its parts in the order they had (torch.fx alone orders them by use and drops the unused)."""
    if not name.isidentifier():
        raise ArchiveError("the model's class name is not a name")
    graph = decode_graph(nodes, tree)
    gm: Any = hold(CapturedModule(nn.Module(), Graph(), name), tree.root)
    gm.training = tree.root.training
    try:
        with warnings.catch_warnings():  # the source that torch.fx compiles is not the user's
            warnings.simplefilter("ignore", SyntaxWarning)
            gm.graph = graph
        graph.lint()
    except Exception as error:
        raise ArchiveError(f"the graph is not a program: {one_line(error)}") from error
    return gm


def encode_facts(model: nn.Module, inputs: tuple | dict[str, Any]) -> dict:
    """Return the fields `inputs`, without their numbers, and `leaves` of a captured model."""
    return {"inputs": encoded("an example input", to_meta(inputs), _shape), "leaves": dict(Captured(model).leaves)}


def encoded(what: str, value: Any, special=lambda value: None) -> Any:
    """Return `encode(value, special)`, or raise an ArchiveError that calls the value `what`."""
    try:
        return encode(value, special)
    except (Unencodable, RecursionError) as error:
        raise ArchiveError(f"{what} holds a {one_line(error)}, which an archive cannot hold") from None


def _shape(value: Any) -> dict | None:
    return {"tensor": [list(value.shape), encode(value.dtype)]} if isinstance(value, Tensor) else None


def decode_facts(model: nn.Module, inputs: Any, leaves: dict) -> None:
    """Give a captured model its inputs, as meta tensors, and the layers that capture kept whole."""
    example = decode(inputs, {"tensor": _meta_tensor})
    by_name = isinstance(example, dict) and not isinstance(model, GraphModule)  # as a shell may take them
    if not (by_name or isinstance(example, tuple)) or not all(isinstance(v, str) for v in leaves.values()):
        raise ArchiveError("the model's inputs are not described")
    captured = Captured(model)
    captured.inputs, captured.leaves = example, leaves


def _meta_tensor(content: Any, inner: Convert) -> Tensor:
    size, kind = content
    dtype = inner(kind)
    if not isinstance(dtype, torch.dtype):
        raise ArchiveError("an example input has no type")
    return torch.empty(inner({"size": size}), dtype=dtype, device="meta")


def encode_record(record: GrowthRecord) -> tuple[dict, dict[str, Tensor], int]:
    """Return the fields `record` and `origin` of an archive, the tensors that go with them, and the version it takes."""
    try:
        described = json.loads(record.to_json())
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"the growth record holds something that is not data: {one_line(error)}") from error
    data = {RECORD + name: tensor for name, tensor in record.to_tensors().items()}
    origin, version = {}, FIRST
    for number, (path, gm) in enumerate(sorted(record.origin.items())):
        encoder = Encoder(gm, ORIGIN.format(number))
        origin[path] = {"class": _class_name(gm), "nodes": encode_graph(gm), **encode_facts(gm, Captured(gm).inputs),
                        **encoder.tree()}
        data.update(encoder.data)  # the few tensors that are not parameters or buffers
        version = max(version, encoder.version)
    return {"record": described, "origin": origin}, data, version


def decode_record(description: dict, data: dict[str, Tensor], lend: Lend) -> GrowthRecord:
    """Return the record of an archive; its tensors are taken out of `data`."""
    described, tensors = {"certificate": [], **description["record"]}, _take(data, RECORD)
    if any(t.dtype is not MAP_DTYPES.get(name.partition("/")[0]) for name, t in tensors.items()):
        raise ArchiveError("a map of the growth record does not hold positions, truth values or shares")
    try:
        record = GrowthRecord.rebuild(json.dumps(described), tensors)
        same = json.loads(record.to_json()) == described and record.to_tensors().keys() == tensors.keys()
        for outcome in record.certificate:
            Outcome(**outcome)
        typed = _is_typed(record)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ArchiveError("the growth record does not hold what it should") from error
    if not same or not typed:
        raise ArchiveError("the growth record does not fit its index maps")
    record.origin = _decode_origin(description["origin"], data, lend)
    return record


def _is_typed(record: GrowthRecord) -> bool:
    entries = record.parameters.values()
    return (all(isinstance(step, dict) for step in record.lineage) and all(isinstance(name, str) for name in record.removed)
            and all(isinstance(p.source, (str, type(None))) and isinstance(p.scale, float) and isinstance(p.shift, float)
                    for p in entries)
            and all(isinstance(size, int) for shape in record.outside.values() for size in shape))


def _decode_origin(described: dict, data: dict[str, Tensor], lend: Lend) -> dict[str, nn.Module]:
    """Return the small model's structure: as safe as the model itself, and without numbers."""
    if list(described) != sorted(described) or ("" in described and len(described) > 1):
        raise ArchiveError("the small model is one graph or has parts, not both")
    origin: dict[str, nn.Module] = {}
    for number, (path, entry) in enumerate(described.items()):
        name, nodes, inputs, leaves, *_ = fields(entry, "the small model", SMALL_MODEL)
        prefix = ORIGIN.format(number)
        tensors = {prefix + n: t for n, t in _take(data, prefix).items()}
        origin[path] = gm = _assemble(name, Tree(entry, tensors, lend(True)).part(""), nodes)
        has_numbers = not all(t.is_meta for t in tensors_of(gm).values())
        if has_numbers or (path and not isinstance(find_module(gm, path), nn.Module)):
            raise ArchiveError("the small model has numbers, or is not where its path says")
        decode_facts(gm, inputs, leaves)
    return origin


def _take(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors below a prefix out of `data`; return them without it."""
    return {n.removeprefix(prefix): data.pop(n) for n in list(data) if n.startswith(prefix)}


def check_record(record: GrowthRecord, model: nn.Module) -> None:
    """Check that each entry fits the parameter or buffer it is about, and the one of the small model that it names."""
    tensors: dict[str, Any] = tensors_of(model)
    small = {name: t.shape for name, t in record.small().items()}
    for name in record.parameters.keys() & tensors.keys():
        entry = record.parameters[name]
        if not entry.fits(tensors[name].shape, small.get(str(entry.source))):
            raise ArchiveError(f"the growth record does not fit {name!r}")
        if record.origin and entry.source is not None and entry.source not in small:
            raise ArchiveError(f"the growth record has {name!r} from {entry.source[:80]!r}, which the small model has not")
