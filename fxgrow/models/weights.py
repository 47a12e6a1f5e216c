"""Weights for a model: a state_dict read without running code, and loaded with every name matched."""
from pathlib import Path

from torch import Tensor, nn

from fxgrow.archive import load_weights
from fxgrow.common import nearest_file
from fxgrow.errors import ArchiveError, ModelError


def apply_weights(module: nn.Module, path: str) -> None:
    """Load the state_dict in a file, or that of a module saved there, into `module`, every name matched.

    Raises:
        ModelError: the file is missing, holds no state_dict, or one of another model. No code from it ever runs.
    """
    state = _read_state(path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [str(error)]
        raise ModelError(f"{path} does not fit {type(module).__name__}: {lines[0][:300]}") from error


def _read_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ModelError(f"{path} is no file here{nearest_file(path)}; --weights takes the file of a state_dict, or "
                         "DEFAULT")
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
