"""Sources of models: files, factories, torchvision, timm, and the prefixes that installed packages add.

An entry point `PREFIX = package.module:function` of the group `fxgrow.models` adds `PREFIX:NAME`. The function is called
as `function(name, pretrained)` and returns what a factory does. (One that names a module alone adds to the zoo.)
"""
import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from fxgrow.archive import load
from fxgrow.aten import tree_map
from fxgrow.common import load_plugin, nearest, plugins
from fxgrow.errors import FxgrowError, ModelError
from fxgrow.graph import Captured
from fxgrow.models.inputs import IMAGE, Input, describe_input
from fxgrow.models.options import split_options

GROUP = "fxgrow.models"


class Loaded(NamedTuple):
    """A module and its inputs: tensors or Inputs, nested as forward takes them, or by name; None where nobody says."""
    module: nn.Module
    inputs: Sequence[Any] | Mapping[str, Any] | None


def forms() -> str:
    """Return the forms that MODEL may take, for messages."""
    prefixes = ", ".join(f"{prefix}:NAME" for prefix in dict.fromkeys([*LIBRARIES, *_installed()]))
    return f"a file, {prefixes} or package.module:factory, or a folder of transformers"


def from_prefix(prefix: str, name: str, pretrained: bool) -> Loaded | None:
    """Return the model that a library or an installed source calls `name`; None if no source has this prefix."""
    if prefix in LIBRARIES:
        plain, options = split_options(name)
        return LIBRARIES[prefix](plain, pretrained, options)
    if entry := _installed().get(prefix):
        source = load_plugin(entry, f"the source of {prefix}:NAME")
        return _loaded(f"{prefix}:{name}", _called(f"{prefix}:{name}", lambda: source(name, pretrained)))
    return None


def _installed() -> dict[str, EntryPoint]:
    return {name: entry for name, entry in plugins(GROUP).items() if entry.attr}


def _called(spec: str, make: Callable[[], Any]) -> Any:
    """Call code of others that makes a model; what it raises is told of it."""
    try:
        return make()
    except FxgrowError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}") from error


def from_file(path: str, trust_pickle: bool, into: nn.Module | None) -> Loaded:
    """Read a saved module; its inputs are those that the archive tells."""
    module = load(path, into=into, trust_pickle=trust_pickle)
    return Loaded(module, tree_map(lambda t: Input(tuple(t.shape), t.dtype) if isinstance(t, Tensor) else t,
                                   Captured(module).inputs or None))


def from_factory(spec: str) -> Loaded:
    """Call `package.module:factory`, with options behind it, which returns a module or (module, example inputs)."""
    place, _, name = spec.partition(":")
    name, options = split_options(name)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        target: Any = importlib.import_module(place)
        for part in name.split("."):
            target = getattr(target, part)
        result = target if isinstance(target, nn.Module) else target(**options)
    except ModuleNotFoundError as error:
        raise ModelError(f"{spec}: there is no module {error.name!r} here or installed; MODEL is {forms()}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}") from error
    return _loaded(spec, result)


def _loaded(spec: str, result: Any) -> Loaded:
    module, inputs = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec} gave a {type(module).__name__}; it should return a torch.nn.Module")
    return Loaded(module, tree_map(describe_input, (inputs,) if isinstance(inputs, Tensor) else inputs))


def _from_torchvision(name: str, pretrained: bool, given: dict[str, Any]) -> Loaded:
    models = _library("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}")
    family = next((m for m in (models.detection, models.optical_flow, models.segmentation, models.video)
                   if name in models.list_models(module=m)), models)
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained and family in (models.detection, models.segmentation):
        options["weights_backbone"] = None
    module = _download(f"torchvision:{name}", pretrained, lambda: models.get_model(name, **options | given))
    if family is models.detection:
        return Loaded(module, [[Input((3, 320, 320))]])
    best = models.get_model_weights(name).DEFAULT
    if family is models.optical_flow:
        return Loaded(module, [Input((1, 3, *best.meta["min_size"]))] * 2)
    crop = getattr(best.transforms(), "crop_size", None) or IMAGE[2:]  # segmentation takes any size
    size = list(crop) * (2 // len(crop))
    return Loaded(module, [Input((1, 3, 16, *size) if family is models.video else (1, 3, *size))])


def _from_timm(name: str, pretrained: bool, given: dict[str, Any]) -> Loaded:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    module = _download(f"timm:{name}", pretrained, lambda: timm.create_model(name, pretrained=pretrained, **given))
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    channels, *size = config.get("input_size") or IMAGE[1:]
    size = given.get("img_size", size)
    return Loaded(module, [Input((1, given.get("in_chans", channels), *([size] * 2 if isinstance(size, int) else size)))])


LIBRARIES: dict[str, Callable[[str, bool, dict[str, Any]], Loaded]] = {"torchvision": _from_torchvision, "timm": _from_timm}


def _library(module: str, extra: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{extra} is not installed ({error}): pip install 'fxgrow[{extra}]'") from error


def _download(spec: str, pretrained: bool, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model; what goes wrong while its weights are fetched becomes one clear error."""
    if not pretrained:
        return _called(spec, build)
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
