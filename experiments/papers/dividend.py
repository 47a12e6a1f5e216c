"""The dividend of growing: how much of the training FLOPs it saves at equal updates and, if it can, equal accuracy.

A network grows late, in the stable part of a warm-up-stable-decay schedule (Bu 2025, arXiv:2511.04981), so that what it ends
with is paid for only in the last part of training. From scratch the same network gets the same number of updates, with that
schedule and with a cosine, and as many FLOPs as the grown one, since growth must beat what those buy otherwise.
"""
from dataclasses import replace

from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, register
from fxgrow.experiments.papers.presets import scales

LARGE = "cifar_resnet10:r=2**-3,stem=7"
SHARE = 0.6  # of scratch's FLOPs, that growing is to stay below


def _arms(growth: str, at: float) -> list[Arm]:
    """Return arms that end with one architecture, but for the one that never grows."""
    late, before = f"fraction={at}: {growth}", (f"step=0: {growth} method=r2r",)
    return [Arm("never grown", "deep"),
            Arm(f"r2r at {at:.0%}", "deep", (f"{late} method=r2r",)),
            Arm(f"random padding at {at:.0%}", "deep", (f"{late} method=random",)),
            Arm("scratch", "deep", before, fresh=True),
            Arm("scratch, cosine", "deep", before, fresh=True, settings={"schedule": "cosine"}),
            Arm(f"scratch, {SHARE} of the updates", "deep", before, fresh=True, share=SHARE)]


WSD = {"schedule": "wsd", "warmup": 0.05, "decay": 0.25}
SCALES = scales(small={"steps": 300, "eval_every": 30, "lr": 0.1, **WSD}, paper=WSD, networks={
    "smoke": {"deep": Network("cifar_resnet10:r=2**-4,stem=7", "resnet1d:r=2**-4")},
    "small": {"deep": Network("cifar_resnet10:r=2**-4,stem=3", "resnet1d:r=2**-3", large=LARGE)},
    "paper": {"deep": Network("cifar_resnet10:r=2**-3", "resnet1d:r=2**-2")}})
SCALES["smoke"] = replace(SCALES["smoke"], settings={**SCALES["smoke"].settings, **WSD})

register(Experiment(
    "dividend", "The growth dividend: late growth at a high learning rate, against scratch by equal updates and equal FLOPs",
    "R2R (Painter 2024), report 5.2: 21 to 24 % of the time; LEMON (Wang 2023): 57 %; Bu 2025: up to 80 % of the FLOPs",
    tuple(_arms("deepen {places} times=4", 0.65)), SCALES))
