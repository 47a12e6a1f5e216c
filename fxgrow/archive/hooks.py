"""Hooks of torch.nn.utils that a file keeps: old-style weight_norm and spectral_norm, and the masks of pruning.

They are objects of torch's own classes, made of names and numbers, that compute a weight before each call. All other hooks
are code.
"""
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm

from fxgrow.archive.structure import is_data
from fxgrow.archive.values import fields
from fxgrow.errors import ArchiveError
from fxgrow.graph import TRANSIENT

KINDS = {"_forward_hooks": "a forward hook", "_forward_pre_hooks": "a hook before its forward",
         "_backward_hooks": "a backward hook", "_backward_pre_hooks": "a hook before its backward"}
# what a file calls a hook, its class, and what the tensors that it computes from are called, behind the name of its weight
KEPT: dict[str, tuple[type, tuple[str, str]]] = {
    "weight_norm": (WeightNorm, ("_g", "_v")), "spectral_norm": (SpectralNorm, ("_orig", "_u")),
    "pruned": (prune.Identity, ("_orig", "_mask"))}
HOOK = {"kind": str, "attributes": dict}


def hooks_of(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the hooks that a model has of its own, each with what it is."""
    return [(kind, hook) for name, kind in KINDS.items() for hook in getattr(module, name, {}).values()
            if not getattr(hook, TRANSIENT, False)]


def name_of(hook: Any) -> str:
    """Return how a hook is called: a function's own name, or that of an object's class."""
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


def encode_hooks(module: nn.Module, path: str) -> list[dict]:
    """Return the hooks of a layer as data, or raise an ArchiveError that names one that has code of its own."""
    return [_encode_hook(kind, hook, path) for kind, hook in hooks_of(module)]


def _encode_hook(kind: str, hook: Any, path: str) -> dict:
    own = type(hook)
    if isinstance(hook, prune.BasePruningMethod) and own.__call__ is prune.BasePruningMethod.__call__ \
            and own.apply_mask is prune.BasePruningMethod.apply_mask:  # whatever made the mask, it is there now
        return {"kind": "pruned", "attributes": {"_tensor_name": hook._tensor_name}}
    name = next((name for name, (cls, _) in KEPT.items() if cls is own), None)
    if name is None or not is_data(vars(hook)):
        raise ArchiveError(f"module {path!r} has hooks, and an archive holds no code: remove {name_of(hook)} ({kind}) "
                           "before saving, or do what it does in the model's forward")
    return {"kind": name, "attributes": dict(sorted(vars(hook).items()))}


def decode_hooks(module: nn.Module, described: Sequence = ()) -> None:
    """Give a layer the hooks that `encode_hooks` returned for it."""
    for entry in described:
        name, attributes = fields(entry, "a hook", HOOK)
        cls, computed_from = KEPT.get(name, (None, ()))
        weight = attributes.get("_tensor_name", attributes.get("name"))
        if cls is None or not is_data(attributes) or not _computes(module, weight, computed_from):
            raise ArchiveError(f"a layer of class {type(module).__name__} has a hook that is none")
        hook: Any = object.__new__(cls)
        vars(hook).update(attributes)
        module.register_forward_pre_hook(hook)
        if isinstance(hook, SpectralNorm):
            module._register_state_dict_hook(SpectralNormStateDictHook(hook))
            module._register_load_state_dict_pre_hook(SpectralNormLoadStateDictPreHook(hook))


def _computes(module: nn.Module, weight: Any, computed_from: tuple[str, ...]) -> bool:
    """Tell whether a hook finds the tensors that it computes from, and writes to a tensor and nothing else."""
    held = {**module._parameters, **module._buffers}
    return (isinstance(weight, str) and isinstance(vars(module).get(weight), Tensor)
            and all(isinstance(held.get(weight + end), Tensor) for end in computed_from))
