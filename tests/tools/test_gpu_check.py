"""tools/gpu_check.py: what it checks holds on a CPU too, and a check that fails is told."""
import time

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
    assert found
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
