"""Measures how fast a whole network is widened, against Torch-Pruning's pruner in the same run, and what the result costs.

    python tools/bench_transform.py                 all of it
    python tools/bench_transform.py resnet18 swin_t  some networks

Ours: capture, analysis and rewriting of every class that can grow, by R2R and 1.25. Theirs (the nearest tool that rewrites
any network): the dependency graph and one pruning step. The floor: each grown tensor made of zeros, and the old numbers
copied into it. Seconds are the least of seven, of process time, on one thread, taken in turns.
Then: resnet152 with one more block in each stage, and its capture alone; forward and backward time of the widened resnet50
over torchvision's own wide_resnet50_2.
"""
import copy
import gc
import statistics
import sys
import time
import warnings

import torch
import torchvision
from rich.console import Console
from rich.table import Column, Table
from torch import nn

import fxgrow
from fxgrow.passes import Deepen, Widen

AGAINST = ("resnet18", "resnet152", "vit_b_16", "convnext_tiny", "efficientnet_b0")
ALONE = ("densenet201", "swin_t", "llama")
ROUNDS = 7


def ours(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return fxgrow.transform(model, x, [Widen(factor=1.25, method="r2r", seed=0)]).model


def theirs(model: nn.Module, x: torch.Tensor) -> None:
    import torch_pruning as tp
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    importance = tp.importance.MagnitudeImportance()
    tp.pruner.MetaPruner(model, x, importance=importance, pruning_ratio=0.2, ignored_layers=heads).step()


def floor(model: nn.Module, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Do the least that any tool must: make each grown tensor, and copy the old numbers."""
    new = {name: torch.zeros(shapes[name], dtype=old.dtype) for name, old in model.state_dict().items()}
    for name, old in model.state_dict().items():
        new[name][tuple(map(slice, old.shape))].copy_(old)
    return new


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network of torchvision by name, or a Llama of 110 M numbers, and inputs."""
    if name != "llama":
        return torchvision.models.get_model(name).eval(), torch.randn(1, 3, 224, 224)
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                         tie_word_embeddings=True)
    return LlamaForCausalLM(config).eval(), torch.randint(0, 512, (1, 16))


def seconds(work, model: nn.Module, x) -> float:
    """Time one run on a fresh copy, made before the clock starts."""
    model = copy.deepcopy(model)
    gc.collect()
    start = time.process_time()
    made = work(model, x)
    spent = time.process_time() - start
    del made  # to give memory back takes time too
    return spent


def speed(names: list[str], console: Console) -> None:
    columns = "network", "fxgrow", "Torch-Pruning", "ratio", "floor", "ratio"
    table = Table(*(Column(heading, justify="right") for heading in columns), title="seconds to rewrite a whole network")
    ratios = []
    for name in names:
        model, x = network(name)
        shapes = {tensor: value.shape for tensor, value in ours(model, x).state_dict().items()}
        runs = [(ours, x), (floor, shapes), *([(theirs, x)] if name in AGAINST else [])]
        times = {work: min(times) for work, *times in zip(
            (work for work, _ in runs), *[[seconds(work, model, given) for work, given in runs] for _ in range(ROUNDS)])}
        mine, peer, least = times[ours], times.get(theirs), times[floor]
        ratios += [mine / peer] if peer else []
        table.add_row(name, f"{mine:.3f}", f"{peer:.3f}" if peer else "-", f"{mine / peer:.2f}" if peer else "-",
                      f"{least:.4f}", f"{mine / least:.1f}")
    console.print(table)
    if ratios:
        console.print(f"geometric mean of the ratios {statistics.geometric_mean(ratios):.2f}, largest {max(ratios):.2f}")


def depth(console: Console) -> None:
    """Time a clone at the end of each stage, and the capture alone, in turns."""
    model, x = torchvision.models.resnet152(), torch.randn(1, 3, 224, 224)
    for method in ("r2r", "net2net", "netmorph"):
        pairs = [(seconds(lambda m, i: fxgrow.transform(m, i, Deepen(method=method, seed=0)), model, x),
                  seconds(fxgrow.capture, model, x)) for _ in range(ROUNDS)]
        deepened, captured = map(statistics.median, zip(*pairs))
        console.print(f"resnet152 deepened by {method} in four places: {deepened:.2f} s, its capture {captured:.2f} s: "
                      f"{deepened - captured:+.2f} s")


def result(console: Console) -> None:
    x = torch.randn(4, 3, 224, 224)
    inner = [f"layer{i}.*.conv{j}" for i in range(1, 5) for j in (1, 2)]
    grown = fxgrow.transform(torchvision.models.resnet50(), x[:1], [Widen(inner, factor=2, seed=0)]).model
    stock = torchvision.models.wide_resnet50_2()
    stock.load_state_dict(grown.state_dict())
    for what in ("forward", "forward and backward"):
        times: dict = {grown: [], stock: []}
        for _ in range(2 * ROUNDS + 1):
            for model in (grown, stock):
                model.train(what != "forward")
                start = time.perf_counter()
                with torch.set_grad_enabled(what != "forward"):
                    out = model(x).sum()
                if what != "forward":
                    out.backward()
                times[model].append(time.perf_counter() - start)
        mine, peer = (statistics.median(t[1:]) for t in times.values())
        console.print(f"widened resnet50, {what}: {mine:.3f} s, wide_resnet50_2 {peer:.3f} s: {mine / peer:.3f}")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console()
    names = sys.argv[1:]
    speed(names or [*AGAINST, *ALONE], console)
    if not names:
        depth(console)
        result(console)


if __name__ == "__main__":
    main()
