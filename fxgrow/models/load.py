"""MODEL as the command line takes it, turned into a module in eval mode and inputs that it takes."""
import re
import warnings
from pathlib import Path

import torch
from torch import nn

from fxgrow.common import nearest_file
from fxgrow.errors import ModelError
from fxgrow.models.inputs import draw_inputs, dtype_of, parse_inputs
from fxgrow.models.sources import Loaded, forms, from_factory, from_file, from_prefix
from fxgrow.models.weights import apply_weights


def load_model(spec: str, *, weights: str | None = None, input_shape: str | None = None, trust_pickle: bool = False,
               seed: int = 0, need_inputs: bool = True) -> tuple[nn.Module, tuple]:
    """Return the module that `spec` names, in eval mode, and example inputs for it.

    Args:
        spec: a file, `PREFIX:NAME` (torchvision, timm, zoo or an installed source) or `package.module:factory`.
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
        module, inputs = _find(spec, pretrained, trust_pickle)
    if weights and not pretrained:
        apply_weights(module, weights)
    if input_shape is not None:
        takes_list = inputs is not None and isinstance(inputs[0], list)
        inputs = [parse_inputs(input_shape)] if takes_list else parse_inputs(input_shape)
    if inputs is None and need_inputs:
        raise ModelError(f"{spec} does not say what its inputs are: pass their shape, as --input 1,3,224,224")
    return module.eval(), draw_inputs(inputs or (), dtype_of(module), seed)


def _find(spec: str, pretrained: bool, trust_pickle: bool) -> Loaded:
    prefix, _, name = spec.partition(":")
    is_file = Path(spec).exists()
    loaded = from_prefix(prefix, name, pretrained) if name and not is_file else None
    if loaded is not None:
        return loaded
    if not is_file and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec):
        raise ModelError(f"{spec} is no file here{nearest_file(spec)}; MODEL is {forms()}")
    if pretrained:
        raise ModelError(f"{spec} has no DEFAULT weights: only torchvision and timm models do; pass --weights FILE")
    return from_file(spec, trust_pickle) if is_file else from_factory(spec)
