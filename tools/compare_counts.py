"""Compares counts of FLOPs with numbers worked out by hand (tools/flop_cases.py): fxgrow's and those of other counters.

    python tools/compare_counts.py              a table in Markdown, as in docs/flops.md
    python tools/compare_counts.py attention    the cases with this word in their names

Others are FlopCounterMode of torch, fvcore, ptflops and thop, as far as they are installed; multiply-adds count as two. Only
FlopCounterMode counts a backward pass: it is run, from the sum of all results. Fails where fxgrow is wrong.
"""
import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from flop_cases import CASES, Case
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxgrow
from fxgrow.cost.meter import tensors_held

Counts = tuple[int, int | None]  # forward, backward


def ours(model: nn.Module, inputs: tuple) -> Counts:
    count = fxgrow.count_flops(model, inputs)
    return count.forward, count.backward


def torch_counter(model: nn.Module, inputs: tuple) -> Counts:
    with FlopCounterMode(display=False) as forward:
        result = model(*inputs)
    ends = [t.abs().sum() for t in tensors_held(result) if t.requires_grad]
    with FlopCounterMode(display=False) as backward:
        if ends:
            sum(ends).backward()
    return forward.get_total_flops(), backward.get_total_flops()


def fvcore(model: nn.Module, inputs: tuple) -> Counts:
    from fvcore.nn import FlopCountAnalysis
    analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2 * int(analysis.total()), None


def ptflops(model: nn.Module, inputs: tuple) -> Counts:
    from ptflops import get_model_complexity_info

    class Fed(nn.Module):
        """Takes one number in place of the inputs, which ptflops would draw itself."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, number):
            return self.model(*inputs)

    macs, _ = get_model_complexity_info(Fed().train(model.training), (1,), as_strings=False, print_per_layer_stat=False)
    return 2 * int(macs), None


def thop(model: nn.Module, inputs: tuple) -> Counts:
    from thop import profile
    return 2 * int(profile(model, inputs=inputs, verbose=False)[0]), None


COUNTERS: dict[str, tuple[str, Callable[[nn.Module, tuple], Counts]]] = {
    "fxgrow": ("fxgrow", ours), "FlopCounterMode": ("torch", torch_counter), "fvcore": ("fvcore", fvcore),
    "ptflops": ("ptflops", ptflops), "thop": ("thop", thop)}


def counted(case: Case, counter: Callable[[nn.Module, tuple], Counts]) -> Counts | None:
    """Return what a counter says of a case, None where it raises something."""
    torch.manual_seed(0)
    model, inputs = case.make()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return counter(model, inputs if isinstance(inputs, tuple) else (inputs,))
        except Exception:
            return None


def cells(case: Case, found: Counts | None) -> tuple[str, bool, bool]:
    """Return the text for a count, and whether it is right forward and backward."""
    if found is None:
        return "fails", False, False
    right = [have is not None and have == due for have, due in zip(found, (case.forward, case.backward))]
    told = ["right" if good else f"{have:,}" for have, good in zip(found, right) if have is not None]
    return "right" if set(told) == {"right"} else " / ".join(told), *right


def main(words: list[str]) -> int:
    """Print the table; return 1 where fxgrow is wrong."""
    cases = [case for case in CASES if all(word in case.name for word in words)]
    counters = {name: run for name, (package, run) in COUNTERS.items() if importlib.util.find_spec(package)}
    score: dict[str, list[Any]] = {name: [0, 0] for name in counters}
    print("| case | forward | backward |", " | ".join(counters), "|\n|---|--:|--:|" + "---|" * len(counters))
    for case in cases:
        row = []
        for name, run in counters.items():
            text, *right = cells(case, counted(case, run))
            row.append(text)
            score[name] = [have + good for have, good in zip(score[name], right)]
        print(f"| {case.name} | {case.forward:,} | {case.backward:,} |", " | ".join(row), "|", flush=True)
    both = {name: f"{forward}" + (f" / {backward}" if backward else "") for name, (forward, backward) in score.items()}
    print(f"| **right of {len(cases)}** | | |", " | ".join(f"**{text}**" for text in both.values()), "|")
    return int(score["fxgrow"] != [len(cases)] * 2)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
