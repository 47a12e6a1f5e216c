"""The neighbourhood of an architecture: is it a local maximum among its small growths? (`fxgrow experiment neighbours`)

What is declared here is the architecture itself; its neighbours, which follow from the network and the data, are drawn in
experiments/papers/neighbour_runs.py.
"""
from __future__ import annotations

from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, register
from fxgrow.experiments.papers.presets import scales

GROWN, SCRATCH, NETWORK = "from the trained original", "from scratch", "network"
ORIGINALS = (Arm("start", NETWORK, group=GROWN), Arm("original", NETWORK, teacher="start", group=GROWN),
             Arm("original", NETWORK, fresh=True, group=SCRATCH))

register(Experiment(
    "neighbours", "Small random growths of an architecture against itself: is it a local maximum?",
    "Deep neuroevolution with shared weights", ORIGINALS,
    scales(small={"steps": 60, "eval_every": 20, "batch_size": 32}, student={"steps": 60}, networks=dict.fromkeys(
        ("smoke", "small", "paper"), {NETWORK: Network("inception_resnet_v2_small:r=2**-5", "resnet1d:r=2**-4")})),
    reference="original", setup="fxgrow.experiments.papers.neighbour_runs:Neighbours"))
