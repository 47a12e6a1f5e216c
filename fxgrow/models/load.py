"""MODEL as the command line takes it: a module in eval mode with its weights, inputs that it takes, and a first run."""
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves, tree_map
from fxgrow.common import nearest_file, one_line
from fxgrow.errors import ModelError
from fxgrow.graph import Captured, as_call, running_copy
from fxgrow.models.checkpoints import apply_weights
from fxgrow.models.folders import from_folder, is_folder
from fxgrow.models.inputs import describe, draw_inputs, dtype_of, insist_named, parse_inputs
from fxgrow.models.sources import Loaded, forms, from_factory, from_file, from_prefix
from fxgrow.models.writing import growth_in


def load_model(spec: str, *, weights: str | None = None, input_shape: str | Sequence[str] = (), trust_pickle: bool = False,
               seed: int = 0, need_inputs: bool = True, into: str | None = None,
               like: nn.Module | None = None) -> tuple[nn.Module, tuple | dict[str, Any]]:
    """Return the module that `spec` names, in eval mode, and example inputs for it, as a tuple or by name.

    spec: a file, a folder of transformers or a configuration in one, `PREFIX:NAME` (torchvision, timm, zoo or an installed
    source) or `package.module:factory`.
    weights: a checkpoint that holds a fitting state_dict, an index of shards, or DEFAULT for the library's own pretrained
    ones; None: what the file holds, or random weights drawn after `torch.manual_seed(seed)`, so that one name always means
    one network.
    input_shape: `1,3,224,224`, several as `1,3,224,224;1,10:int64` or in a list, by name as `mask=1,10:int64`; empty: what
    the file or library says.
    trust_pickle: let a pickled file run its own code.
    into: `package.module:factory` of an instance of the class that a file was saved from, where that has code of its own.
    like: a model in whose type and with whose head a configuration's is made, where nothing is said of these.
    need_inputs: fail where nobody says what the inputs are; otherwise they are then an empty tuple.

    Raises ModelError where one of these cannot be had; ArchiveError where the file is damaged or a pickle not trusted.
    """
    pretrained = weights == "DEFAULT"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        module, inputs = _find(spec, pretrained, trust_pickle, into, like)
    if weights and not pretrained:
        apply_weights(module, weights)
    if input_shape:
        takes_list = isinstance(inputs, (list, tuple)) and isinstance(inputs[0], list)
        told = parse_inputs(input_shape)
        insist_named(module, told)
        inputs = [told] if takes_list else told
    if inputs is None and need_inputs:
        raise ModelError(f"{spec} does not say what its inputs are: pass their shape, as --input 1,3,224,224")
    return module.eval(), draw_inputs(inputs or (), dtype_of(module), seed)


def _find(spec: str, pretrained: bool, trust_pickle: bool, into: str | None, like: nn.Module | None) -> Loaded:
    prefix, _, name = spec.partition(":")
    is_file = Path(spec).exists()
    loaded = from_prefix(prefix, name, pretrained) if name and not is_file else None
    if loaded is not None:
        return loaded
    if not is_file and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\?.*)?", spec, re.DOTALL):
        raise ModelError(f"{spec} is no file here{nearest_file(spec)}; MODEL is {forms()}")
    if pretrained:
        raise ModelError(f"{spec} has no DEFAULT weights: only torchvision and timm models do; pass --weights FILE")
    if not is_file:
        return from_factory(spec)
    if is_folder(spec):
        found = Loaded(*from_folder(spec, like))
        if (record := growth_in(spec)) is not None:
            Captured(found.module).record = record
        return found
    return from_file(spec, trust_pickle, from_factory(into).module if into else None)


def try_out(spec: str, module: nn.Module, inputs: tuple | dict[str, Any]) -> None:
    """Run the model once; raise ModelError naming the layer that stops at an input which does not suit it."""
    running: list[str] = []  # the names of the modules that have begun and not ended, the innermost last
    hooks = []

    def end(*_) -> None:
        running.pop()

    for name, m in module.named_modules():
        hooks += [m.register_forward_pre_hook(lambda m, args, name=name: running.append(name)), m.register_forward_hook(end)]
    try:
        with torch.no_grad():
            args, kwargs = as_call(tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
            module(*args, **kwargs)
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        layer = running[-1] if running else ""
        kind = type(module.get_submodule(layer)).__name__
        raise ModelError(f"{spec} does not run on the input {describe(inputs)}: {f'{layer} ({kind})' if layer else kind}: "
                         f"{one_line(error)}; say with --input what it takes") from error
    finally:
        for hook in hooks:
            hook.remove()


def fault_of(module: nn.Module, inputs: tuple | dict[str, Any]) -> str:
    """Say what is wrong with a model itself on these inputs, in eval mode, whatever it is compared with; else ""."""
    for name, p in module.named_parameters():
        if not p.isfinite().all():
            return f"has NaN or infinite numbers in {name}"
    copy = running_copy(module).eval()
    first: list[str] = []

    def look(name: str, m: nn.Module, out: Any) -> None:
        if not first and not _finite(out):
            first.append(f"{name or 'the model itself'}, a {type(m).__name__}")

    for name, m in copy.named_modules():
        m.register_forward_hook(lambda m, args, out, name=name: look(name, m, out))
    def run(given: tuple | dict[str, Any]) -> list[Tensor]:
        args, kwargs = as_call(given)
        return [t.clone() for t in tree_leaves(copy(*args, **kwargs)) if isinstance(t, Tensor)]

    with torch.no_grad(), torch.random.fork_rng():
        drawn = tree_map(lambda v: torch.randn_like(v) if isinstance(v, Tensor) and v.is_floating_point() else v, inputs)
        outs = [run(given) for given in (inputs, inputs, drawn)]
    if not _finite(outs):
        return f"gives NaN or infinite numbers on such inputs{f' (first {first[0]})' if first else ''}"
    return "" if all(map(torch.equal, *outs[:2])) else "gives something else each time that it runs"


def _finite(values: Any) -> bool:
    return all(bool(v.isfinite().all()) for v in tree_leaves(values) if isinstance(v, Tensor))
