"""tools/compare_counts.py: every small model is counted as by hand, both passes, and the table says who is wrong."""
import sys

import pytest
from scripts import TOOLS, script


@pytest.fixture
def compare_counts(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    yield script("compare_counts")
    sys.modules.pop("flop_cases", None)


def test_all_cases_are_counted_as_by_hand(compare_counts):
    wrong = [f"{case.name}: {found}" for case in compare_counts.CASES
             if (found := compare_counts.counted(case, compare_counts.ours)) != (case.forward, case.backward)]
    assert not wrong and len(compare_counts.CASES) >= 85


def test_the_table_tells_who_is_wrong(compare_counts, capsys):
    assert compare_counts.main(["depthwise and pointwise"]) == 0
    head, _, row, last = capsys.readouterr().out.splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.strip("| ").split("|")] for line in (head, row))))
    assert cells["fxgrow"] == "right" and cells["FlopCounterMode"] == "right / 32,256"
    assert "right of 1" in last
