"""tools/bench_results.py: a network stands beside its class with the same layers."""
from scripts import script

bench_results = script("bench_results")


def test_a_grown_network_and_its_class_are_measured(monkeypatch):
    monkeypatch.setattr(bench_results, "ROUNDS", 1)
    head, line, row = bench_results.table(["resnet18"], 64, ("eager",), last=True)
    assert head == "| network | eager, forward | eager, and backward |" and line == "| --- | ---: | ---: |"
    assert row.startswith("| `resnet18` | ") and row.count(" ms)") == 2


def test_both_have_the_same_tensors_and_another_code():
    grown, stock, x = bench_results.both("resnet18", 32)
    assert {id(p) for p in grown.parameters()} == {id(p) for p in stock.parameters()}
    assert type(stock).__name__ == "ResNet" and stock.conv1.out_channels == 80 and not hasattr(stock, "graph")
