"""Checkpoints: one zip file with the model as an archive, all other tensors as safetensors, and the rest as JSON.

What lives here: the file, and the state of random generators. What does not: the state of training (state.py).
"""
import contextlib
import json
import os
import random
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.common import atomic_write, one_line
from fxgrow.errors import ArchiveError, FxgrowError

CHECKPOINT_NAME, VERSION = "checkpoint.zip", 1
MODEL, TENSORS, STATE = "model.pt", "tensors.safetensors", "state.json"


def write(path: str | os.PathLike, model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint over the one that was there, which stays if that fails with an ArchiveError.

    Kept are the structure, numbers and growth record of a captured or grown model, and a state that JSON holds.
    """
    with _temporary() as archive:
        fxgrow.save(model, archive)
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zipped:
            zipped.writestr(STATE, json.dumps({**state, "version": VERSION}, allow_nan=False))
            zipped.writestr(TENSORS, safetensors.torch.save(plain))
            zipped.write(archive, MODEL)


def read(path: str | os.PathLike) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Read what `write` was given, without running code; ArchiveError if the file is missing, damaged, or no checkpoint."""
    with _opened(path) as (zipped, state), _temporary() as archive:
        tensors = safetensors.torch.load(zipped.read(TENSORS))
        archive.write_bytes(zipped.read(MODEL))
        return fxgrow.load(archive), tensors, state


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """Give a place for the archive of the model."""
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:
        raise ArchiveError(f"no folder for temporary files can be made: {one_line(error)}") from error
    with temporary as folder:
        yield Path(folder) / MODEL


def checkpoint_settings(path: str | os.PathLike) -> dict[str, Any]:
    """Read the settings of the run that a checkpoint is of; raises as `read` does."""
    with _opened(path) as (_, state):
        return state["config"]


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as zipped:
            state = json.loads(zipped.read(STATE))
            if not isinstance(state, dict) or state.pop("version", None) != VERSION:
                raise ArchiveError(f"{path} is a checkpoint of another version of fxgrow: go on with that one")
            state["config"] = {"norm_statistics": "never", "fused": False, **state["config"]}  # before there were these
            yield zipped, state
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no checkpoint {path}: name the folder that the run was written to") from error
    except FxgrowError:
        raise
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ArchiveError(f"{path} is damaged or no checkpoint of fxgrow ({error}): start anew or use a copy") from error


def seed_all(seed: int) -> None:
    """Seed torch's, numpy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2 ** 32)
    random.seed(seed)


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of all global generators, as tensors and as JSON."""
    tensors = {"rng/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"rng/cuda/{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return tensors, {"numpy": [name, keys.tolist(), *rest], "python": [version, list(numbers), gauss]}  # type: ignore


def set_random_states(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Undo what has been drawn since `random_states`; states of devices that are not here are left out."""
    torch.set_rng_state(tensors["rng/torch"])
    for i in range(torch.cuda.device_count()):
        if f"rng/cuda/{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng/cuda/{i}"], i)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
