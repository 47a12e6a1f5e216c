"""The benchmark of the trainer measures what it says."""
import importlib.util
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "tools" / "bench_training.py"
SPEC = importlib.util.spec_from_file_location("bench_training", PATH)
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)


def test_each_case_is_measured_both_ways():
    for name, options, shape, _ in bench.CASES.values():
        assert bench.ours(name, options, shape, 2) > 0 and bench.bare(name, options, shape, 2) > 0
    assert bench.batches(count=128) > 0


def test_each_way_is_measured(monkeypatch):
    monkeypatch.setattr(bench, "CASES", {"tiny": ("mlp", {"hidden": (), "input_shape": (1, 8, 8)}, (1, 8, 8), 1.0)})
    monkeypatch.setattr(bench, "WAYS", {"--fused": bench.WAYS["--fused"]})
    monkeypatch.setattr(bench, "SEEDS", 2)
    found = bench.ways(2, 1)
    assert list(found) == ["", "--fused", "--seeds 2 --stacked, each"] and found[""]["tiny, share"] == 1.0
    assert all(row["tiny"] > 0 for row in found.values())
