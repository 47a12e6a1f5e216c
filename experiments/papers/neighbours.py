"""The neighbourhood of an architecture, a local maximum or not (`fxgrow experiment neighbours`): the architecture itself.

What does not live here: its neighbours, which follow from the network and the data (neighbour_runs.py).
"""
from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, register
from fxgrow.experiments.papers.neighbour_runs import GROWN, NETWORK, SCRATCH, Neighbours
from fxgrow.experiments.papers.presets import scales

ORIGINALS = (Arm("start", NETWORK, group=GROWN), Arm("original", NETWORK, teacher="start", group=GROWN),
             Arm("original", NETWORK, fresh=True, group=SCRATCH))

register(Experiment(
    "neighbours", "Small random growths of an architecture against itself: is it a local maximum?",
    "Deep neuroevolution with shared weights", ORIGINALS,
    scales(small={"steps": 60, "eval_every": 20, "batch_size": 32}, student={"steps": 60}, networks=dict.fromkeys(
        ("smoke", "small", "paper"), {NETWORK: Network("inception_resnet_v2_small:r=2**-5", "resnet1d:r=2**-4")})),
    reference="original", setup=Neighbours))
