"""How fast archives are saved and loaded, against safetensors' and torch's own files of the same numbers, in one run.

    python tools/bench_archives.py                 vgg11 (531 MB) and vit_b_16 (346 MB)
    python tools/bench_archives.py resnet152       some network

Seconds of CPU time, the least of three rounds taken in turns, each in a process of its own on one thread, which has saved
and loaded a small network before; the network is captured beforehand, and what is read is in the page cache. Archives alone
are flushed to the disk. The memory is what saving needs beside the network, and loading beside what it gives.
"""
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from rich.console import Console
from rich.table import Column, Table

import fxgrow

ROUNDS = 3
WORK = {"fxgrow save": fxgrow.save, "safetensors save": safetensors.torch.save_file, "torch save": torch.save,
        "fxgrow load": fxgrow.load, "torch load": torch.load}


def megabytes(tensors) -> float:
    return sum(t.nbytes for t in tensors) / 1e6


def resident(which: str) -> float:
    """Return the megabytes that Linux says this process holds (VmRSS), or held at most (VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition(f"{which}:")[2].split()[0]) * 1024 / 1e6


def once(what: str, name: str, folder: str) -> str:
    """Return the seconds that saving or loading takes in this process, and the megabytes beside the network."""
    kind, is_save = what.split()[0], what.endswith("save")
    for network in ("resnet18", name):
        file = f"{folder}/{kind}-{network}"
        given: tuple = (file,)
        if is_save:
            model = fxgrow.capture(torchvision.models.get_model(network, weights=None).eval(), torch.randn(1, 3, 224, 224))
            given = (model if kind == "fxgrow" else dict(model.state_dict()), file)
            Path(file).unlink(missing_ok=True)
        start, memory = time.process_time(), resident("VmHWM" if is_save else "VmRSS")
        made = WORK[what](*given)
        spent = time.process_time() - start
    if not is_save:
        memory += megabytes((made.state_dict() if kind == "fxgrow" else made).values())
    return f"{spent} {resident('VmHWM') - memory}"


def measure(name: str, folder: str) -> list[str]:
    """Return a row of the table."""
    best, memory = dict.fromkeys(WORK, float("inf")), dict.fromkeys(WORK, 0.0)
    for _ in range(ROUNDS):
        for what in WORK:
            done = subprocess.run([sys.executable, __file__, "--once", what, name, folder], check=True, capture_output=True,
                                  text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            spent, memory[what] = map(float, done.stdout.split())
            best[what] = min(best[what], spent)
    numbers = torchvision.models.get_model(name, weights=None).state_dict().values()
    saved, loaded = best["fxgrow save"], best["fxgrow load"]
    return [name, f"{megabytes(numbers):.0f}", f"{saved:.3f}", f"{saved / best['safetensors save']:.2f}",
            f"{saved / best['torch save']:.2f}", f"{loaded:.3f}", f"{loaded / best['torch load']:.2f}",
            f"{memory['fxgrow save']:.0f}", f"{memory['fxgrow load']:.0f}", f"{max(megabytes([t]) for t in numbers):.0f}"]


def main(names: list[str]) -> None:
    headings = ("network", "MB", "save", "of safetensors", "of torch.save", "load", "of torch.load", "MB to save", "to load",
                "largest tensor")
    table = Table(*(Column(heading, justify="right") for heading in headings), title="seconds for an archive")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            table.add_row(*measure(name, folder))
    Console(width=125).print(table)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--once"]:
        print(once(*sys.argv[2:]))
    else:
        main(sys.argv[1:] or ["vgg11", "vit_b_16"])
