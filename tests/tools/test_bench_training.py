"""The benchmark of the trainer measures what it says."""
from scripts import script

bench = script("bench_training")


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
