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
    *(pytest.param(f"{name}_run.py", "accelerate", marks=pytest.mark.sweep) for name in ("transformers", "accelerate"))])
def test_a_run_goes_on_to_the_same_numbers_when_it_was_killed(command, package, tmp_path):
    pytest.importorskip(package)
    script, *words = command.split()
    done = subprocess.run([sys.executable, HERE / script, tmp_path, *words], text=True, capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"}, cwd=tmp_path)
    assert done.returncode == 0 and "the same numbers" in done.stdout, done.stderr[-3000:]


@pytest.mark.sweep
def test_transformers_in_two_processes_grows_as_one_does(tmp_path):
    pytest.importorskip("accelerate")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([sys.executable, *torchrun, HERE / "transformers_ranks.py", tmp_path], text=True, timeout=300,
                          capture_output=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [line for line in done.stdout.splitlines() if "numbers" in line]
    assert done.returncode == 0 and said == ["the same numbers"] * 2, done.stderr[-3000:]


@pytest.mark.sweep
@pytest.mark.parametrize("strategy, said", [("ddp", ["the same numbers"] * 2), ("ddp_fork", [])])
def test_lightning_in_two_processes_grows_as_one_does(strategy, said, tmp_path):
    pytest.importorskip("lightning")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if said else []
    done = subprocess.run([sys.executable, *torchrun, HERE / "lightning_ranks.py", strategy], text=True, capture_output=True,
                          timeout=300, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout.splitlines() == said, done.stderr[-3000:]
    assert bool(said) == (done.returncode == 0) and ("use strategy='ddp'" in done.stderr) == (not said)
