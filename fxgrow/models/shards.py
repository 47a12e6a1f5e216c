"""The numbers of folders a tensor at a time: read from safetensors, and written in shards with an index."""
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from fxgrow.common import Refusal
from fxgrow.models.configurations import changed
from fxgrow.models.folders import class_of, quietly, read_config

SHARD = "5GB"  # at most, of a file that is written
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
INDEX = "model.safetensors.index.json"


class Shards:
    """The tensors in a folder's safetensors, by name."""

    def __init__(self, folder: str | Path):
        self.files: dict[str, Path] = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            with safetensors.safe_open(file, "pt") as opened:
                self.files |= dict.fromkeys(opened.keys(), file)

    def read(self, name: str) -> Tensor:
        """Return one tensor; its file is open meanwhile alone, so that nothing else stays in memory."""
        with safetensors.safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name)

    def insist_on(self, model: nn.Module) -> None:
        """Refuse a folder that has not each tensor of a model under the name that it has there."""
        lacks = [name for name in own_tensors(model) if name not in self.files]
        if lacks:
            raise Refusal(f"the folder has no {lacks[0]} in safetensors")


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a model's file holds, those of several names under the first."""
    kept = model.state_dict().keys()
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if name in kept}


def structure(source: str, big: str | None, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the model in a folder and a bigger one, by its place and changes, both without numbers but for constants.

    Raises:
        Refusal: their class renames tensors when it is saved.
    """
    config = read_config(source)
    kind = class_of(config, spec=source)
    dtype = next((t for t in (getattr(config, "dtype", None),) if isinstance(t, torch.dtype)), torch.float32)
    small = without_numbers(kind, config, dtype)
    other = config if big is None else read_config(big)
    other = changed(other, changes) if changes else other
    large = without_numbers(class_of(other, small), other, dtype)
    mapping = getattr(importlib.import_module("transformers.conversion_mapping"), "get_model_conversion_mapping", None)
    if mapping is None or any(mapping(model, add_legacy=False) for model in (small, large)):
        raise Refusal("its class has other names for its tensors than its files")
    return small.eval(), large.eval()


def without_numbers(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    """Return a model whose parameters are on the meta device, and whose buffers are as its class makes them."""
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, param: Any) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            module._parameters[name] = nn.Parameter(param.to("meta"), param.requires_grad)

    nn.Module.register_parameter = empty  # type: ignore[method-assign]
    try:
        with quietly():
            return kind._from_config(config, dtype=dtype)
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def write_numbers(place: Path, model: Any, made: Callable[[str], Tensor]) -> None:
    """Write a model's configuration, and its tensors, each as it is made, to shards with an index.

    place: a folder that is there. made: from a name, the numbers.
    """
    hub = importlib.import_module("huggingface_hub.serialization")
    tensors = own_tensors(model)
    split = hub.split_state_dict_into_shards_factory(
        tensors, get_storage_size=lambda t: t.numel() * t.element_size(), filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        _write(place / file, {name: tensors[name] for name in names}, made)
    if split.is_sharded:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        (place / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename},
                                              indent=2, sort_keys=True))
    model.config.architectures = [type(model).__name__]
    with quietly():
        model.config.save_pretrained(place)
        if getattr(model, "generation_config", None) is not None and model.can_generate():
            model.generation_config.save_pretrained(place)


def _write(path: Path, tensors: Mapping[str, Tensor], made: Callable[[str], Tensor]) -> None:
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
        for name in tensors:
            file.write(made(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)
