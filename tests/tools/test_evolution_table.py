"""The table of kept runs of a comparison of searches."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from scripts import script

ROOT = Path(__file__).resolve().parents[2]
KEPT = [ROOT / "docs" / "data" / f"evolve-{name}.json" for name in ("pays", "cifar10")]


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_the_page_shows_the_table_of_the_runs_that_are_kept(kept, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evolution_table.py", str(kept)])
    script("evolution_table").main()
    shown = capsys.readouterr().out.replace("|  |", "| |").replace("|  |", "| |")
    page = (ROOT / "docs" / "evolve-results.md").read_text()
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) > 2 and all(row in page for row in rows)


def test_what_is_kept_of_a_folder_makes_the_same_table(tmp_path, monkeypatch, capsys):
    runs = json.loads(KEPT[0].read_text())
    (tmp_path / "runs").mkdir()
    for i, run in enumerate(run for run in runs if "curve" in run):
        rows = [{"flops": run["flops"] * at, "test_accuracy": right, "val_accuracy": val} for at, right, val in run["curve"]]
        (tmp_path / "runs" / f"{i:02}.json").write_text(json.dumps({**run, "rows": rows}))
    shown = []
    for words in ([str(KEPT[0])], ["--keep", str(tmp_path), "-o", str(tmp_path / "kept.json")]):
        monkeypatch.setattr(sys, "argv", ["evolution_table.py", *words])
        script("evolution_table").main()
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and len(json.loads((tmp_path / "kept.json").read_text())) == len(runs)
