"""Draws docs/img/report.png and evolve-report.png: pages that fxgrow writes, as Chromium shows them.

    python tools/make_report_picture.py [--out docs/img] [report] [evolve-report]
"""
import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
from demo import photographs, trained_network

import fxgrow
from fxgrow.experiments import evolve
from fxgrow.passes import Deepen, Widen

SETTINGS = {"model": "zoo:residual3:r=0.5", "data": "digits", "limit": 500, "first_steps": 40, "rounds": 6, "keep": 3,
            "children": 4, "steps": 140, "final_steps": 20, "train": {"batch_size": 32, "lr": 0.02}}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-sync")


def growth_page(page: Path) -> None:
    """Write the report of a pretrained network that was widened."""
    _, inputs = photographs()
    passes = [Widen("_conv_stem", factor=1.5, seed=0), Deepen("_blocks.2", seed=0)]
    grown = fxgrow.transform(trained_network(), inputs, passes)
    fxgrow.report(grown, inputs, page, title="EfficientNet-Lite0, wider and deeper")


def search_page(page: Path) -> None:
    """Write the page of a small search on handwritten digits."""
    torch.set_num_threads(1)
    evolve.search(evolve.SearchConfig.of(SETTINGS), page.parent / "run")
    evolve.report(page.parent / "run", page, title="A small search on digits")


PAGES = {"report": (growth_page, 1100), "evolve-report": (search_page, 1200)}  # what writes it, its width in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw pages that fxgrow writes as pictures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PAGES)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    arguments = parser.parse_args()
    for name in arguments.names or PAGES:
        write, width = PAGES[name]
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.html"
            write(page)
            options = [f"--user-data-dir={folder}/profile", f"--window-size={width},1500",
                       f"--screenshot={arguments.out.resolve() / name}.png"]
            subprocess.run(["chromium", *FLAGS, *options, page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
