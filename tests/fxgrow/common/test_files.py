"""Files appear whole or not at all."""
from __future__ import annotations

import os
import stat

import pytest

from fxgrow.common import atomic_write


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
