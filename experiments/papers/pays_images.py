"""Does growing pay, on images: residual networks that grow in width, against every width from scratch.

The small scale is for one core: the stem makes images a quarter as wide, by which a step is cheap. The paper scale keeps
their size, and goes to budgets at which the widest network is to be right on 90 % of the test images.
"""
from collections.abc import Mapping
from typing import Any

from fxgrow.experiments.papers.declaration import Network, Scale
from fxgrow.experiments.papers.front import Front, Size, Step, Way, halved, register_front

SETTINGS = {"batch_size": 64, "optimizer": "sgd", "weight_decay": 5e-4, "warmup": 100, "checkpoint_every": 500,
            "norm_statistics": "always"}  # for grown networks and others alike
METHODS = ("r2r", "net2net", "netmorph", "random")


def scales(settings: Mapping[str, Any], small: Mapping[str, Any] = {}, paper: Mapping[str, Any] = {}) -> dict[str, Scale]:
    """Return the scales of a comparison on images, digits and CIFAR-10, by these settings and what each changes."""
    return {"smoke": Scale({}, {**settings, "batch_size": 8, "warmup": 2}, data="digits", validation=0.2, limit=64),
            "small": Scale({}, {**settings, **small}, data="cifar10", validation=0.1),
            "paper": Scale({}, {**settings, "batch_size": 128, "workers": 2, **paper}, data="cifar10", validation=0.1)}


def residual(layers: int, r: float, stem: int) -> Network:
    """Return ResNetCifar of R2R's paper."""
    return Network(image=f"cifar_resnet{layers}:r={r},stem={stem}")


def ways(last: int, *at: float, method: str = "r2r") -> tuple[Way, ...]:
    """Return ways to twice the width: by one method at several shares of training, by the others at the first of these."""
    ends = ((last, "updates"), (last, "FLOPs"))
    each = [(method, share) for share in at] + [(other, at[0]) for other in METHODS if other != method]
    return tuple(Way(f"{how} at {share:.0%}", "narrow", (Step(share, f"widen factor=2 method={how}", "wide"),), last,
                     ends if share == at[0] else ends[:1]) for how, share in each)


def to_half(method: str, budget: int, start: str, *steps: tuple[float, str]) -> Way:
    """Return the way to half the widths by one method: shares of training, each with the size that is grown into."""
    grown = tuple(Step(at, f"widen factor=2 method={method}", into) for at, into in steps)
    sizes = " to ".join(f"1/{PARTS[size]}" for size in (start, *(into for _, into in steps)))
    name = f"{sizes}, {method} at {' and '.join(f'{at:.0%}' for at, _ in steps)}"
    return Way(f"{name}, twice as long" if budget > EIGHT else name, start, grown, budget,
               ((budget, "updates"), (budget, "FLOPs")))


PARTS = {"eighth": 8, "quarter": 4, "half": 2}  # of the widths
EIGHT, SIXTEEN = 5, 6  # TFLOP: budgets, counted from 0
PAPER = Front(
    sizes={"narrow": Size(residual(18, 0.25, 3), 0.1), "middle": Size(residual(18, 0.35, 3), 0.1),
           "wide": Size(residual(18, 0.5, 3), 0.1), "widest": Size(residual(18, 1.0, 3), 0.1, budgets=(3, 5))},
    budgets=halved(2e15, 6), ways=ways(5, 0.5, 0.25, 0.7), rates=(0.05, 0.1, 0.2), rates_at=1, held_out=10_000)
SMALL = Front(
    sizes={"eighth": Size(residual(10, 2 ** -3, 7), 0.05, budgets=(0, 4)), "quarter": Size(residual(10, 2 ** -2, 7), 0.1),
           "half": Size(residual(10, 2 ** -1, 7), 0.05, budgets=(2, SIXTEEN))},
    budgets=halved(1.6e13, 7), rates=(0.025, 0.05, 0.1, 0.2), rates_at=3, held_out=10_000,
    ways=tuple(to_half(method, budget, *way) for budget in (EIGHT, SIXTEEN)
               for way in (("eighth", (0.4, "quarter"), (0.7, "half")), ("quarter", (0.5, "half"))) for method in METHODS))
SMOKE = Front(
    sizes={"narrow": Size(residual(10, 2 ** -5, 7), 0.05), "wide": Size(residual(10, 2 ** -4, 7), 0.05)},
    budgets=halved(2e8, 2), ways=ways(1, 0.25)[:1], held_out=8)

register_front(
    "pays-width", "Residual networks that grow in width, against every width from scratch",
    "Net2Net (Chen 2015), R2R (Painter 2024), LEMON (Wang 2023)",
    {"smoke": SMOKE, "small": SMALL, "paper": PAPER},
    scales(SETTINGS, small={"channels_last": True}))
