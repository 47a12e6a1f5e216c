"""A run that is stopped anywhere and resumed ends with the numbers of one that was not."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from training import Tied, assert_same, clusters, perceptron, trainer

import fxgrow
from fxgrow.errors import ArchiveError
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import Interrupted, TrainConfig, Trainer, Watcher, checkpoint

TWO = ("step=7 lr=ratio freeze=6: widen factor=2 method=r2r", "step=16 lr=parts new=2 old=0.5 decay=parts decay_new=3: "
       "widen factor=1.5 method=net2net + deepen where=4 method=netmorph")


class Stop(Watcher):
    """Raises behind a step, as a crash does: nothing more is written."""

    def __init__(self, step: int):
        self.step = step

    def stepped(self, trainer, loss):
        if trainer.step == self.step:
            raise RuntimeError("pulled the plug")


class Shifted(Dataset):
    """Draws from torch's generator: an augmentation."""
    random = True

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return x + 0.1 * torch.randn(x.shape), int(y)


def crashed(tmp_path, step: int, *grow, **settings):
    with pytest.raises(RuntimeError, match="pulled"):
        trainer(*grow, out=tmp_path / "run", watchers=[Stop(step)], **settings).fit()


# --- going on ----------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
                                      {"momentum": 0.0, "clip": 0.5, "precision": "bf16"}], ids=["sgd", "adamw", "plain"])
def test_stopped_before_between_and_behind_growths_and_while_frozen(tmp_path, settings):
    decay = {"weight_decay": 0.01}
    whole = trainer(*TWO, checkpoint_every=3, eval_every=4, **decay | settings)
    whole.fit()
    # checkpoints at 0, 9 (frozen, in the middle of an epoch), 12, 18, 27
    for step in (2, 10, 14, 20, 29) if settings == {} else (10, 20):
        crashed(tmp_path / str(step), step, *TWO, checkpoint_every=3, eval_every=4, **decay | settings)
        again = Trainer.resume(tmp_path / str(step) / "run", clusters())
        assert again.step == step // 3 * 3
        again.fit()
        assert_same(whole, again)
        lines = (tmp_path / str(step) / "run" / "history.jsonl").read_text().splitlines()
        assert len(lines) == len(whole.history.rows)


def test_stopped_at_the_step_at_which_old_numbers_thaw(tmp_path):
    whole = trainer(TWO[0], checkpoint_every=13)
    whole.fit()
    crashed(tmp_path, 15, TWO[0], checkpoint_every=13)
    again = Trainer.resume(tmp_path / "run", clusters())
    assert again.step == 13
    again.fit()
    assert_same(whole, again)


def test_resumed_twice(tmp_path):
    whole = trainer(*TWO, checkpoint_every=2, out=tmp_path / "whole")
    whole.fit()
    crashed(tmp_path, 9, *TWO, checkpoint_every=2)
    with pytest.raises(RuntimeError, match="pulled"):
        Trainer.resume(tmp_path / "run", clusters(), watchers=[Stop(18)]).fit()
    again = Trainer.resume(tmp_path / "run", clusters())
    again.fit()
    assert_same(whole, again)
    assert (tmp_path / "run" / "model.pt").read_bytes() == (tmp_path / "whole" / "model.pt").read_bytes()


def test_tied_weights_and_an_adaptive_growth(tmp_path):
    grow = ("plateau=2 min_delta=10: widen by=4 method=netmorph", "slope=1: widen by=2 method=netmorph")
    torch.manual_seed(0)
    whole = trainer(*grow, model=Tied(), eval_every=3, steps=40)
    whole.fit()
    assert whole.fired == [0, 1]
    torch.manual_seed(0)
    crashed(tmp_path, 11, *grow, model=Tied(), eval_every=3, steps=40)
    again = Trainer.resume(tmp_path / "run", clusters())
    assert again.fired == [0]
    again.fit()
    assert_same(whole, again)
    assert again.model.a.weight is again.model.b.weight


def test_augmented_data_and_workers(tmp_path):
    def data():
        found = clusters()
        found.train = Shifted(found.train)
        return found

    whole = trainer(*TWO, data=data(), checkpoint_every=4)
    whole.fit()
    crashed(tmp_path, 13, *TWO, data=data(), checkpoint_every=4)
    config = TrainConfig.of({**checkpoint.checkpoint_settings(tmp_path / "run" / checkpoint.CHECKPOINT_NAME), "workers": 1})
    again = Trainer.resume(tmp_path / "run", data(), config=config)
    again.fit()
    assert_same(whole, again)


def test_a_finished_run_resumes_to_its_end(tmp_path):
    done = trainer(TWO[0], out=tmp_path / "run")
    done.fit()
    again = Trainer.resume(tmp_path / "run", clusters())
    rows = len(again.history.rows)
    again.fit()
    assert len(again.history.rows) == rows
    assert_same(done, again)


def test_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(sys.modules["training"].__file__)!r})
        import torch
        from training import clusters, perceptron, trainer
        torch.set_num_threads(1)
        trainer(*{TWO!r}, out={str(tmp_path / "run")!r}, checkpoint_every=1, steps=3000).fit()
        """))
    process = subprocess.Popen([sys.executable, str(script)])
    end = time.monotonic() + 300
    while process.poll() is None and not _reached(tmp_path / "run", 20) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    again = Trainer.resume(tmp_path / "run", clusters())
    assert 20 <= again.step < 3000 and again.fired == [0, 1]
    again.total = 0  # no more steps: compare what was kept
    whole = trainer(*TWO, checkpoint_every=1, steps=3000, watchers=[Stop(again.step)])
    with pytest.raises(RuntimeError, match="pulled"):
        whole.fit()
    kept, again = again, Trainer.resume(tmp_path / "run", clusters(), watchers=[Stop(again.step)])
    with pytest.raises(RuntimeError, match="pulled"):
        again.fit()
    assert_same(whole, again)
    assert kept.step == again.step


def _reached(folder, step: int) -> bool:
    try:
        return checkpoint.read(folder / checkpoint.CHECKPOINT_NAME)[2]["step"] >= step
    except ArchiveError:
        return False


def test_asked_to_stop(tmp_path):
    class Ask(Watcher):
        def stepped(self, trainer, loss):
            if trainer.step == 12:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="at step 13 of 30; go on from step 13 with fxgrow train --resume .*run"):
        trainer(*TWO, out=tmp_path / "run", watchers=[Ask()]).fit()
    assert signal.getsignal(signal.SIGINT) is before
    again = Trainer.resume(tmp_path / "run", clusters())
    assert again.step == 13
    again.fit()
    whole = trainer(*TWO)
    whole.fit()
    assert_same(whole, again)


# --- the file ----------------------------------------


def test_random_states_come_back():
    checkpoint.seed_all(3)
    tensors, state = checkpoint.random_states()
    drawn = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1)
    checkpoint.set_random_states(tensors, state)
    again = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1)
    assert torch.equal(drawn[0], again[0]) and (drawn[1] == again[1]).all() and drawn[2:] == again[2:]


def test_damaged_missing_and_foreign_files(tmp_path):
    trainer(out=tmp_path / "run", steps=10).fit()
    file = tmp_path / "run" / checkpoint.CHECKPOINT_NAME
    whole = file.read_bytes()
    for content in (whole[:-30], whole[:200], b"", b"PK" + whole[2:60], whole.replace(b"safetensors", b"safetansors")):
        file.write_bytes(content)
        with pytest.raises(ArchiveError):
            checkpoint.read(file)
    middle = whole.index(b"PK", 4) + 3000
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])
    with pytest.raises(ArchiveError):
        checkpoint.read(file)
    with pytest.raises(ArchiveError, match="there is no checkpoint"):
        checkpoint.read(tmp_path / "nowhere.zip")


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    class Fill(Watcher):
        def stepped(self, trainer, loss):
            if trainer.step == 15:
                monkeypatch.setattr("os.fsync", full)

    with pytest.raises(ArchiveError, match="No space left on device; free space there; go on from step 10 with fxgrow train "
                                           "--resume .*run"):
        trainer(*TWO, out=tmp_path / "run", watchers=[Fill()]).fit()
    monkeypatch.undo()
    again = Trainer.resume(tmp_path / "run", clusters())
    assert again.step == 10
    assert not [p for p in os.listdir(tmp_path / "run") if p.endswith(".part")]


def test_tensorboard_s_files_cannot_be_written(tmp_path, monkeypatch, capfd):
    """Its writer fails in a thread of its own."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*args):
        raise OSError(28, "No space left on device")

    class Fill(Watcher):
        def stepped(self, trainer, loss):
            if trainer.step == 15:
                monkeypatch.setattr(RecordWriter, "write", full)

    hook = threading.excepthook
    with pytest.raises(ArchiveError, match="tensorboard: No space left on device; free space there; go on from step 10 "):
        trainer(*TWO, out=tmp_path / "run", watchers=[Fill()], tensorboard=True).fit()
    assert "Traceback" not in capfd.readouterr().err and threading.excepthook is hook
    monkeypatch.undo()
    again, whole = Trainer.resume(tmp_path / "run", clusters()), trainer(*TWO)
    for run in (again, whole):
        run.fit()
    assert_same(whole, again)


def test_no_room_for_temporary_files(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ArchiveError, match="no folder for temporary files .*No space left on device; free space there"):
        trainer(out=tmp_path / "run").fit()


def test_a_loss_that_is_not_finite(tmp_path):
    run = trainer(out=tmp_path / "run", lr=1e38, momentum=0, schedule="constant", steps=200, model=torch.nn.Linear(6, 3))
    with pytest.raises(TrainError, match=r"loss is (nan|inf) at step \d+.*lower lr.*--resume"):
        run.fit()
    model, _, state = checkpoint.read(tmp_path / "run" / checkpoint.CHECKPOINT_NAME)
    assert all(t.isfinite().all() for t in model.state_dict().values())


class Fails(Shifted):
    """Ends its worker, or raises where there is none, at one sample."""
    end = staticmethod(lambda: os._exit(1))

    def __getitem__(self, index):
        if index == 17:
            if torch.utils.data.get_worker_info() is not None:
                self.end()
            raise ValueError("sample 17 is torn")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers, said", [(0, "sample 17 is torn"), (1, "a worker failed: ")])
def test_data_that_cannot_be_had(tmp_path, workers, said):
    data = clusters()
    data.train = Fails(data.train)
    with pytest.raises(TrainError, match=rf"the data of step \d cannot be had: .*{said}.*--resume"):
        trainer(out=tmp_path / "run", data=data, workers=workers, checkpoint_every=1).fit()
    assert checkpoint.read(tmp_path / "run" / checkpoint.CHECKPOINT_NAME)[2]["step"] < 10


def test_a_worker_that_is_killed(tmp_path):
    def data(dataset):
        found = clusters()
        found.train = dataset(found.train)
        return found

    torn = data(Fails)
    torn.train.end = lambda: os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(TrainError, match=r"a worker failed: DataLoader worker .*; go on from step \d+ with fxgrow train"):
        trainer(out=tmp_path / "run", data=torn, workers=2, checkpoint_every=1, steps=10).fit()
    again, whole = Trainer.resume(tmp_path / "run", data(Shifted)), trainer(data=data(Shifted), checkpoint_every=1, steps=10)
    assert again.step < 10
    for run in (again, whole):
        run.fit()
    assert_same(whole, again)


def test_other_data_and_a_folder_with_a_run(tmp_path):
    trainer(out=tmp_path / "run", steps=10).fit()
    with pytest.raises(TrainError, match="other data"):
        Trainer.resume(tmp_path / "run", clusters(train=44))
    with pytest.raises(TrainError, match="holds a run already"):
        trainer(out=tmp_path / "run", steps=10).fit()


def test_the_trained_model_has_its_whole_record(tmp_path):
    small = perceptron()
    run = trainer(*TWO[:1], "step=20: widen by=2 method=netmorph", model=small, out=tmp_path / "run")
    run.fit()
    loaded = fxgrow.load(tmp_path / "run" / "model.pt")
    record = loaded.meta["growth"]["record"]
    assert [step["pass"] for step in record.lineage] == ["widen", "widen"]
    shrunk = record.shrink(loaded)
    assert [p.shape for p in shrunk.parameters()] == [p.shape for p in small.parameters()]


def test_what_a_kill_left_of_a_file_is_cleared_away(tmp_path):
    trainer(out=tmp_path).fit()
    torn, own = tmp_path / ".history.jsonl.4cfd23560680.part", tmp_path / ".notes.part"
    for file in (torn, own):
        file.write_text("{")
    Trainer.resume(tmp_path, clusters()).fit()
    assert own.exists() and not torn.exists()
