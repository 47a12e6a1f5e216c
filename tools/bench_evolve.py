"""What a search costs without training: candidates a second, and the memory of a population that shares weights.

    python tools/bench_evolve.py [--model zoo:cifar_resnet18] [--count 40] [--share 12]

A candidate is picked, mutated, compared with its parent, and counted. All on one thread; seconds of the processor are told
beside those of the clock, which are more where other programs run.
"""
import argparse
import random
import statistics
import time

import torch
from torch import Tensor
from torch.fx import GraphModule

import fxgrow
from fxgrow.experiments.evolve import Limits, Parent, default_mutations, mutate
from fxgrow.experiments.evolve.joint import family
from fxgrow.models import load_model


def candidates(model: GraphModule, x: Tensor, count: int) -> str:
    """Time the making of children of one parent, without duplicates."""
    parent, rng = Parent(0, model, x), random.Random(0)
    mutate([parent], default_mutations(), rng, Limits())  # what is known of the parent is worked out once
    known: set[str] = set()
    times, steps, refused = [], [], 0
    began, used = time.perf_counter(), time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        child, discarded = mutate([parent], default_mutations(), rng, Limits(), known)
        times.append(time.perf_counter() - start)
        refused += len(discarded)
        if child is not None:
            known.add(child.graph)
            steps.append(child.step["pass"])
    whole, used = time.perf_counter() - began, time.process_time() - used
    return (f"{len(steps)} candidates in {whole:.2f} s, {len(steps) / whole:.1f} a second ({len(steps) / used:.1f} a second "
            f"of the processor); the median takes {1000 * statistics.median(times):.0f} ms; {refused} mutations discarded\n"
            "passes: " + ", ".join(f"{name} {steps.count(name)}" for name in sorted(set(steps))))


def shared(base: GraphModule, x: Tensor, count: int) -> str:
    """Count the parameters of a family, each a child of a random member: as they share them, and if each had its own."""
    rng, known = random.Random(0), set()
    members: list[tuple[int | None, GraphModule]] = [(None, base)]
    while len(members) <= count:
        parent = rng.randrange(len(members))
        drawn = Parent(parent, members[parent][1], x)
        child, _ = mutate([drawn], default_mutations(), rng, Limits(growth=1.3, tied=True), known)
        if child is not None:
            known.add(child.graph)
            members.append((parent, child.grown.model))  # type: ignore[arg-type]
    own = [sum(p.numel() for p in model.parameters()) for _, model in members]
    new = sum(own[i] - own[parent] for i, (parent, _) in enumerate(members) if parent is not None)
    tied = family(dict(enumerate(members)))
    storages = [p.untyped_storage() for s in tied.values() for p in s.model.parameters()]
    memory = {s._cdata: s.nbytes() for s in storages}
    return (f"{len(members)} members with weights shared: {sum(memory.values()) / 2 ** 20:.1f} MiB of parameters; with "
            f"copies {4 * sum(own) / 2 ** 20:.1f} MiB; the base network has {own[0]:,} parameters, the largest member "
            f"{max(own):,}, all that is new in the others {new:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:cifar_resnet18")
    parser.add_argument("--count", type=int, default=40, help="candidates to make")
    parser.add_argument("--share", type=int, default=12, help="descendants that share their parents' weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, inputs = load_model(arguments.model)
    x = torch.cat([inputs[0], inputs[0].flip(-1)])
    captured = fxgrow.capture(model, x)
    print(f"{arguments.model}: {candidates(captured, x, arguments.count)}")
    print(shared(captured, x, arguments.share))


if __name__ == "__main__":
    main()
