"""Measures how the cost of what fxgrow does grows with the size of the graph, and writes the table of docs/performance.md.

    python tools/bench_growth.py                  graphs of 100 to 20,000 nodes: an hour
    python tools/bench_growth.py 100 300 1000     graphs of these many nodes, printed and not written

The network is a row of small residual blocks, four nodes each. Seconds are of process time, on one thread, of one run on a
model made before the clock starts; `grow_into` adds one block to every two.
"""
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.axis import analyse
from fxgrow.passes import Deepen, Widen

SIZES = (100, 300, 1000, 3000, 10_000, 20_000)
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
START, END = "<!-- growth -->", "<!-- /growth -->"
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def network(blocks: int, width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), *(Block(width) for _ in range(blocks)), nn.Linear(width, 2)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1)  # so that nothing explodes in so many blocks
    return model


def works(nodes: int, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Yield what is measured on graphs of this size: a name, and what makes it from what is made before the clock starts."""
    model = network(nodes // 4)
    gm = fxgrow.capture(model, X)
    yield "capture", lambda: fxgrow.capture(model, X)
    yield "axes", lambda: analyse(gm)
    yield "transform", lambda: fxgrow.transform(model, X, Widen(factor=1.5, seed=0))
    yield "deepen", lambda: fxgrow.transform(model, X, Deepen(str(nodes // 8), seed=0))
    small, big = network(nodes // 6), network(nodes // 6 * 3 // 2, 6)
    yield "grow_into", lambda: fxgrow.grow_into(small, big, X, seed=0)
    yield "count_flops", lambda: fxgrow.count_flops(model, X)
    yield "draw", lambda: fxgrow.draw(model, X, folder / "network.dot")
    grown = fxgrow.transform(model, X, Widen(factor=1.5, seed=0))
    yield "save", lambda: fxgrow.save(grown, folder / "network.fxg")
    yield "load", lambda: fxgrow.load(folder / "network.fxg")


def measured(nodes: int) -> dict[str, float]:
    """Return the seconds that each takes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works(nodes, Path(folder)):
            gc.collect()
            start = time.process_time()
            work()
            found[name] = time.process_time() - start
            print(f"{nodes:6d} {name:12s} {found[name]:8.2f} s", file=sys.stderr, flush=True)
    return found


def table(sizes: list[int]) -> str:
    columns = [measured(nodes) for nodes in sizes]
    rows = [("nodes", *(f"{nodes:,}" for nodes in sizes)), ("---", *("---:" for _ in sizes))]
    rows += [(f"`{name}`", *(f"{column[name]:.2f}" for column in columns)) for name in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    measured(SIZES[0])  # what the first call imports is none of its cost
    sizes = list(map(int, sys.argv[1:]))
    found = table(sizes or list(SIZES))
    if sizes:
        print(found)
        return
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{before}{START}\n{found}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
