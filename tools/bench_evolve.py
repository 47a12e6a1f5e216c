"""How many candidates a second a search makes without training: picked, mutated, compared with their parent, and counted.

    python tools/bench_evolve.py [--model zoo:cifar_resnet18] [--count 40]

On one thread; the time of each part is told beside the whole.
"""
from __future__ import annotations

import argparse
import random
import statistics
import time

import torch

import fxgrow
from fxgrow._models import load_model
from fxgrow.experiments.evolve.mutation import Limits, Parent, default_mutations, mutate


def main() -> None:
    parser = argparse.ArgumentParser(description="Candidates a second, without training.")
    parser.add_argument("--model", default="zoo:cifar_resnet18")
    parser.add_argument("--count", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, inputs = load_model(arguments.model)
    x = torch.cat([inputs[0], inputs[0].flip(-1)])
    parent, rng = Parent(0, fxgrow.capture(model, x), x), random.Random(0)
    mutate([parent], default_mutations(), rng, Limits())  # what is known of the parent is worked out once
    known: set[str] = set()
    times, steps, refused = [], [], 0
    began = time.perf_counter()
    for _ in range(arguments.count):
        start = time.perf_counter()
        child, discarded = mutate([parent], default_mutations(), rng, Limits(), known)
        times.append(time.perf_counter() - start)
        refused += len(discarded)
        if child is not None:
            known.add(child.graph)
            steps.append(child.step["pass"])
    whole = time.perf_counter() - began
    print(f"{arguments.model}: {len(steps)} candidates in {whole:.2f} s, {len(steps) / whole:.1f} a second; the median "
          f"takes {1000 * statistics.median(times):.0f} ms; {refused} mutations discarded on the way")
    print("passes: " + ", ".join(f"{name} {steps.count(name)}" for name in sorted(set(steps))))


if __name__ == "__main__":
    main()
