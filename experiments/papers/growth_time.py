"""When to grow: at 0, 25, 50 or 75 % of training (section 5.2 of the report that became R2R's paper)."""
from fxgrow.experiments.papers.declaration import Arm, Experiment, register
from fxgrow.experiments.papers.presets import scales

TIMES = (0.0, 0.25, 0.5, 0.75)


def _arms(network: str, group: str, growth: str) -> list[Arm]:
    at = [Arm(f"r2r at {t:.0%}", network, (f"fraction={t}: {growth} method=r2r",), group=group) for t in TIMES]
    return [Arm("never grown", network, group=group), *at,
            Arm("random padding at 50%", network, (f"fraction=0.5: {growth} method=random",), group=group),
            Arm("scratch", network, (f"step=0: {growth} method=r2r",), fresh=True, group=group)]


register(Experiment(
    "growth-time", "When to grow: accuracy and FLOPs when widening or deepening at 0, 25, 50, 75 % of training",
    "R2R (Painter 2024, arXiv:2410.11038), report 5.2: 24 % (widening) and 21 % (deepening) of the time saved",
    (*_arms("wide", "widen", "widen factor={factor}"), *_arms("residual", "deepen", "deepen {places} times=2")),
    scales(small={"steps": 150, "lr": 0.1},
           paper={"batch_size": 64, "epochs": None, "steps": 6000, "lr": 1e-3, "schedule": "constant"})))
