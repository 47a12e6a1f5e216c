"""Folders of transformers written: a model, what lay beside its numbers, and a card that says where it comes from."""
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from fxgrow.common import atomic_folder, one_line
from fxgrow.errors import ModelError
from fxgrow.graph import skeleton
from fxgrow.models.folders import (
    CONFIG,
    GROWTH,
    class_of,
    example_inputs,
    fresh,
    quietly,
    read_config,
    results_alone,
    without_numbers,
)
from fxgrow.record import GrowthRecord, describe_step
from fxgrow.tracing import capture_graph

SHARD = "5GB"  # at most, of a file of numbers
BESIDE = (".json", ".jsonl", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab")  # of tokenizers
OURS = (CONFIG, "README.md", "trainer_state.json")  # what is written anew, or is of a training that ended
TEMPLATES = "additional_chat_templates"


@dataclass
class Told:
    """What a folder says about its growth.

    source: the folder of the small model, whose tokenizer is copied (None: there is none). record: where numbers come from.
    verification, steps: as data. remarks: sentences of the card.
    """
    source: str | None
    record: GrowthRecord
    verification: Mapping[str, Any] | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    remarks: Sequence[str] = ()

    def write_beside(self, place: Path, kind: str, size: int) -> None:
        """Write all of a folder that is neither numbers nor configuration, of a model of a class and so many parameters."""
        if self.source is not None:
            _copy_beside(Path(self.source), place)
        growth = place / GROWTH
        growth.mkdir()
        if self.source is not None:  # the configuration of the first model: of a folder that has grown, that is told there
            shutil.copyfile(_first_config(Path(self.source)), growth / CONFIG)
        (growth / "record.json").write_text(self.record.to_json())
        maps = {n: t.clone() for n, t in self.record.to_tensors().items()}
        safetensors.torch.save_file(maps, growth / "record.safetensors")
        (growth / "verification.json").write_text(json.dumps(self.verification, indent=2))
        (place / "README.md").write_text(_card(self, kind, size))


def _first_config(folder: Path) -> Path:
    return folder / GROWTH / CONFIG if (folder / GROWTH / CONFIG).is_file() else folder / CONFIG


def growth_in(folder: str) -> GrowthRecord | None:
    """Return the growth that a folder tells, without the first model's structure (`origin_in`); None where it tells none.

    Raises:
        ModelError: what is told cannot be read.
    """
    place = Path(folder) / GROWTH
    if not (place / "record.json").is_file():
        return None
    try:
        maps = safetensors.torch.load_file(place / "record.safetensors")
        return GrowthRecord.rebuild((place / "record.json").read_text(), maps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise ModelError(f"{place} tells no growth that can be read ({one_line(error)}): take it away, or have it "
                         "again from where the folder comes from") from error


def origin_in(folder: str) -> dict[str, nn.Module]:
    """Return the structure of the first model of a folder's growth, as a record holds it; {} where it is not told."""
    place = Path(folder) / GROWTH / CONFIG
    if not place.is_file():
        return {}
    config = read_config(str(place))
    small = without_numbers(class_of(config, spec=str(place)), config, torch.float32).eval()
    with results_alone(small):
        return {"": skeleton(capture_graph(small, example_inputs(small), check=False))}


def can_be_folder(model: Any, path: str) -> bool:
    """Tell whether a model goes into a folder of that name: its class writes such, and the name is no file's."""
    return hasattr(model, "save_pretrained") and hasattr(model, "config") and (not Path(path).suffix or Path(path).is_dir())


def write_folder(model: Any, path: str, told: Told) -> None:
    """Write what `from_pretrained` loads, whole or not at all: configuration, shards of safetensors, tokenizer, model card.

    The growth is told in the folder `growth` inside: record.json and record.safetensors, verification.json.

    Raises:
        ArchiveError: the folder exists already and is not empty, or cannot be written.
        ModelError: the class makes a tensor anew as it is loaded, in place of the one that the model has.
    """
    _insist_kept(model)
    with atomic_folder(path) as place:
        with quietly():
            model.save_pretrained(place, max_shard_size=SHARD)
        told.write_beside(place, type(model).__name__, sum(p.numel() for p in model.parameters()))


def made_anew(model: Any) -> list[str]:
    """Return the tensors that a model's class leaves out of its files and makes anew as it is loaded."""
    return sorted({*(getattr(model, "_keys_to_ignore_on_save", None) or ())} & model.state_dict().keys())


def _insist_kept(model: Any) -> None:
    """Refuse a model with a tensor that would not be in its folder, and is another one where the class makes it."""
    names = made_anew(model)
    theirs, ours = (fresh(type(model), model.config, model).state_dict() if names else {}), model.state_dict()
    lost = next((name for name in names if not torch.equal(theirs[name], ours[name])), None)
    if lost is not None:
        raise ModelError(f"{type(model).__name__} makes {lost} anew as a folder is loaded, by its sizes, and the numbers "
                         "that are needed there are others: leave that width as it is, or write a state_dict (-o FILE.pth)")


def _copy_beside(source: Path, place: Path) -> None:
    """Copy the tokenizer and the settings that lie beside a configuration; code and weights are left."""
    for file in sorted(source.iterdir()) if source.is_dir() else ():
        told = file.suffix in BESIDE and not file.name.endswith(".index.json") and file.name not in OURS
        if file.is_file() and (told or file.name.startswith(("LICENSE", "NOTICE"))) and not (place / file.name).exists():
            shutil.copyfile(file, place / file.name)
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, place / TEMPLATES)


def _card(told: Told, kind: str, size: int) -> str:
    """Return a model card, which says what was done."""
    base = Path(told.source).resolve().name if told.source else None
    head = ["---", "library_name: transformers", *([f"base_model: {base}"] if base else []), "tags:", "- fxgrow", "---"]
    rows = [" | ".join(str(s.get(k) if s.get(k) is not None else "").replace("|", "/") for k in
                       ("kind", "name", "before", "after", "method")) for s in told.steps]
    table = ["", "| step | layer or class | from | to | method |", "|---|---|---|---|---|", *(f"| {row} |" for row in rows)]
    return "\n".join([
        *head, "", f"# {base or kind}, grown", "",
        f"A `{kind}` of {size:,} parameters, made by fxgrow{f' from `{base}`' if base else ''} so that it "
        "starts by computing what the smaller model computes.", "",
        *(f"- {describe_step(step)}" for step in told.record.lineage), *(f"- {text}" for text in told.remarks), "",
        f"Which numbers are new, and where the others were, is told in `{GROWTH}/record.json` and "
        f"`{GROWTH}/record.safetensors`; how far both models are apart, in `{GROWTH}/verification.json`.",
        *(table if rows else []), ""])
