"""How fast whole networks are counted, against torch's FlopCounterMode (on meta tensors) and fvcore in the same run.

    python tools/bench_flops.py                 resnet152, densenet201, vit_b_16 and swin_t
    python tools/bench_flops.py alexnet         some network

Ours includes the backward pass and the memory; theirs is the forward pass alone. Seconds of processor time on one thread,
the least of seven runs taken in turns. Fails where ours takes more than half of FlopCounterMode's time.
"""
import copy
import logging
import sys
import time
import warnings

import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxgrow

ROUNDS, LIMIT = 7, 0.5


def ours(model: nn.Module, x: torch.Tensor) -> int:
    return fxgrow.count_flops(model, x).forward


def torch_counter(model: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def fvcore(model: nn.Module, x: torch.Tensor) -> int:
    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2 * int(analysis.total())  # it counts multiply-adds


def seconds(work, *given) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


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
        mine, torchs, fvcores = map(min, times)
        table.add_row(name, *(f"{t:.3f}" for t in (mine, torchs, fvcores)), *(f"{mine / t:.2f}" for t in (torchs, fvcores)))
        slow += [name] if mine > LIMIT * torchs else []
    Console(width=110).print(table)
    if slow:
        print(f"too slow: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["resnet152", "densenet201", "vit_b_16", "swin_t"]))
