"""Measures what grown networks cost against the classes that they come from at the same sizes: nothing, within noise.

    python tools/bench_results.py                       six networks, eager and compiled, for docs/performance.md
    python tools/bench_results.py resnet18 llama        some networks, printed and not written
    python tools/bench_results.py llama --eager         without Inductor, which takes minutes
    python tools/bench_results.py --channels-last       with inputs and models in that memory format, not written

A network is widened by 1.25 (in its MLPs alone, where the class's own code holds the other sizes). Beside it stands its own
class with the grown layers put in their places, the same objects: what differs is the code around them. Figures are
quotients of process time on one thread, the least of many runs in turns, and behind them the time of the class.
"""
import argparse
import copy
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import fxgrow
from fxgrow.passes import Widen

NETWORKS = ("resnet18", "resnet50", "vit_b_16", "convnext_tiny", "efficientnet_b0", "llama")
WIDENED = {"vit_b_16": "encoder.layers.*.mlp.0", "convnext_tiny": "features.*.block.3", "llama": "*.mlp.up_proj"}
KINDS = ("eager", "compiled")
ROUNDS = 15
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
START, END = "<!-- results -->", "<!-- /results -->"


def network(name: str, pixels: int) -> tuple[nn.Module, Tensor]:
    """Return a network of torchvision without random parts, or a small Llama, and inputs."""
    if name == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM
        config = LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=8,
                             vocab_size=1000, use_cache=False)
        return LlamaForCausalLM(config), torch.randint(0, 1000, (1, pixels))
    options: dict[str, Any] = {"image_size": pixels} if name.startswith("vit") else {}
    model = torchvision.models.get_model(name, **options)
    for module in model.modules():
        if isinstance(module, (nn.Dropout, torchvision.ops.StochasticDepth)):
            module.p = 0.0
    return model, torch.randn(1, 3, pixels, pixels)


def put_in_place(model: nn.Module, grown: nn.Module) -> nn.Module:
    """Return a copy of a model with the layers and tensors of a grown one in their places."""
    stock = copy.deepcopy(model)
    for path, layer in grown.named_modules():
        if path and not layer._modules and type(layer) is not nn.Module:
            stock.set_submodule(path, layer)
    for path, parameter in grown.named_parameters():
        owner, _, name = path.rpartition(".")
        setattr(stock.get_submodule(owner), name, parameter)
    return stock


def both(name: str, pixels: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a grown network, its class with the same layers, and inputs; they compute the same."""
    torch.manual_seed(0)
    model, x = network(name, pixels)
    grown = fxgrow.transform(model, x, Widen(WIDENED.get(name), factor=1.25, seed=0)).model
    stock = put_in_place(model, grown)
    torch.testing.assert_close(run(grown.eval(), x, False), run(stock.eval(), x, False))
    return grown, stock, x


def run(model: Callable, x: Tensor, backward: bool) -> Tensor:
    with torch.set_grad_enabled(backward):
        out = model(x)
        out = out if isinstance(out, Tensor) else out["logits"]
        if backward:
            out.sum().backward()
    return out


def quotient(grown: Callable, stock: Callable, x: Tensor, backward: bool) -> tuple[float, float]:
    """Return the time of the grown network over that of the stock one, and the latter in seconds."""
    least = [float("inf")] * 2
    for turn in range(ROUNDS + 2):
        for i, model in enumerate((grown, stock)):
            start = time.process_time()
            run(model, x, backward)
            if turn > 1:
                least[i] = min(least[i], time.process_time() - start)
    return least[0] / least[1], least[1]


def measured(name: str, pixels: int, kinds: tuple[str, ...], last: bool) -> list[str]:
    """Return a row of the table."""
    grown, stock, x = both(name, pixels)
    if last and x.ndim == 4:
        grown, stock, x = (t.to(memory_format=torch.channels_last) for t in (grown, stock, x))  # type: ignore[call-overload]
    row = []
    for kind in kinds:
        for backward in (False, True):
            pair = [m.train(backward) for m in (grown, stock)]
            if kind == "compiled":
                torch._dynamo.reset()
                pair = [torch.compile(m) for m in pair]  # type: ignore[misc]
            ratio, seconds = quotient(*pair, x, backward)
            row.append(f"{ratio:.2f} ({1000 * seconds:.0f} ms)")
    return [f"`{name}`", *row]


def table(names: Sequence[str], pixels: int, kinds: tuple[str, ...] = KINDS, last: bool = False) -> Iterator[str]:
    """Yield the lines of the table in Markdown, one for each network as it is measured."""
    heads = ["network", *(f"{kind}, {what}" for kind in kinds for what in ("forward", "and backward"))]
    rows = (measured(name, pixels, kinds, last) for name in names)
    for row in itertools.chain([heads, ["---", *["---:"] * (len(heads) - 1)]], rows):
        yield f"| {' | '.join(row)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--channels-last", action="store_true", dest="last")
    parser.add_argument("--pixels", type=int, default=64, help="of images; tokens of a Llama")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    kinds, made = KINDS[:1] if arguments.eager else KINDS, []
    for line in table(arguments.names or NETWORKS, arguments.pixels, kinds, arguments.last):
        print(line, flush=True)
        made.append(line)
    if not (arguments.names or arguments.eager or arguments.last):
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(f"{before}{START}\n{chr(10).join(made)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
