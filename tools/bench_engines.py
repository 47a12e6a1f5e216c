"""How long one search takes with each engine: serial, a pool of processes, a Ray cluster on this machine.

    python tools/bench_engines.py                    2 workers, 3 rounds of measurement
    python tools/bench_engines.py --workers 4 --repeat 5 --steps 800

A search of one round: the base network is trained briefly, then `--children` children and it for `--steps` steps in all.
Seconds are medians, the engines taking turns; the start of an engine (its first task on each worker, so that torch is
imported there) is shown by itself. All that the searches find must be equal, seconds aside.
"""
import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from fxgrow.experiments.evolve import Engine, SearchConfig, engine, search


def warm(running: Engine, config: SearchConfig, folder: Path) -> None:
    """Run a search that does next to nothing, on all workers."""
    tiny = dataclasses.replace(config, first_steps=1, steps=1, children=2 * running.workers)
    search(tiny, folder, engine=running)


def facts(found) -> list:
    return sorted((dataclasses.replace(s, seconds=0.0) for s in found.evaluations), key=lambda s: (s.round, s.number))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("workers", 2), ("repeat", 3), ("children", 5), ("steps", 600)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--model", default="zoo:residual3")
    given = parser.parse_args()
    config = SearchConfig(model=given.model, data="digits", first_steps=10, rounds=1, keep=1, children=given.children,
                          steps=given.steps, final_steps=0, train={"batch_size": 64, "lr": 0.02})
    kinds = {"serial": 1, "processes": given.workers, "ray": given.workers}
    starts, times = defaultdict(list), defaultdict(list)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(given.repeat):
            for name, workers in kinds.items():
                began = time.perf_counter()
                with engine(name, workers) as running:
                    warm(running, config, Path(folder) / f"{turn}-{name}-warm")
                    ready = time.perf_counter()
                    results.append(facts(search(config, Path(folder) / f"{turn}-{name}", engine=running)))
                    times[name].append(time.perf_counter() - ready)
                    starts[name].append(ready - began)
    headings = (Column(heading, justify="right") for heading in ("engine", "start, s", "search, s", "speed-up"))
    table = Table(*headings, title=f"{given.model}: {len(results[0])} trainings, {given.workers} workers, "
                  f"{os.cpu_count()} CPUs, load {os.getloadavg()[1]:.1f}")
    alone = statistics.median(times["serial"])
    for name in kinds:
        taken = statistics.median(times[name])
        table.add_row(name, f"{statistics.median(starts[name]):.1f}", f"{taken:.1f}", f"{alone / taken:.2f}")
    Console().print(table)
    same = all(each == results[0] for each in results)
    print("all results are equal" if same else "RESULTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
