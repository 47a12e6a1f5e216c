"""`save` and `load`: a captured or grown model in one file that holds data only, and other people's files read warily."""
import contextlib
import functools
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn
from torch.fx import GraphModule

from fxgrow.archive import container, foreign, models
from fxgrow.archive.graph import encode_graph
from fxgrow.archive.modules import Encoder, graphs_of
from fxgrow.archive.numbers import Numbers
from fxgrow.archive.own import Donor
from fxgrow.archive.tree import TREE
from fxgrow.archive.values import decode, fields
from fxgrow.aten import tree_leaves
from fxgrow.common import atomic_write, one_line
from fxgrow.errors import ArchiveError, CaptureError
from fxgrow.graph import Captured, as_call, shards_in
from fxgrow.record import Grown, GrowthRecord, record_in, untie
from fxgrow.tracing import capture, with_parts

DESCRIPTION = {"format": str, "version": int, "class": str, "nodes": (list, type(None)), "parts": dict, "inputs": dict,
               "leaves": dict, "extra": object, "record": dict, "origin": dict, **TREE}


def save(model_or_grown: nn.Module | Grown, path: str | os.PathLike, *, example_inputs: Any = None,
         extra: Any = None) -> None:
    """Write a model, its growth record and its input shapes to one file, whole or not at all.

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
    models.check_record(record, model)
    encoder = Encoder(model, record=record)
    meta: dict = getattr(model, "meta", {})
    if extra is None:
        extra = meta.get("fxgrow", {}).get("extra")
    described, maps, version = models.encode_record(record)
    graph = {"version": max(version, encoder.version), **models.encode_model(model, encoder),
             **models.encode_facts(model, inputs), "extra": models.encoded("extra", extra), **described, **encoder.tree()}
    numbers = Numbers({**encoder.data, **maps})
    with atomic_write(path) as file:
        container.write(file, graph, numbers)


def load(path: str | os.PathLike, *, into: nn.Module | None = None, trust_pickle: bool = False) -> nn.Module:
    """Read a model; no code from the file ever runs.

    Returns:
        For an archive written by `save`, a model that computes bit by bit what the saved one did: a GraphModule, or the
        outer module with GraphModules in it. Its `meta["fxgrow"]` holds `input_shapes`, `input_dtypes`, `extra` and
        `record`; it can be grown further. For a module written by `torch.save`, that module, if it is made of layers of
        torch, torchvision and timm only.

    Args:
        path: the file.
        into: an instance of the class that was saved, fresh or not, for a file of a model that has code of its own: layers
            that could not be recorded, or an outer module that could not. A copy of it gets the file's sizes and numbers;
            it is left as it is. What else it holds (words, functions, objects) should be as it was in the saved one.
        trust_pickle: unpickle a `torch.save` file without looking. This runs code from the file: only for files of people
            you trust.

    Raises:
        ArchiveError: the file is missing, damaged, of another kind, holds only weights, or asks for something that
            loading never does.
    """
    with _opened(path) as file:
        kind = foreign.kind_of(file)
        if kind == "fxgrow":
            return _read(file, functools.partial(Donor, into))
        return foreign.load_foreign(file, kind, trust_pickle)


def load_weights(path: str | os.PathLike) -> Any:
    """Return the state_dict in a file of any kind that `load` reads, or whatever it holds; no code from it ever runs."""
    with _opened(path) as file:
        kind = foreign.kind_of(file)
        content = _read(file, lambda on_meta: None) if kind == "fxgrow" else foreign.read_foreign(file, kind)
        return content.state_dict() if isinstance(content, nn.Module) else content


def check(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return the captured model, or the model if it is captured in parts, once it is sure that `save` can write it."""
    captured, _, _ = _captured(model, example_inputs)
    for gm in Encoder(captured).graphs.values():
        encode_graph(gm)
    return captured if isinstance(captured, GraphModule) else model


def _captured(model_or_grown: nn.Module | Grown, example_inputs: Any) -> tuple[nn.Module, tuple | dict, GrowthRecord]:
    """Return the captured model or the shell with its captured parts, its inputs, and its growth."""
    grown = model_or_grown if isinstance(model_or_grown, Grown) else None
    model: Any = model_or_grown if grown is None else grown.model
    if not isinstance(model, nn.Module):
        raise ArchiveError(f"a {type(model).__name__} is not a model; pass a module, or what fxgrow.transform returned")
    if sharded := shards_in(model):
        raise ArchiveError(sharded)
    inputs = Captured(model).inputs or (grown.example_inputs if grown else None) or example_inputs
    if inputs is None:
        raise ArchiveError(f"{type(model).__name__} is not captured yet: pass example_inputs=, a tensor, a tuple or a "
                           "dict, as you would call the model with")
    args, kwargs = as_call(inputs)
    if not graphs_of(model):
        model = _captured_in_parts(model, args or kwargs)
    record = record_in(grown or model) or GrowthRecord()
    return untie(model), Captured(model).inputs or args or kwargs, record


def _captured_in_parts(model: nn.Module, inputs: tuple | dict) -> nn.Module:
    """Capture the model as one graph, else its largest parts that can be captured inside its own outer modules."""
    try:
        return capture(model, inputs)
    except CaptureError as stop:
        return with_parts(model, inputs, lambda path, part: part, stop, {})[0]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a regular file, since a pipe would block and a device never ends. All that goes wrong is told alike."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ArchiveError("it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file")
        with Path(path).open("rb") as file:
            yield file
    except ArchiveError as error:
        raise ArchiveError(f"cannot load {os.fspath(path)!r}: {' '.join(str(error).split())[:1000]}") from error
    except (Exception, RecursionError, MemoryError) as error:  # a damaged file can upset any reader in any way
        what = f"({type(error).__name__}: {one_line(error)[:200]})"  # it may quote the file
        reason = one_line(error) if isinstance(error, OSError) and error.strerror else f"it is damaged {what}"
        raise ArchiveError(f"cannot load {os.fspath(path)!r}: {reason}") from error


def _read(file: BinaryIO, lend: models.Lend) -> nn.Module:
    with zipfile.ZipFile(file) as archive:
        description, data = container.read(file, archive)
    fields(description, "graph.json", DESCRIPTION)
    record = models.decode_record(description, data, lend)
    model: Any = models.decode_model(description, data, lend)
    models.check_record(record, model)
    extra = decode(description["extra"])
    if not isinstance(model, GraphModule):
        model.meta = {}
    models.decode_facts(model, description["inputs"], description["leaves"])
    Captured(model).keep_growth(record, [])
    tensors = tree_leaves(Captured(model).inputs)
    model.meta["fxgrow"] = {"input_shapes": [tuple(getattr(t, "shape", ())) for t in tensors],
                            "input_dtypes": [getattr(t, "dtype", type(t)) for t in tensors],
                            "extra": extra, "record": record}
    return model
