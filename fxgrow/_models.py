"""MODEL on the command line: a file, `torchvision:NAME`, `timm:NAME`, `zoo:NAME` or `package.module:factory`.

What lives here: turning such a word into a module in eval mode and inputs that it takes. What does not: reading our
archives and pickles (fxgrow/_archive.py).
"""
from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxgrow.errors import ArchiveError, FxgrowError

DTYPES = {name: getattr(torch, name) for name in
          ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")}
FORMS = "a file, torchvision:NAME, timm:NAME, zoo:NAME or package.module:factory"
IMAGE = (1, 3, 224, 224)


class ModelError(FxgrowError):
    """MODEL, its weights or its inputs cannot be had."""


@dataclass(frozen=True)
class Input:
    """The shape of one input, and its type (None: that of the model's parameters)."""
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


@dataclass
class _Found:
    """What a spec names: the module, and its inputs (tensors or Inputs, nested as forward takes them; None: not known)."""
    module: nn.Module
    inputs: Sequence[Any] | None = None


def load_model(spec: str, *, weights: str | None = None, input_shape: str | None = None, trust_pickle: bool = False,
               seed: int = 0, need_inputs: bool = True) -> tuple[nn.Module, tuple]:
    """The module that `spec` names, in eval mode, and example inputs for it.

    Args:
        spec: a file, `torchvision:NAME`, `timm:NAME`, `zoo:NAME` or `package.module:factory`.
        weights: a file with a state_dict, or DEFAULT for the library's own pretrained ones; None: what the file holds,
            or random weights drawn after `torch.manual_seed(seed)`, so that one name always means one network.
        input_shape: `1,3,224,224`, or several as `1,3,224,224;1,10:int64`; None: what the file or library says.
        trust_pickle: let a pickled file run its own code.
        need_inputs: fail where nobody says what the inputs are; otherwise they are then an empty tuple.

    Raises:
        ModelError: the model, its weights or its inputs cannot be had.
        ArchiveError: the file is damaged, or is a pickle that is not trusted.
    """
    pretrained = weights == "DEFAULT"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        found = _find(spec, pretrained, trust_pickle)
    if weights and not pretrained:
        _load_weights(found.module, weights)
    inputs = found.inputs if input_shape is None else parse_inputs(input_shape)
    if input_shape is not None and found.inputs is not None and isinstance(found.inputs[0], list):
        inputs = [inputs]
    if inputs is None and need_inputs:
        raise ModelError(f"{spec} does not say what its inputs are: pass their shape, as --input 1,3,224,224")
    return found.module.eval(), draw_inputs(inputs or (), dtype_of(found.module), seed)


def _find(spec: str, pretrained: bool, trust_pickle: bool) -> _Found:
    library, _, name = spec.partition(":")
    if Path(spec).exists():
        builder = None
    elif name and library in LIBRARIES:
        return LIBRARIES[library](name, pretrained)
    elif re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec):
        builder = _from_factory
    else:
        raise ModelError(f"{spec} is no file here{_nearest_file(spec)}; MODEL is {FORMS}")
    if pretrained:
        raise ModelError(f"{spec} has no DEFAULT weights: only torchvision and timm models do; pass --weights FILE")
    return builder(spec) if builder else _from_file(spec, trust_pickle)


# --- where models come from ---------------------------------------------------------------------------------------


def _from_file(path: str, trust_pickle: bool) -> _Found:
    from fxgrow._archive import load

    module = load(path, trust_pickle=trust_pickle)
    example = getattr(module, "meta", {}).get("example_inputs")
    return _Found(module, tree_map(lambda t: Input(tuple(t.shape), t.dtype) if isinstance(t, Tensor) else t, example))


def _from_torchvision(name: str, pretrained: bool) -> _Found:
    models = _library("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{_nearest(name, models.list_models())}")
    family = next((m for m in (models.detection, models.optical_flow, models.segmentation, models.video)
                   if name in models.list_models(module=m)), models)
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained and family in (models.detection, models.segmentation):
        options["weights_backbone"] = None
    module = _fetched(f"torchvision:{name}", pretrained, lambda: models.get_model(name, **options))
    if family is models.detection:
        return _Found(module, [[Input((3, 320, 320))]])
    best = models.get_model_weights(name).DEFAULT
    if family is models.optical_flow:
        return _Found(module, [Input((1, 3, *best.meta["min_size"]))] * 2)
    crop = getattr(best.transforms(), "crop_size", None) or IMAGE[2:]  # segmentation takes any size
    size = list(crop) * (2 // len(crop))
    return _Found(module, [Input((1, 3, 16, *size) if family is models.video else (1, 3, *size))])


def _from_timm(name: str, pretrained: bool) -> _Found:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_nearest(name, timm.list_models())}")
    module = _fetched(f"timm:{name}", pretrained, lambda: timm.create_model(name, pretrained=pretrained))
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = config.get("input_size") or IMAGE[1:]
    return _Found(module, [Input((1, *size))])


def _from_zoo(text: str, pretrained: bool) -> _Found:
    """`NAME` or `NAME:key=value,key=value`."""
    zoo = importlib.import_module("fxgrow.zoo")
    name, _, options = text.partition(":")
    if pretrained:
        raise ModelError(f"zoo:{text} has no DEFAULT weights; pass --weights FILE")
    module = zoo.create_model(name, **zoo.parse_options(options))
    return _Found(module, [Input((1, *module.input_shape))])


def _from_factory(spec: str) -> _Found:
    """`package.module:factory`: what the factory returns, a module or (module, example inputs)."""
    place, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        target: Any = importlib.import_module(place)
        for part in name.split("."):
            target = getattr(target, part)
        made = target if isinstance(target, nn.Module) else target()
    except ModuleNotFoundError as error:
        raise ModelError(f"{spec}: there is no module {error.name!r} here or installed; MODEL is {FORMS}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}") from error
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} gave a {type(module).__name__}; it should return a torch.nn.Module")
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    return _Found(module, tree_map(_telling, inputs))


def _telling(value):
    """An example input, or only its shape if it is a constant tensor, on which too many networks agree."""
    constant = isinstance(value, Tensor) and value.is_floating_point() and bool((value == value.reshape(-1)[:1]).all())
    return Input(tuple(value.shape), value.dtype) if constant else value


LIBRARIES = {"torchvision": _from_torchvision, "timm": _from_timm, "zoo": _from_zoo}


def _library(module: str, extra: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{extra} is not installed ({error}): pip install 'fxgrow[{extra}]'") from error


def _fetched(spec: str, pretrained: bool, build) -> nn.Module:
    """Builds a model; what goes wrong while its weights are fetched becomes one clear error."""
    if not pretrained:
        return build()
    logging.disable(logging.WARNING)  # the libraries tell of every retry
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return build()
    except Exception as error:
        why = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ModelError(f"the DEFAULT weights of {spec} cannot be had ({why[0]}): fetch them where there is a network "
                         "and pass them as --weights FILE") from error
    finally:
        logging.disable(logging.NOTSET)


# --- weights and inputs -------------------------------------------------------------------------------------------


def _load_weights(module: nn.Module, path: str) -> None:
    """Loads a state_dict (or that of a saved module; nothing in the file is run) into `module`, every name matched."""
    state = _read_state(path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [str(error)]
        raise ModelError(f"{path} does not fit {type(module).__name__}: {lines[0][:300]}") from error


def _read_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ModelError(f"{path} is no file here{_nearest_file(path)}; --weights takes the file of a state_dict, or "
                         "DEFAULT")
    from fxgrow._archive import load_weights
    try:
        state = load_weights(path)
    except ArchiveError as error:
        why = str(error).partition(": ")[2].partition(": save its state_dict")[0]
        raise ModelError(f"{path} is no state_dict that can be read without running code from it ({why}): save it with "
                         "torch.save(model.state_dict(), ...)") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} is no state_dict: save it with torch.save(model.state_dict(), ...)")
    return state


def parse_inputs(text: str) -> list[Input]:
    """`1,3,224,224;1,10:int64` -> two inputs."""
    inputs = []
    for part in text.split(";"):
        sizes, _, dtype = part.partition(":")
        if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", sizes) or "0" in [s.strip() for s in sizes.split(",")]:
            raise ModelError(f"--input {text!r}: {part!r} is no shape; write sizes as 1,3,224,224, several inputs as "
                             "1,3,224,224;1,10:int64")
        inputs.append(Input(tuple(int(s) for s in sizes.split(",")), _dtype(dtype.strip()) if dtype else None))
    return inputs


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelError(f"--input: {name!r} is no type; the types are {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of the first floating parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def draw_inputs(inputs: Sequence[Any], dtype: torch.dtype, seed: int = 0) -> tuple:
    """Tensors of these shapes: normal numbers, and zeros and ones where the type is no floating one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(i):
        if not isinstance(i, Input):
            return i
        kind = i.dtype or dtype
        if kind.is_floating_point:
            return torch.randn(i.shape, generator=generator).to(kind)
        return torch.randint(2, i.shape, generator=generator).to(kind)

    return tuple(tree_map(draw, list(inputs)))


def try_out(spec: str, module: nn.Module, inputs: tuple) -> None:
    """Runs the model once, so that an input which does not suit it is told of by the layer that it stops at.

    Raises:
        ModelError: the model does not take these inputs.
    """
    path: list[str] = []
    hooks = [hook for name, m in module.named_modules() for hook in (
        m.register_forward_pre_hook(lambda m, args, name=name: path.append(name)),
        m.register_forward_hook(lambda m, args, out: path.pop() and None))]
    try:
        with torch.no_grad():
            module(*tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        layer = path[-1] if path else ""
        where = f"{layer} ({type(module.get_submodule(layer)).__name__})" if layer else type(module).__name__
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{spec} does not run on the input {describe(inputs)}: {where}: {what}; say with --input what it "
                         "takes") from error
    finally:
        for hook in hooks:
            hook.remove()


def describe(inputs: tuple) -> str:
    """Shapes and types, as --input takes them."""
    return ";".join(f"{','.join(map(str, t.shape))}:{str(t.dtype).removeprefix('torch.')}" for t in tree_leaves(inputs)
                    if isinstance(t, Tensor))


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def _nearest_file(path: str) -> str:
    folder = Path(path).parent
    near = difflib.get_close_matches(Path(path).name, [p.name for p in folder.iterdir()], n=1) if folder.is_dir() else []
    return f" (did you mean {folder / near[0]}?)" if near else ""
