"""Draws docs/img/report.png: the report of a pretrained network that was widened, as Chromium shows it.

    python tools/make_report_picture.py [--out docs/img/report.png]
"""
from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from demo import photographs, trained_network

import fxgrow
from fxgrow.passes import Deepen, Widen

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-sync")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the report of a widened EfficientNet-Lite0 as a picture.")
    parser.add_argument("--out", type=Path, default=Path("docs/img/report.png"))
    out = parser.parse_args().out.resolve()
    _, inputs = photographs()
    passes = [Widen("_conv_stem", factor=1.5, seed=0), Deepen("_blocks.2", seed=0)]
    grown = fxgrow.transform(trained_network(), inputs, passes)
    with tempfile.TemporaryDirectory() as folder:
        page = fxgrow.report(grown, inputs, Path(folder) / "report.html", title="EfficientNet-Lite0, wider and deeper")
        subprocess.run(["chromium", *FLAGS, f"--user-data-dir={folder}/profile", "--window-size=1100,1500",
                        f"--screenshot={out}", page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
