"""Folders of transformers: config.json, safetensors and a tokenizer become a module and its inputs.

What does not live here: which other configurations a class has (configurations.py), how a folder is written (writing.py).
"""
import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.common import one_line
from fxgrow.errors import ModelError
from fxgrow.graph import named_tensors

CONFIG = "config.json"
GROWTH = "growth"  # the folder inside a folder in which its growth is told: what loads weights by a glob doesn't see it
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
LENGTH, BATCH = 16, 2  # of token ids that are drawn


def is_folder(spec: str) -> bool:
    """Tell whether a word names a folder of transformers, or the configuration in one."""
    place = Path(spec)
    return (place / CONFIG).is_file() or (place.suffix == ".json" and place.is_file() and "weight_map" not in _json(place))


def from_folder(spec: str, like: nn.Module | None = None) -> tuple[nn.Module, dict[str, Tensor] | None]:
    """Return the model in a folder, in the type that its numbers have, and token ids or pixels that it takes.

    No code from the folder runs: tensors are read from safetensors, or from pickles by torch's weights_only.

    Args:
        spec: the folder, or a configuration, whose model has fresh numbers.
        like: a model whose head it gets where the configuration names no class; its type is that of fresh numbers.

    Raises:
        ModelError: transformers is not installed or does not know the class, or tensors are missing.
    """
    config = read_config(spec)
    kind = class_of(config, like, spec)
    if not Path(spec).is_dir() or not any(next(Path(spec).glob(pattern), None) for pattern in WEIGHTS):
        model = fresh(kind, config, like)
        return model, example_inputs(model)
    with _told(spec):
        model, found = kind.from_pretrained(spec, config=config, dtype="auto", local_files_only=True, weights_only=True,
                                            trust_remote_code=False, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{spec} has no {', '.join(missing[:3])}{' and others' if missing[3:] else ''}, which "
                         f"{kind.__name__} takes: name the class that its weights are of under architectures in {CONFIG}")
    return model, example_inputs(model)


def read_config(spec: str) -> Any:
    """Return the configuration in a folder or file; raise ModelError where transformers does not know its kind."""
    transformers = library()
    with _told(spec):
        config = transformers.AutoConfig.from_pretrained(spec, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise ModelError(f"{spec} holds quantised numbers, which cannot be grown: name the folder that they were made from")
    return config


def class_of(config: Any, like: nn.Module | None = None, spec: str = CONFIG) -> Any:
    """Return the class that a configuration names, else that which has the head of `like`, else that of pretraining."""
    transformers = library()
    for name in config.architectures or ():
        kind = getattr(transformers, name, None)
        if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel):
            return kind
        raise ModelError(f"{spec}: transformers has no class {name}, and code that lies in a folder is never run")
    if isinstance(getattr(like, "config", None), type(config)):
        return type(like)
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    tables = [table for name, table in vars(auto).items() if name.endswith("_MAPPING") and hasattr(table, "keys")]
    if like is None:
        tables = [auto.MODEL_FOR_PRETRAINING_MAPPING, auto.MODEL_MAPPING]
    for table in tables:
        kinds = _kinds(table, config)
        if kinds and (like is None or type(like) in _kinds(table, getattr(like, "config", None))):
            return kinds[0]
    raise ModelError(f"{spec} names no class: write it under architectures, as [\"LlamaForCausalLM\"]")


def _kinds(table: Any, config: Any) -> tuple:
    """Return the classes that a table of transformers has for a configuration."""
    if type(config) not in table:
        return ()
    kinds = table[type(config)]
    return tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)


def fresh(kind: Any, config: Any, like: nn.Module | None = None) -> nn.Module:
    """Return a new model of a class, in the types of `like`, which also says how it generates; like it, without numbers."""
    dtype = next((p.dtype for p in like.parameters() if p.is_floating_point()), None) if like is not None else None
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    if like is not None and any(p.is_meta for p in like.parameters()):
        return without_numbers(kind, config, dtype)
    with _told(CONFIG):
        model = kind._from_config(config, dtype=dtype)
    kinds = {_of_any_layer(name): t.dtype for name, t in named_tensors(like)} if like is not None else {}
    for name, t in named_tensors(model):  # some stay in single precision where numbers are read in another type
        t.data = t.data.to(kinds.get(_of_any_layer(name), t.dtype))
    told = getattr(like, "generation_config", None)
    if told is not None and getattr(model, "generation_config", None) is not None:
        model.generation_config = told
    return model


def _of_any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", name)


def without_numbers(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    """Return a model whose parameters are on the meta device, and whose buffers are as its class makes them."""
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, param: Any) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            module._parameters[name] = nn.Parameter(param.to("meta"), param.requires_grad)

    nn.Module.register_parameter = empty  # type: ignore[method-assign]
    try:
        with _told(CONFIG):
            return kind._from_config(config, dtype=dtype)
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def example_inputs(model: Any) -> dict[str, Tensor] | None:
    """Return inputs that a configuration says enough about: token ids below vocab_size, pixels, sound; else None."""
    config: Any = model.config
    takes, main = inspect.signature(model.forward).parameters, str(getattr(model, "main_input_name", ""))
    draw = torch.Generator().manual_seed(0)
    text, found = config.get_text_config(), {}
    words = ["decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes else []
    if main == "input_ids" and getattr(text, "vocab_size", None):
        words.insert(0, main)
    elif shape := _shape(main, config):
        found[main] = torch.randn(shape, generator=draw).to(_dtype(model))
    else:
        return None
    if main == "input_ids" and "pixel_values" in takes and not model.can_generate():  # one encoder for words, one for pixels
        shape = _shape("pixel_values", getattr(config, "vision_config", config))
        found |= {"pixel_values": torch.randn((BATCH, *shape[1:]), generator=draw).to(_dtype(model))} if shape else {}
    return found | {name: _ids(text, draw) for name in words}


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextlib.contextmanager
def results_alone(*models: nn.Module) -> Iterator[None]:
    """Let models of transformers that give logits give them alone inside: an encoder's state is as wide as the encoder."""
    hooks = [model.register_forward_hook(_results) for model in models if hasattr(model, "config")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _results(model: nn.Module, args: tuple, out: Any) -> Any:
    if not isinstance(out, dict) or not any("logits" in name for name in out):
        return out
    return type(out)(**{name: value for name, value in out.items() if "logits" in name or name == "loss"})


def _ids(config: Any, draw: torch.Generator) -> Tensor:
    """Draw ids of words, none of them one that ends or pads a text."""
    special = {v for name, v in vars(config).items() if name.endswith("_token_id") and isinstance(v, int)}
    words = torch.tensor([i for i in range(min(config.vocab_size, 1 << 12)) if i not in special] or [0])
    most = getattr(config, "max_position_embeddings", None)
    length = min(LENGTH, most) if isinstance(most, int) and most > 0 else LENGTH
    return words[torch.randint(len(words), (BATCH, length), generator=draw)]


def _shape(main: str, config: Any) -> tuple[int, ...] | None:
    if main == "pixel_values" and getattr(config, "image_size", None):
        size = config.image_size
        return 1, getattr(config, "num_channels", 3), *(size if isinstance(size, (list, tuple)) else (size, size))
    if main == "input_features" and getattr(config, "num_mel_bins", None):
        return 1, config.num_mel_bins, 2 * getattr(config, "max_source_positions", LENGTH)
    if main == "input_values" and getattr(config, "num_mel_bins", None) and getattr(config, "max_length", None):
        return 1, config.max_length, config.num_mel_bins  # a spectrogram
    return (1, 4000) if main == "input_values" else None


def library() -> Any:
    """Import transformers, which only folders need; raise ModelError where it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"transformers is not installed ({error}): pip install 'fxgrow[hf]'") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and warning."""
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _told(spec: str) -> Iterator[None]:
    """Run code of transformers; what it raises about a folder is told of it."""
    try:
        with quietly():
            yield
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"{spec} cannot be loaded ({type(error).__name__}): {one_line(error)[:500]}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {one_line(error)}") from error
