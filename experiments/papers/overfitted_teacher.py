"""The over-fitted teacher: students of a teacher that knows its few training data by heart (R2R's paper, figure 7)."""
from dataclasses import replace

from fxgrow.experiments.papers.declaration import Arm, Experiment, register
from fxgrow.experiments.papers.presets import converging, scales

SCALES = scales(small={"steps": 300, "eval_every": 20, "batch_size": 32, "lr": 0.02}, student={"lr": 0.01},
                paper={"weight_decay": 1e-5})
SCALES["small"] = replace(SCALES["small"], limit=200)  # so few that they are learnt by heart
SCALES["paper"] = replace(SCALES["paper"], student={"lr": 6e-4, "weight_decay": 1e-5})
GROWTH = "widen factor={factor}"

register(Experiment(
    "overfitted-teacher", "Students of an over-fitted teacher keep its loss; regularisation at growth gives some back",
    "R2R (Painter 2024), figure 7",
    (*converging("plain", GROWTH),
     Arm("r2r, regularised", "plain", (f"step=0: {GROWTH} method=r2r",), "teacher",
         settings={"weight_decay": 1e-2, "label_smoothing": 0.1})),
    SCALES))
