"""A run that is killed and gone on from, beside one that is not; for scripts, each a process of its own."""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def kill_at(wanted: int | None, step: int) -> None:
    """End the process as a power cut does, at one step."""
    if wanted is not None and wanted == step:
        os.kill(os.getpid(), signal.SIGKILL)


def compare(run: Callable[[Path, int | None], list[Tensor]], kill: int) -> None:
    """Run in the folder that the script is given until killed, go on there, and run in another one to the end."""
    folder = Path(sys.argv[1])
    child = os.fork()
    if not child:
        run(folder / "killed", kill)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    resumed, whole = run(folder / "killed", None), run(folder / "whole", None)
    assert all(map(torch.equal, resumed, whole)) and len(resumed) == len(whole)
    print("the same numbers")
