"""Growth records in an archive, and the structure of the small model that a record keeps.

What a file cannot hold, and a record that does not fit its model, is refused with an ArchiveError.
"""
from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.archive.graph import encode_graph
from fxgrow.archive.models import assemble, class_name, decode_facts, decode_tree, encode_inputs
from fxgrow.archive.modules import Encoder
from fxgrow.archive.structure import find_module
from fxgrow.archive.values import fields
from fxgrow.common import one_line
from fxgrow.errors import ArchiveError
from fxgrow.graph import Captured, tensors_of
from fxgrow.record import GrowthRecord, Outcome

RECORD, ORIGIN = "record/", "origin/{}/"
TREE = {"modules": list, "tensors": list, "strides": dict, "meta": dict}
SMALL_MODEL = {"class": str, "nodes": list, "inputs": dict, "leaves": dict, **TREE}
MAP_DTYPES = {"index": torch.int64, "fresh": torch.bool, "shares": torch.float64}


def encode_record(record: GrowthRecord) -> tuple[dict, dict[str, Tensor]]:
    """Return the JSON fields `record` and `origin` of an archive, and the tensors that go with them."""
    try:
        described = json.loads(record.to_json())
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"the growth record holds something that is not data: {one_line(error)}") from error
    data = {RECORD + name: tensor.detach().cpu().contiguous().clone()  # maps may be shared between parameters
            for name, tensor in record.to_tensors().items()}
    origin = {}
    for number, (path, gm) in enumerate(sorted(record.origin.items())):
        encoder = Encoder(gm, ORIGIN.format(number))
        origin[path] = {"class": class_name(gm), "nodes": encode_graph(gm),
                        "inputs": encode_inputs(Captured(gm).inputs), "leaves": dict(Captured(gm).leaves),
                        **encoder.tree()}
        data.update(encoder.data)  # the few tensors that are not parameters or buffers
    return {"record": described, "origin": origin}, data


def decode_record(description: dict, data: dict[str, Tensor]) -> GrowthRecord:
    """Return the record of an archive; its tensors are taken out of `data`."""
    record = _decode_maps({"certificate": [], **description["record"]}, _take(data, RECORD))
    record.origin = _decode_origin(description["origin"], data)
    return record


def _decode_maps(data: dict, tensors: dict[str, Tensor]) -> GrowthRecord:
    if any(t.dtype is not MAP_DTYPES.get(name.partition("/")[0]) for name, t in tensors.items()):
        raise ArchiveError("a map of the growth record does not hold positions, truth values or shares")
    try:
        record = GrowthRecord.rebuild(json.dumps(data), tensors)
        same = json.loads(record.to_json()) == data and record.to_tensors().keys() == tensors.keys()
        for outcome in record.certificate:
            Outcome(**outcome)
        typed = _is_typed(record)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ArchiveError("the growth record does not hold what it should") from error
    if not same or not typed:
        raise ArchiveError("the growth record does not fit its index maps")
    return record


def _is_typed(record: GrowthRecord) -> bool:
    entries = record.parameters.values()
    return (all(isinstance(step, dict) for step in record.lineage) and all(isinstance(name, str) for name in record.removed)
            and all(isinstance(p.source, (str, type(None))) and isinstance(p.scale, float) for p in entries))


def _decode_origin(described: dict, data: dict[str, Tensor]) -> dict[str, nn.Module]:
    """Return the small model's structure: as safe as the model itself, and without numbers."""
    if list(described) != sorted(described) or ("" in described and len(described) > 1):
        raise ArchiveError("the small model is one graph or has parts, not both")
    origin: dict[str, nn.Module] = {}
    for number, (path, entry) in enumerate(described.items()):
        name, nodes, inputs, leaves, *_ = fields(entry, "the small model", SMALL_MODEL)
        prefix = ORIGIN.format(number)
        tensors = {prefix + n: t for n, t in _take(data, prefix).items()}
        origin[path] = gm = assemble(name, decode_tree(entry, tensors).part(""), nodes)
        has_numbers = not all(t.is_meta for t in tensors_of(gm).values())
        if has_numbers or (path and not isinstance(find_module(gm, path), nn.Module)):
            raise ArchiveError("the small model has numbers, or is not where its path says")
        Captured(gm).inputs, Captured(gm).leaves = decode_facts(inputs, leaves)
    return origin


def _take(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors below a prefix out of `data`; return them without it."""
    return {n.removeprefix(prefix): data.pop(n) for n in list(data) if n.startswith(prefix)}


def check_record(record: GrowthRecord, model: nn.Module) -> None:
    """Check that each entry fits the parameter or buffer it is about, and the one of the small model that it names."""
    tensors: dict[str, Any] = tensors_of(model)
    small = {name: t.shape for gm in record.origin.values() for name, t in tensors_of(gm).items()}
    for name in record.parameters.keys() & tensors.keys():
        entry = record.parameters[name]
        if not entry.fits(tensors[name].shape, small.get(str(entry.source))):
            raise ArchiveError(f"the growth record does not fit {name!r}")
        if record.origin and entry.source is not None and entry.source not in small:
            raise ArchiveError(f"the growth record has {name!r} from {entry.source[:80]!r}, which the small model has not")
