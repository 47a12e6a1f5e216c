"""Growth inside Lightning, transformers' Trainer and accelerate: killed, and gone on from to the same numbers."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fxgrow.errors import TrainError

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
    if script == "lightning_run.py":
        assert "of before the first growth" in done.stdout and "StochasticWeightAveraging averages" in done.stdout
        assert "both 10 12 True" in done.stdout


@pytest.fixture
def small():
    """A tiny GPT-2 that keeps no activations, in train mode, and its optimizer."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_inner=16, bos_token_id=0,
                                     eos_token_id=0, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0, use_cache=False)
    model = transformers.GPT2LMHeadModel(config).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_model_that_keeps_no_activations_keeps_none_when_it_has_grown(small):
    from fxgrow.integrations.prepared import InPlaceGrower
    model, optimizer = small
    ids = torch.arange(8)[None]
    grow = [f"step={step}: deepen where=transformer.h.0" for step in (1, 2)]
    grower = InPlaceGrower(model, optimizer, grow, {"input_ids": ids})
    for step in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        grower.step(step)
    assert [layer.gradient_checkpointing for layer in model.transformer.h] == [True] * 3
    assert model.transformer.wte(ids).requires_grad and len(model.transformer.wte._forward_hooks) == 1


def test_what_a_trainer_logs_is_the_loss_of_auto_and_the_best_begins_anew_behind_a_growth(small):
    from fxgrow.integrations.transformers import Growth
    model, optimizer = small
    objects = {"model": model, "optimizer": optimizer}
    args = SimpleNamespace(logging_strategy="steps", fsdp=None, deepspeed=None)
    state = SimpleNamespace(max_steps=300, num_train_epochs=1, logging_steps=10, global_step=0, log_history=[],
                            stateful_callbacks={}, best_metric=1.0, best_model_checkpoint="checkpoint-1")
    with pytest.raises(TrainError, match="logging_steps=3"):
        Growth("auto").on_train_begin(args, state, None, **objects)
    with pytest.raises(TrainError, match="leave fsdp and deepspeed out"):
        Growth("auto").on_train_begin(SimpleNamespace(fsdp="full_shard"), state, None, **objects)
    state.logging_steps = 3
    growth = Growth(["step=2: deepen where=transformer.h.0", "auto: widen factor=2"], {"input_ids": torch.arange(8)[None]})
    growth.on_train_begin(args, state, None, **objects)
    for state.global_step in (1, 2):
        assert state.best_metric == 1.0 and not growth.grower.auto.losses
        growth.on_step_end(args, state, None)
    assert growth.grower.fired == [0] and state.best_metric is None and state.best_model_checkpoint is None
    growth.on_log(args, state, None, {"loss": 2.5})
    state.global_step = 3
    growth.on_step_end(args, state, None)
    assert growth.grower.auto.losses == [2.5]


@pytest.mark.sweep
def test_transformers_in_two_processes_grows_as_one_does(tmp_path):
    pytest.importorskip("accelerate")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([sys.executable, *torchrun, HERE / "transformers_ranks.py", tmp_path], text=True, timeout=300,
                          capture_output=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said = [line for line in done.stdout.splitlines() if "numbers" in line]
    assert done.returncode == 0 and said == ["the same numbers"] * 2, done.stderr[-3000:]


@pytest.mark.sweep
@pytest.mark.parametrize("strategy, said", [("ddp", 2), ("ddp_fork", 0)])
def test_lightning_in_two_processes_grows_as_one_does(strategy, said, tmp_path):
    pytest.importorskip("lightning")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if said else []
    done = subprocess.run([sys.executable, *torchrun, HERE / "lightning_ranks.py", strategy], text=True, capture_output=True,
                          timeout=300, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout.count("the same numbers") == said, done.stderr[-3000:]
    assert bool(said) == (done.returncode == 0) and ("use strategy='ddp'" in done.stderr) == (not said)
