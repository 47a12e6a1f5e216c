"""tools/bench_growth.py: a row for each thing that is measured, a column for each size."""
from scripts import script

bench_growth = script("bench_growth")


def test_the_table_has_a_row_for_each_work(monkeypatch):
    monkeypatch.setattr(bench_growth.gc, "collect", lambda: 0)  # slow among all that the tests hold
    head, line, *rows = bench_growth.table([24, 32]).splitlines()
    assert head == "| nodes | 24 | 32 |" and line == "| --- | ---: | ---: |"
    names = "capture", "axes", "transform", "deepen", "grow_into", "count_flops", "draw", "save", "load"
    assert tuple(row.split("`")[1] for row in rows) == names
    assert all(float(cell) >= 0 for row in rows for cell in row.split("|")[2:4])


def test_a_graph_has_as_many_nodes_as_are_asked_for():
    gm = bench_growth.fxgrow.capture(bench_growth.network(10), bench_growth.X)
    assert len(gm.graph.nodes) == 40 + 4
