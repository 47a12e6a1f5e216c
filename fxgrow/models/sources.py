"""Sources of models: files, torchvision, timm, the zoo, and functions of any package."""
from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxgrow.aten import tree_map
from fxgrow.common import nearest
from fxgrow.errors import ModelError
from fxgrow.models.inputs import IMAGE, Input, describe_input

FORMS = "a file, torchvision:NAME, timm:NAME, zoo:NAME or package.module:factory"


@dataclass
class Found:
    """What a spec names: the module, and its inputs (tensors or Inputs, nested as forward takes them; None: not known)."""
    module: nn.Module
    inputs: Sequence[Any] | None = None


def from_file(path: str, trust_pickle: bool) -> Found:
    from fxgrow.archive import load

    module = load(path, trust_pickle=trust_pickle)
    example = getattr(module, "meta", {}).get("example_inputs")
    return Found(module, tree_map(lambda t: Input(tuple(t.shape), t.dtype) if isinstance(t, Tensor) else t, example))


def _from_torchvision(name: str, pretrained: bool) -> Found:
    models = _library("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}")
    family = next((m for m in (models.detection, models.optical_flow, models.segmentation, models.video)
                   if name in models.list_models(module=m)), models)
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained and family in (models.detection, models.segmentation):
        options["weights_backbone"] = None
    module = _fetched(f"torchvision:{name}", pretrained, lambda: models.get_model(name, **options))
    if family is models.detection:
        return Found(module, [[Input((3, 320, 320))]])
    best = models.get_model_weights(name).DEFAULT
    if family is models.optical_flow:
        return Found(module, [Input((1, 3, *best.meta["min_size"]))] * 2)
    crop = getattr(best.transforms(), "crop_size", None) or IMAGE[2:]  # segmentation takes any size
    size = list(crop) * (2 // len(crop))
    return Found(module, [Input((1, 3, 16, *size) if family is models.video else (1, 3, *size))])


def _from_timm(name: str, pretrained: bool) -> Found:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    module = _fetched(f"timm:{name}", pretrained, lambda: timm.create_model(name, pretrained=pretrained))
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = config.get("input_size") or IMAGE[1:]
    return Found(module, [Input((1, *size))])


def _from_zoo(text: str, pretrained: bool) -> Found:
    """`NAME` or `NAME:key=value,key=value`."""
    zoo = importlib.import_module("fxgrow.zoo")
    name, _, options = text.partition(":")
    if pretrained:
        raise ModelError(f"zoo:{text} has no DEFAULT weights; pass --weights FILE")
    module = zoo.create_model(name, **zoo.parse_options(options))
    return Found(module, [Input((1, *module.input_shape))])


def from_factory(spec: str) -> Found:
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
    return Found(module, tree_map(describe_input, inputs))


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
