"""tools/gpu_check.py: what it checks holds on a CPU too, and a check that fails is told."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from scripts import script

gpu_check = script("gpu_check")


@pytest.fixture
def setting():
    return gpu_check.Setting(torch.device("cpu"), True, time.monotonic() + 300)


@pytest.mark.parametrize("name", ["steps", "throughput", pytest.param("growth", marks=pytest.mark.sweep),
                                  pytest.param("training", marks=pytest.mark.sweep),
                                  pytest.param("pays", marks=pytest.mark.sweep),
                                  pytest.param("images", marks=pytest.mark.sweep)])
def test_each_check_quickly(name, setting):
    found = gpu_check.CHECKS[name](setting)
    assert found and not setting.failed
    if name == "pays":
        small, large, grown = (found[key] for key in ("small", "large", "grown"))
        assert small["parameters"] < large["parameters"] == grown["parameters"]
        assert small["rows"][-1]["flops"] < grown["rows"][-1]["flops"] < large["rows"][-1]["flops"]


def test_a_check_that_fails_is_told_and_time_is_kept(setting, monkeypatch):
    def fails(setting):
        setting.until = 0
        raise ValueError("no such kernel")

    monkeypatch.setattr(gpu_check, "CHECKS", {"first": fails, "second": gpu_check.steps})
    report = gpu_check.run(setting)
    assert report["failed"] == ["first"] and report["first"]["error"] == "ValueError: no such kernel"
    assert report["second"] == "no time was left" and report["about"]["device"] == "cpu"


def test_a_part_that_fails_does_not_take_the_others_along(setting):
    found = {}
    setting.tried(found, "first", lambda: 1 / 0)
    setting.tried(found, "second", lambda: 2)
    assert found["first"]["error"].startswith("ZeroDivisionError") and found["second"] == 2 and setting.failed == ["first"]


@pytest.mark.sweep
def test_what_hangs_ends_when_time_is_up(tmp_path):
    code = ("import sys, time, torch; from pathlib import Path; from scripts import script; g = script('gpu_check'); "
            "g.CHECKS = {'fine': lambda setting: {'x': 1}, 'hangs': lambda setting: time.sleep(100)}; "
            "g.run(g.Setting(torch.device('cpu'), True, time.monotonic() + 1), Path(sys.argv[1]))")
    helpers = str(Path(__file__).parents[1] / "helpers")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.json"], env={**os.environ, "PYTHONPATH": helpers},
                          timeout=90)
    report = json.loads((tmp_path / "x.json").read_text())
    assert done.returncode == 1 and report["fine"]["x"] == 1 and report["hangs"] == "not done when time was up"
