"""Grows small random networks of many packages and tells how exact that is: docs/coverage.md, from docs/coverage.jsonl.

    python tools/coverage                          every network that has no line yet, then the page
    python tools/coverage timm vit-pytorch         the networks of these packages
    python tools/coverage timm:test_vit --again    one network anew, though it has a line
    python tools/coverage --again crash,wrong      all that came out so, anew
    python tools/coverage --page                   the page alone, from the lines

What is in the table of a package (tools/coverage/networks/) is built with few channels and layers, its weights and running
statistics are drawn in float64, and it is captured, widened to twice its size, deepened, saved and loaded, and compared with
itself before on inputs of other values and other sizes, in eval and train mode. Each network has a process of its own, which
is ended when it takes too long (--seconds, beside its own forwards) or too much memory (--gigabytes). Interrupt it at any
time: each result is a line of the file, and what has one is passed over next time. A package that is not installed is
passed over (extra `coverage`).
"""
import argparse
import contextlib
import importlib
import json
import multiprocessing
import resource
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from measuring import Network, measure
from page import verdict, written

FORWARDS = 60  # of the network, which comparing it takes: itself and the grown one, on several inputs, in three modes
PATIENCE = 20  # how much longer than its processor time a step may last, on a machine that does other things
DOCS = Path(__file__).resolve().parents[2] / "docs"
PACKAGES = {"torchvision": "of_torchvision", "timm": "of_timm", "transformers": "of_transformers",
            "segmentation-models-pytorch": "of_smp", "ultralytics": "of_ultralytics", "monai": "of_monai",
            "diffusers": "of_diffusers", "open_clip": "of_open_clip", "torchaudio": "of_torchaudio",
            "vit-pytorch": "of_vit_pytorch", "x-transformers": "of_x_transformers", "torch_geometric": "of_torch_geometric"}


def networks(package: str) -> dict[str, Network]:
    """Return the table of a package, empty where that is not installed."""
    try:
        return importlib.import_module(f"networks.{PACKAGES[package]}").NETWORKS
    except ImportError as missing:
        print(f"{package} is passed over: {missing}", file=sys.stderr)
        return {}


def alone(network: Network, answer: Connection, seconds: int, gigabytes: float) -> None:
    """Measure a network in this process, which has so much memory, and processor time beside that of `FORWARDS`."""
    def say(row: dict) -> None:
        allowed = int(seconds + FORWARDS * row.get("forward", 0)) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
        answer.send(row)

    say({})
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2 ** 30),) * 2)
    warnings.simplefilter("ignore")
    with contextlib.suppress(MemoryError):
        measure(network, say)


def measured(network: Network, seconds: int, gigabytes: float) -> dict:
    """Measure a network in a process of its own; what it said until it was ended is kept."""
    listen, answer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=alone, args=(network, answer, seconds, gigabytes))
    process.start()
    answer.close()
    found: dict = {}
    try:
        while listen.poll(PATIENCE * seconds):
            found = listen.recv()
    except EOFError:
        pass
    process.kill()
    process.join()
    doing = found.pop("doing", "built")
    return found if found.pop("done", False) else found | {"ended": f"it was ended while it was {doing}"}


class Lines:
    """The results, one line of JSON each, in the order of the packages."""

    def __init__(self, file: Path):
        known = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
        self.file, self.rows = file, {(row["package"], row["network"]): row for row in known}

    def lacks(self, package: str, name: str, again: str | None) -> bool:
        """Tell whether a network is to be measured: one without a line, or with one of the verdicts to take `again`."""
        row = self.rows.get((package, name))
        return row is None or again == "" or (again is not None and verdict(row) in again.split(","))

    def write(self, row: dict) -> None:
        """Keep a result."""
        self.rows[row["package"], row["network"]] = row
        order = list(PACKAGES)
        self.rows = dict(sorted(self.rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1].lower())))
        self.file.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PACKAGE[:NETWORK]", help=f"of {', '.join(PACKAGES)}; none: all")
    parser.add_argument("--again", nargs="?", const="", metavar="VERDICTS", help="measure anew what has a line [of these]")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--seconds", type=int, default=60, help="of processor time for each, beside its forwards (60)")
    parser.add_argument("--gigabytes", type=float, default=6, help="of memory for each network (6)")
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of coverage.md and coverage.jsonl (docs)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = Lines(given.out / "coverage.jsonl")
    asked = [name.partition(":")[::2] for name in given.names] or [(package, "") for package in PACKAGES]
    for package, only in [] if given.page else asked:
        for name, network in networks(package).items():
            if (not only or name == only) and lines.lacks(package, name, given.again):
                row = {"package": package, "network": name, **measured(network, given.seconds, given.gigabytes)}
                lines.write(row)
                print(f"{package}:{name}", verdict(row), row.get("growth", ""), row.get("reason", "")[:150], flush=True)
    (given.out / "coverage.md").write_text(written(list(lines.rows.values())))


if __name__ == "__main__":
    main()
