"""Draws docs/img/evolve-report.png: the page of a small search on handwritten digits, as Chromium shows it.

    python tools/make_evolve_report_picture.py [--out docs/img/evolve-report.png]
"""
from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
from make_report_picture import FLAGS

from fxgrow.experiments.evolve import SearchConfig, report, search

SETTINGS = {"model": "zoo:residual3:r=0.5", "data": "digits", "limit": 500, "first_steps": 40, "rounds": 6, "keep": 3,
            "children": 4, "steps": 140, "final_steps": 20, "train": {"batch_size": 32, "lr": 0.02}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the page of a small search as a picture.")
    parser.add_argument("--out", type=Path, default=Path("docs/img/evolve-report.png"))
    out = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        search(SearchConfig.of(SETTINGS), Path(folder) / "run")
        page = Path(folder) / "search.html"
        report(Path(folder) / "run", page, title="A small search on digits")
        subprocess.run(["chromium", *FLAGS, f"--user-data-dir={folder}/profile", "--window-size=1200,1500",
                        f"--screenshot={out}", page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
