"""Two processes that train one network: what one process would get, and what goes on when one of them was lost."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from processes import on_two
from torch import nn
from training import clusters, plain, trainer

from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import Trainer, Watcher

FREEZE = "step=11 freeze=5: widen by=4"
GROW = ("step=5 lr=ratio: widen where=0 by=4", "slope=1 window=1: deepen where=0")


def numbers(run):
    return torch.cat([t.detach().flatten().double() for t in run.model.state_dict().values()]).tolist()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Lost(Watcher):
    """Kills the second process behind some step."""

    def __init__(self, rank):
        self.rank = rank

    def stepped(self, trainer, loss):
        if self.rank == 1 and trainer.step == 13:
            os.kill(os.getpid(), signal.SIGKILL)


SHORT = {"steps": 20, "clip": 1.0, "eval_every": 4}


def together(folder, rank):
    run = trainer(*GROW, model=network(rank), out=folder / "two", **SHORT)  # the weights of rank 0 count
    run.fit()
    return numbers(run), plain(run.history.rows), run.fired


def test_two_processes_get_what_one_does(tmp_path):
    alone = trainer(*GROW, model=network(), **SHORT)
    alone.fit()
    one, two = on_two(partial(together, tmp_path), tmp_path, 120)
    assert one == two and one[2] == alone.fired == [0, 1]
    assert torch.allclose(torch.tensor(one[0]), torch.tensor(numbers(alone)), rtol=1e-4, atol=1e-6)
    for row, expected in zip(one[1], plain(alone.history.rows), strict=True):
        exact = {"step", "samples", "parameters", "event", "val_accuracy", "lr"}
        assert {k: row[k] for k in exact} == {k: expected[k] for k in exact}
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-4)
        assert row["train_loss"] is None or row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)


def cut_off(folder, rank):
    whole = trainer(FREEZE)  # with batch norm and dropout, whose masks each process draws
    whole.fit()
    half = trainer(FREEZE, out=folder / "run", checkpoint_every=4, watchers=[Lost(rank)])
    try:
        half.fit()
    except TrainError as error:
        return numbers(whole), str(error)


def go_on(folder, rank):
    again = Trainer.resume(folder / "run", clusters())
    step = again.step
    again.fit()
    return numbers(again), step


def test_when_one_is_lost_the_last_checkpoint_goes_on_to_the_same_numbers(tmp_path):
    (expected, told), lost = on_two(partial(cut_off, tmp_path), tmp_path, 120)
    assert lost is None and "another process may have ended" in told and "go on from step 12 with" in told
    (tmp_path / "store").unlink()
    one, two = on_two(partial(go_on, tmp_path), tmp_path, 120)
    assert one == two == (expected, 12)


def refused(folder, rank):
    said = []
    for settings in ({"out": folder}, {"batch_size": 5}):
        try:
            trainer(steps=2, **settings).fit()
        except TrainError as error:
            said.append(str(error))
    return said


def test_what_the_first_refuses_all_refuse(tmp_path):
    (tmp_path / "checkpoint.zip").write_bytes(b"")
    one, two = on_two(partial(refused, tmp_path), tmp_path, 120)
    assert one == two and "holds a run already" in one[0] and "share a batch of 5" in one[1]


@pytest.mark.sweep
def test_the_command_goes_on_when_a_process_was_killed(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["-m", "fxgrow", "train"]
    words = ["zoo:mlp:hidden=(16,)", "--data", "digits", "--steps", "600", "--eval-every", "50",
             "--grow", "step=20: widen factor=2", "-o", "run"]
    first = subprocess.Popen([*torchrun, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in first.stdout:
        if line.split()[:2] == ["step", "100"]:
            children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first.pid)], text=True, capture_output=True)
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
            break
    assert first.communicate(timeout=300) and first.returncode
    second = subprocess.run([*torchrun, "--resume", "run", "--json"], cwd=tmp_path, text=True, capture_output=True,
                            timeout=300)
    assert second.returncode == 0, second.stderr[-2000:]
    report = json.loads(second.stdout)
    assert report["steps"] == 600 and len(report["growths"]) == 1 and report["test"]["accuracy"] > 0.8
