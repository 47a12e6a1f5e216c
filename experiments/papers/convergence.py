"""Convergence tests: a teacher is trained to the end, then students grow from it by each method.

Figures 4 to 6 of Net2Net (Chen et al. 2015, arXiv:1511.05641); table 2 and figures 5 and 6 of R2R's paper (Painter 2024,
arXiv:2410.11038). There, Net2Net's networks have no skip path, since its transforms do not allow any; here each method is
used on both kinds of network.
"""
from fxgrow.experiments.papers.declaration import Experiment, register
from fxgrow.experiments.papers.presets import converging, scales

register(Experiment(
    "convergence-widen", "Convergence of wider students of a trained teacher, with and without residual connections",
    "Net2Net (Chen 2015), figure 4; R2R (Painter 2024), table 2 and figure 5",
    (*converging("wide", "widen factor={factor}", "residual"), *converging("plain", "widen factor={factor}", "plain")),
    scales()))

register(Experiment(
    "convergence-deepen", "Convergence of deeper students of a trained teacher, with and without residual connections",
    "Net2Net (Chen 2015), figure 5; R2R (Painter 2024), table 2 and figure 6",
    (*converging("residual", "deepen {places} times=2", "residual"), *converging("plain", "deepen {places}", "plain")),
    scales()))
