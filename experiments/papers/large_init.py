"""New weights that are too large: the instability in appendix E of R2R's paper (Painter 2024, arXiv:2410.11038).

The outputs are the same whatever the new numbers are, but the gradient of one half of a pair is proportional to the other
half (docs/widening.md): large new numbers make steps that are too large.
"""
from fxgrow.experiments.papers.declaration import Arm, Experiment, register
from fxgrow.experiments.papers.presets import scales

INITS = ("match_std", "kaiming", "xavier", "0.01", "0.3", "0.5")
GROWTH = "step=0: widen factor={factor} "

register(Experiment(
    "large-init", "New weights of different sizes: what r2r does with the teacher's accuracy in the first updates",
    "R2R (Painter 2024), appendix E",
    (Arm("teacher", "plain"),
     *(Arm(f"r2r, {init}", "plain", (f"{GROWTH}method=r2r init={init}",), "teacher") for init in INITS),
     Arm("random padding", "plain", (f"{GROWTH}method=random",), "teacher"),
     Arm("scratch", "plain", (f"{GROWTH}method=r2r",), fresh=True)),
    scales(student={"lr": 0.05, "steps": 60, "eval_every": 5})))
