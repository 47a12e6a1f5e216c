"""Files appear whole or not at all."""
from __future__ import annotations

import os
import signal
import stat
import time

import pytest

from fxgrow.common import atomic_write, held
from fxgrow.errors import TrainError


def test_atomic_write_keeps_links_permissions_and_other_errors(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with pytest.raises(RuntimeError, match="mine"), atomic_write(link) as file:
        file.write(b"half")
        raise RuntimeError("mine")
    assert real.read_text() == "old"
    with atomic_write(link) as file:
        file.write(b"new")
        assert real.read_text() == "old"
    assert real.read_text() == "new" and link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_folder_is_held_by_one_process_and_by_none_that_was_killed(tmp_path):
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        with held(tmp_path / "run"):
            os.write(tell, b"held")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(told, 4) == b"held"
        with pytest.raises(TrainError, match="another run is writing to .*run"), held(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with held(tmp_path / "run"), held(None):
        pass
