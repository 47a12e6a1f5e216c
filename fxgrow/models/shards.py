"""The numbers of folders a tensor at a time: read from safetensors, and written in shards with an index."""
import contextlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from fxgrow.common import Refusal
from fxgrow.models.configurations import changed
from fxgrow.models.conversion import Conversion
from fxgrow.models.folders import class_of, quietly, read_config, without_numbers

SHARD = "5GB"  # at most, of a file that is written
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Stored(NamedTuple):
    """Where a file has a tensor: from which byte to which, and as what."""
    file: Path
    start: int
    end: int
    dtype: str
    shape: tuple[int, ...]


class Shards:
    """The tensors of a model in a folder's safetensors, by the names that its class has for them.

    Raises:
        Refusal: there is none for one of the model's.
    """

    def __init__(self, folder: str | Path, model: nn.Module):
        self.files: dict[str, Path] = {}
        self.stored: dict[str, Stored] = {}
        for file in _files(Path(folder)):
            with safetensors.safe_open(file, "pt") as opened:
                self.files |= dict.fromkeys(opened.keys(), file)
            self.stored |= _stored(file)
        self.conversion = Conversion(model)
        self.sources = self.conversion.sources(self.files)
        lacks = [name for name in own_tensors(model) if name not in self.sources]
        if lacks:
            raise Refusal(f"the folder has no {lacks[0]} in safetensors")

    def as_stored(self, name: str) -> Stored | None:
        """Return where the file has a tensor as the model has it; None where it is made of others, or several."""
        (source, converter, _), *others = self.sources[name]
        return None if converter is not None or others else self.stored[source]

    def read(self, name: str) -> Tensor:
        """Return one tensor; files are open meanwhile alone, so that nothing else stays in memory."""
        return self.conversion.from_files(name, self.sources[name], self._read)

    def _read(self, name: str) -> Tensor:
        with safetensors.safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder's numbers as from_pretrained takes them: what else lies there may be of another model."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    try:
        names = sorted({Path(name).name for name in json.loads((folder / INDEX).read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [folder / name for name in names if (folder / name).is_file()]


def _stored(file: Path) -> dict[str, Stored]:
    """Return where in a file each tensor is."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        told = json.loads(opened.read(size))
    told.pop("__metadata__", None)
    spans = {name: [8 + size + at for at in t["data_offsets"]] for name, t in told.items()}
    return {name: Stored(file, start, end, told[name]["dtype"], tuple(told[name]["shape"]))
            for name, (start, end) in spans.items()}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a model's file holds, those of several names under the first."""
    kept = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in kept}


def structure(source: str, big: str | None, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the model in a folder and a bigger one, by its place and changes, both without numbers but for constants."""
    config = read_config(source)
    kind = class_of(config, spec=source)
    dtype = next((t for t in (getattr(config, "dtype", None),) if isinstance(t, torch.dtype)), torch.float32)
    small = without_numbers(kind, config, dtype)
    other = config if big is None else read_config(big)
    other = changed(other, changes) if changes else other
    large = without_numbers(class_of(other, small), other, dtype)
    return small.eval(), large.eval()


def write_numbers(place: Path, model: Any, made: Callable[[str], Tensor],
                  stored: Callable[[str], Stored | None] = lambda name: None) -> None:
    """Write a model's configuration, and its tensors, each as it is made, to shards with an index.

    place: a folder that is there. made: from a name, the numbers. stored: from a name, where a file has these very numbers.
    """
    hub = importlib.import_module("huggingface_hub.serialization")
    conversion = Conversion(model)
    tensors: dict[str, tuple[str, Tensor]] = {}  # of the files: by which name the class has it, and its shape
    for name, t in own_tensors(model).items():
        tensors |= {theirs: (name, shape) for theirs, shape in conversion.to_files(name, t.to("meta")).items()}
    parts: dict[str, Tensor] = {}  # of the tensor of the class that was made last, those that are not yet written

    def part(name: str) -> Tensor:
        if name not in parts:
            parts.update(conversion.to_files(tensors[name][0], made(tensors[name][0])))
        return parts.pop(name)

    split = hub.split_state_dict_into_shards_factory(
        tensors, get_storage_size=lambda t: t[1].numel() * t[1].element_size(), filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        _write(place / file, {name: tensors[name][1] for name in names}, part,
               (lambda name: None) if conversion.steps else stored)
    if split.is_sharded:
        total = sum(t.numel() * t.element_size() for _, t in tensors.values())
        (place / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename},
                                              indent=2, sort_keys=True))
    model.config.architectures = [type(model).__name__]
    with quietly():
        model.config.save_pretrained(place)
        if getattr(model, "generation_config", None) is not None and model.can_generate():
            model.generation_config.save_pretrained(place)


def _write(path: Path, tensors: Mapping[str, Tensor], made: Callable[[str], Tensor],
           stored: Callable[[str], Stored | None]) -> None:
    """Write a file of safetensors a tensor at a time; its own library wants all of them at once.

    The form: the length of the header in 8 bytes, the header as JSON, the numbers
    (https://huggingface.co/docs/safetensors/index#format).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, t in tensors.items():
        start, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name, t in tensors.items():
            there = stored(name)
            if there is None or (there.dtype, there.shape) != (NAMES[t.dtype], tuple(t.shape)) or not _sent(there, file):
                file.write(made(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _sent(there: Stored, file: BinaryIO) -> bool:
    """Let the system copy bytes from file to file, which takes a third of the time; False where it does not do so."""
    file.flush()
    at = there.start
    with there.file.open("rb") as source, contextlib.suppress(OSError, AttributeError):
        while at < there.end and (sent := os.sendfile(file.fileno(), source.fileno(), at, there.end - at)):
            at += sent
    if there.start < at < there.end:
        raise OSError(f"{there.file} could not be copied as a whole")
    return at == there.end
