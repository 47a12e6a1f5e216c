"""How fast whole networks are counted, against torch's FlopCounterMode (on meta tensors) and fvcore in the same run.

    python tools/bench_flops.py                 resnet152 and densenet201
    python tools/bench_flops.py vit_b_16        some network

Ours includes the capture, the backward pass and the memory; theirs is the forward pass alone. Seconds are medians of
seven runs taken in turns, on one thread. Fails where ours takes longer than FlopCounterMode, or more than a third of
fvcore's time.
"""
import copy
import logging
import statistics
import sys
import warnings

import torch
import torchvision
from bench_transform import seconds
from fvcore.nn import FlopCountAnalysis
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxgrow

ROUNDS = 7


def ours(model: nn.Module, x: torch.Tensor) -> int:
    return fxgrow.count_flops(model, x).forward


def torch_counter(model: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def fvcore(model: nn.Module, x: torch.Tensor) -> int:
    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2 * int(analysis.total())  # it counts multiply-adds


def main(names: list[str]) -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    headings = ("network", "fxgrow", "FlopCounterMode", "fvcore", "of FlopCounterMode", "of fvcore")
    table = Table(*(Column(heading, justify="right") for heading in headings), title="seconds to count a whole network")
    slow = []
    for name in names:
        model = torchvision.models.get_model(name, weights=None).eval()
        x, meta = torch.randn(1, 3, 224, 224), copy.deepcopy(model).to("meta")
        runs = ((ours, model, x), (torch_counter, meta, x.to("meta")), (fvcore, model, x))
        times: list[list[float]] = [[], [], []]
        for _ in range(ROUNDS):
            for taken, (work, *given) in zip(times, runs):
                taken.append(seconds(work, *given))
        mine, torchs, fvcores = map(statistics.median, times)
        table.add_row(name, *(f"{t:.3f}" for t in (mine, torchs, fvcores)), *(f"{mine / t:.2f}" for t in (torchs, fvcores)))
        slow += [name] if mine > torchs or mine > fvcores / 3 else []
    Console(width=110).print(table)
    if slow:
        print(f"too slow: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["resnet152", "densenet201"]))
