"""Does growing pay, on images: residual networks that grow in depth, against every depth from scratch.

The first block of a stage changes the shape of what it takes, so that those behind it are repeated. Settings are those of
residual networks that grow in width.
"""
from fxgrow.experiments.papers.declaration import Network
from fxgrow.experiments.papers.front import Front, Size, Step, Way, halved, register_front
from fxgrow.experiments.papers.pays_images import SETTINGS, scales
from fxgrow.experiments.papers.pays_language import METHODS

LAST = 5  # of the budgets, counted from 0
BOTH = ((LAST, "updates"), (LAST, "FLOPs"))


def residual(blocks: int, r: float, stem: int) -> Network:
    """Return ResNetCifar with so many blocks in each of its two stages."""
    return Network(image=f"cifar_resnet10:r={r},stem={stem},blocks={blocks}")


def sizes(r: float, stem: int) -> dict[str, Size]:
    """Return the depths, by the number of blocks of a stage."""
    return {f"{blocks} blocks": Size(residual(blocks, r, stem), lr, budgets=(first, LAST))
            for blocks, lr, first in ((2, 0.1, 0), (4, 0.05, 1), (7, 0.05, 2))}


def twice(name: str, method: str, first: float, second: float) -> Way:
    """Return the way from two blocks to four and to seven."""
    steps = (Step(first, f"deepen where=stages.*.1 times=2 method={method}", "4 blocks"),
             Step(second, f"deepen where=stages.*.[1-3] method={method}", "7 blocks"))
    return Way(f"2 to 4 to 7, {name} at {first:.0%} and {second:.0%}", "2 blocks", steps, LAST, BOTH)


def once(name: str, method: str, at: float) -> Way:
    """Return the way from two blocks to four."""
    step = Step(at, f"deepen where=stages.*.1 times=2 method={method}", "4 blocks")
    return Way(f"2 to 4, {name} at {at:.0%}", "2 blocks", (step,), LAST, BOTH)


WAYS = (*(twice(name, method, 0.4, 0.7) for name, method in METHODS.items()),
        *(twice(name, METHODS[name], 0.5, 0.75) for name in ("copies", "netmorph")),
        *(once(name, method, 0.5) for name, method in METHODS.items()))
SMALL = Front(sizes=sizes(2 ** -2, 7), budgets=halved(8e12, LAST + 1), rates=(0.05, 0.1, 0.2), rates_at=2, held_out=10_000,
              ways=WAYS)
SMOKE = Front(
    sizes={f"{blocks} blocks": Size(residual(blocks, 2 ** -5, 7), 0.05) for blocks in (2, 4)}, budgets=halved(2e8, 2),
    ways=(Way("r2r", "2 blocks", (Step(0.25, "deepen where=stages.*.1 times=2 method=r2r", "4 blocks"),), 1,
              ((1, "updates"),)),), held_out=8)
PAPER = Front(sizes=sizes(0.5, 3), budgets=halved(2e15, LAST + 1), rates=(0.05, 0.1, 0.2), rates_at=1, held_out=10_000,
              ways=WAYS)

register_front(
    "pays-depth-residual", "Residual networks that grow in depth, against every depth from scratch",
    "Multi-level residual networks (Chang 2017, arXiv:1710.10348), R2R (Painter 2024), LEMON (Wang 2023)",
    {"smoke": SMOKE, "small": SMALL, "paper": PAPER},
    scales(SETTINGS, small={"channels_last": True}, paper={"precision": "bf16"}))
