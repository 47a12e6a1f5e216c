"""Networks and scales that several experiments share.

The paper scale follows R2R's paper and its published code on CIFAR-10: ResNetCifar-10 and -18 at an eighth of the widths,
widened by the root of two, students at a fifth of the rate and with hardly any weight decay. Adam with AMSGrad there is
AdamW here, and the lengths of training are ours where the paper does not say them.
"""
from collections.abc import Mapping
from typing import Any

from fxgrow.experiments.papers.declaration import Arm, Network, Scale

METHODS = ("r2r", "net2net", "netmorph", "random")
PLAIN_WHERE = ("where=features.1 where=features.4", "where=hidden.1")

SMOKE = {"residual": Network("cifar_resnet10:r=2**-4,stem=7", "resnet1d:r=2**-4"),
         "plain": Network("net2net_conv:r=2**-4", "mlp:hidden=(4,4)", PLAIN_WHERE)}
SMALL = {
    "residual": Network("cifar_resnet10:r=2**-4,stem=3", "resnet1d:r=2**-4", large="cifar_resnet10:r=2**-4,stem=7"),
    "plain": Network("net2net_conv:r=2**-2", "mlp:hidden=(16,16)", PLAIN_WHERE, large="net2net_conv:r=2**-3")}
PAPER = {"residual": Network("cifar_resnet10:r=2**-3", "resnet1d:r=2**-2"),
         "wide": Network("cifar_resnet18:r=2**-3.5", "resnet1d:r=2**-2"),
         "plain": Network("net2net_conv:r=2**-1", "mlp:hidden=(256,256)", PLAIN_WHERE)}


def scales(*, small: Mapping[str, Any] | None = None, student: Mapping[str, Any] | None = None,
           paper: Mapping[str, Any] | None = None, networks: Mapping[str, Mapping[str, Network]] | None = None
           ) -> dict[str, Scale]:
    """Return the scales: changed settings of training (`student`: at the small scale), and more networks by scale."""
    extra = networks or {}
    own = {"batch_size": 64, "steps": 200, "eval_every": 10, "lr": 0.05, "schedule": "cosine",
           "norm_statistics": "never"}  # as the tables of the pages were made
    papers = {"batch_size": 128, "epochs": 60, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-3, "schedule": "step",
              "milestones": (0.5, 0.75), "workers": 2, "norm_statistics": "always"}  # for grown networks and others alike
    return {
        "smoke": Scale({**SMOKE, "wide": SMOKE["residual"], **extra.get("smoke", {})},
                       {"batch_size": 32, "steps": 4, "eval_every": 4, "lr": 0.05}, words={"factor": 2}, limit=64),
        "small": Scale({**SMALL, "wide": SMALL["residual"], **extra.get("small", {})}, {**own, **(small or {})},
                       student={"lr": 0.02, "steps": 100, **(student or {})}, words={"factor": 2}),
        "paper": Scale({**PAPER, **extra.get("paper", {})}, {**papers, **(paper or {})},
                       student={"lr": 6e-4, "weight_decay": 1e-6}, words={"factor": 2 ** 0.5}, data="cifar10",
                       validation=0.1, checkpoints=True)}


def converging(network: str, growth: str, group: str = "") -> list[Arm]:
    """Return a teacher, a student of it by each method (`growth` names none), and their architecture from scratch."""
    students = [Arm("random padding" if m == "random" else m, network, (f"step=0: {growth} method={m}",), "teacher",
                    group=group) for m in METHODS]
    scratch = Arm("scratch", network, (f"step=0: {growth} method=r2r",), fresh=True, group=group)
    return [Arm("teacher", network, group=group), *students, scratch]
