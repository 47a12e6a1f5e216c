"""MODEL on the command line: a file, `torchvision:NAME`, `timm:NAME`, `zoo:NAME` or `package.module:factory`.

What lives here: turning such a word into a module in eval mode and inputs that it takes. What does not: reading our
archives and pickles (fxgrow/archive/files.py).
"""
from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import nn

from fxgrow.common import nearest_file
from fxgrow.errors import ModelError
from fxgrow.models.inputs import draw_inputs, dtype_of, parse_inputs
from fxgrow.models.sources import FORMS, LIBRARIES, Found, from_factory, from_file
from fxgrow.models.weights import apply_weights


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
        apply_weights(found.module, weights)
    inputs = found.inputs if input_shape is None else parse_inputs(input_shape)
    if input_shape is not None and found.inputs is not None and isinstance(found.inputs[0], list):
        inputs = [inputs]
    if inputs is None and need_inputs:
        raise ModelError(f"{spec} does not say what its inputs are: pass their shape, as --input 1,3,224,224")
    return found.module.eval(), draw_inputs(inputs or (), dtype_of(found.module), seed)


def _find(spec: str, pretrained: bool, trust_pickle: bool) -> Found:
    library, _, name = spec.partition(":")
    if Path(spec).exists():
        builder = None
    elif name and library in LIBRARIES:
        return LIBRARIES[library](name, pretrained)
    elif re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec):
        builder = from_factory
    else:
        raise ModelError(f"{spec} is no file here{nearest_file(spec)}; MODEL is {FORMS}")
    if pretrained:
        raise ModelError(f"{spec} has no DEFAULT weights: only torchvision and timm models do; pass --weights FILE")
    return builder(spec) if builder else from_file(spec, trust_pickle)
