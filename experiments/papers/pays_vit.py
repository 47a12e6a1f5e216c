"""Does growing pay, on images: vision transformers that grow in depth, against every depth from scratch.

The ways are those of language models. At the small scale patches are of 8 x 8 pixels, 16 of an image.
"""
from fxgrow.experiments.papers.declaration import Network
from fxgrow.experiments.papers.front import Front, Size, Step, Way, halved, register_front
from fxgrow.experiments.papers.pays_images import scales
from fxgrow.experiments.papers.pays_language import BOTH, LAST, METHODS, to, to_eight, twice

SETTINGS = {"batch_size": 64, "optimizer": "adamw", "beta2": 0.99, "weight_decay": 0.05, "clip": 1.0, "warmup": 200,
            "checkpoint_every": 500}


def vit(width: int, depth: int, heads: int, patch: int) -> Network:
    """Return a vision transformer."""
    return Network(image=f"vit_small32:width={width},depth={depth},heads={heads},patch={patch}")


SMALL = Front(
    sizes={f"depth {d}": Size(vit(64, d, 2, 8), lr=2e-3, budgets=(d // 2, LAST)) for d in (1, 2, 4)},
    budgets=halved(8e12, LAST + 1), rates=(1e-3, 2e-3, 4e-3), rates_at=4, held_out=10_000,
    ways=(*(twice(name, method, 0.4, 0.7, BOTH) for name, method in METHODS.items()),
          *(to(2, name, 0.45, METHODS[name], BOTH) for name in ("copies", "netmorph"))))
SMOKE = Front(
    sizes={f"depth {d}": Size(vit(8, d, 1, 4), lr=2e-3) for d in (1, 2)}, budgets=halved(2e8, 2), rates=(2e-3,), rates_at=0,
    ways=(Way("r2r", "depth 1", (Step(0.25, "deepen where=blocks.* method=r2r", "depth 2"),), 1, ((1, "updates"),)),),
    held_out=8)
PAPER = Front(
    sizes={f"depth {d}": Size(vit(192, d, 3, 4), lr=1e-3) for d in (1, 2, 4, 8)}, budgets=halved(4e15, LAST + 1),
    rates=(5e-4, 1e-3, 2e-3), rates_at=4, held_out=10_000,
    ways=tuple(to_eight(name, method, "depth 1", "depth 4", "depth 8") for name, method in METHODS.items()))

register_front(
    "pays-depth-images", "Vision transformers that grow in depth, against every depth from scratch",
    "G_stack (Du 2024, arXiv:2405.15319), LEMON (Wang 2023), Bu 2025", {"smoke": SMOKE, "small": SMALL, "paper": PAPER},
    scales(SETTINGS, paper={"precision": "bf16"}))
