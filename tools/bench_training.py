"""Measure what the trainer costs: a step of it against a bare loop's, and batches of CIFAR's size with crop and flip.

    python tools/bench_training.py [--steps 60] [--rounds 10] [--json FILE]
    python tools/bench_training.py --ways            the same step with other settings, and of stacked seeds

Process time of one thread, minima over rounds in which both take turns. The bare loop is what one writes by hand: a batch is
one index into normalised tensors, forward, cross-entropy, backward, a step of SGD with momentum.
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.cli import print_table
from fxgrow.experiments.data import Arrays, as_data, loader
from fxgrow.experiments.data.arrays import padded_crop
from fxgrow.experiments.train import TrainConfig, Trainer, Watcher, fit_stacked
from fxgrow.zoo import create_model

BATCH, LARGE = 64, 10 ** 9
CASES = {"cifar_resnet10, r = 1/8": ("cifar_resnet10", {"r": 2 ** -3}, (3, 32, 32), 1.05),
         "one-layer MLP": ("mlp", {"hidden": (), "input_shape": (1, 28, 28)}, (1, 28, 28), 1.15)}
IMAGES, SECONDS = 50_000, 0.8
WAYS = {"--fused": {"fused": True}, "--optimizer adamw": {"optimizer": "adamw"},
        "--optimizer adamw --fused": {"optimizer": "adamw", "fused": True}, "--channels-last": {"channels_last": True},
        "--precision bf16": {"precision": "bf16"},
        "--precision bf16 --channels-last": {"precision": "bf16", "channels_last": True},
        "--compile inductor": {"compile": "inductor"}}
SEEDS = 8


class Clock(Watcher):
    """Notes the process time behind the first step and behind the last."""

    def __init__(self, steps: int):
        self.steps, self.began, self.took = steps, 0.0, 0.0

    def stepped(self, trainer, loss: float) -> None:
        if trainer.step == 0:
            self.began = time.process_time()
        elif trainer.step == self.steps:
            self.took = (time.process_time() - self.began) / self.steps


def examples(shape: tuple[int, ...], count: int = 64 * BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % 10


def made(name: str, options: dict, shape: tuple[int, ...], steps: int, **settings) -> tuple[Trainer, Clock]:
    """Return a trainer, and the clock that tells of its steps."""
    torch.manual_seed(settings.get("seed", 0))
    clock = Clock(steps)
    config = TrainConfig(steps=steps + 1, batch_size=BATCH, eval_every=LARGE, **settings)
    return Trainer(create_model(name, **options), as_data(examples(shape), validation=0), config, watchers=[clock]), clock


def ours(name: str, options: dict, shape: tuple[int, ...], steps: int, **settings) -> float:
    """Return the seconds of a step of the trainer."""
    trainer, clock = made(name, options, shape, steps, **settings)
    trainer.fit()
    return clock.took


def stacked(name: str, options: dict, shape: tuple[int, ...], steps: int, seeds: int = SEEDS) -> float:
    """Return the seconds of a step of several stacked networks, for each of them."""
    runs = [made(name, options, shape, steps, seed=seed) for seed in range(seeds)]
    fit_stacked([trainer for trainer, _ in runs])
    return runs[0][1].took / seeds


def bare(name: str, options: dict, shape: tuple[int, ...], steps: int) -> float:
    """Return the seconds of a step of a loop by hand."""
    torch.manual_seed(0)
    model: nn.Module = create_model(name, **options).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = examples(shape)
    order = torch.randperm(len(x)).repeat(1 + steps * BATCH // len(x) + 1)
    began = 0.0
    for step in range(steps + 1):
        if step == 1:
            began = time.process_time()
        batch = order[step * BATCH:(step + 1) * BATCH]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    return (time.process_time() - began) / steps


def batches(device: str = "cpu", count: int = IMAGES) -> float:
    """Return the seconds of process time that one epoch of `count` images of 32 x 32 takes, cropped and mirrored."""
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    source = Arrays(x, torch.arange(count) % 10, tuple("0123456789"), (x[:10], torch.arange(10)),
                    padded_crop((3, 32, 32), flip=True))
    source_loader = loader(as_data(source, validation=0).train, BATCH, shuffle=True, device=device)
    began = time.process_time()
    for _ in source_loader:
        pass
    return time.process_time() - began


def measure(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each case both times in seconds, their ratio and the most that it may be."""
    found = {}
    for title, (name, options, shape, bar) in CASES.items():
        each = steps if bar < 1.1 else 20 * steps  # a step of the perceptron is short
        times = [(ours(name, options, shape, each), bare(name, options, shape, each)) for _ in range(rounds)]
        mine, theirs = map(min, zip(*times))
        found[title] = {"trainer": mine, "bare": theirs, "ratio": mine / theirs, "bar": bar,
                        "median_ratio": statistics.median(a / b for a, b in times)}
    seconds = min(batches() for _ in range(min(rounds, 3)))
    found["50,000 images with crop and flip"] = {"trainer": seconds, "bar": SECONDS}
    return found


def ways(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each way the seconds of a step of each case, and how many times those with the usual settings they are."""
    found: dict[str, dict[str, float]] = {}
    for title, (name, options, shape, bar) in CASES.items():
        each = steps if bar < 1.1 else 20 * steps
        one = name, options, shape, each
        takers = {"": lambda one=one: ours(*one), **{way: lambda one=one, s=s: ours(*one, **s) for way, s in WAYS.items()},
                  f"--seeds {SEEDS} --stacked, each": lambda one=one: stacked(*one)}
        times = [{way: take() for way, take in takers.items()} for _ in range(rounds)]
        least = {way: min(time[way] for time in times) for way in takers}
        for way, seconds in least.items():
            found.setdefault(way, {}).update({title: seconds, f"{title}, share": seconds / least[""]})
    return found


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--ways", action="store_true", help="measure settings of the trainer against the usual ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ways:
        found = ways(args.steps, args.rounds)
        print_table("Process time, one thread, and the share of the time with the usual settings", ("way", *CASES), [
            (way or "usual", *(f"{row[c] * 1e3:.3f} ms ({row[f'{c}, share']:.2f})" for c in CASES))
            for way, row in found.items()])
        if args.json:
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    found = measure(args.steps, args.rounds)
    rows = [(title, f"{row['trainer'] * 1e3:.3f} ms", f"{row['bare'] * 1e3:.3f} ms" if "bare" in row else "",
             f"{row['ratio']:.3f}" if "ratio" in row else "", f"{row['bar']}") for title, row in found.items()]
    print_table("Process time, one thread", ("what", "trainer", "bare loop", "ratio", "at most"), rows)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
