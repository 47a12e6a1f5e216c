"""Growth inside Lightning, transformers' Trainer and accelerate: killed, and gone on from to the same numbers."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE, HELPERS = Path(__file__).parent, Path(__file__).parents[2] / "helpers"


@pytest.mark.parametrize("command, package", [
    ("lightning_run.py lightning.pytorch", "lightning"),
    pytest.param("lightning_run.py pytorch_lightning", "pytorch_lightning", marks=pytest.mark.sweep),
    ("transformers_run.py", "accelerate"), ("accelerate_run.py", "accelerate")])
def test_a_run_goes_on_to_the_same_numbers_when_it_was_killed(command, package, tmp_path):
    pytest.importorskip(package)
    script, *words = command.split()
    done = subprocess.run([sys.executable, HERE / script, tmp_path, *words], text=True, capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"}, cwd=tmp_path)
    assert done.returncode == 0 and "the same numbers" in done.stdout, done.stderr[-3000:]
