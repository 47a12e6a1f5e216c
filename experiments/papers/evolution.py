"""Evolution against what else the same FLOPs buy (`fxgrow experiment evolution`): the arms and their sizes.

What does not live here: how an arm is run (search_runs.py).
"""
from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, Scale, register
from fxgrow.experiments.papers.search_runs import APART, BASE, NETWORK, SCRATCH, Comparison

SELECTIONS = ("best", "diverse", "aging", "nsga2", "hill", "random")
ARMS = (Arm(BASE, NETWORK), Arm(APART, NETWORK), *(Arm(name, NETWORK) for name in SELECTIONS),
        Arm(SCRATCH, NETWORK, teacher="best", fresh=True))

SMALL = Network("net2net_conv:r=2**-4", "mlp:hidden=(16,16)")
TRAINING = {"batch_size": 32, "lr": 0.05, "schedule": "cosine", "clip": 1.0}

# `steps` of the base network are what every arm may spend, in FLOPs.
SCALES = {
    "smoke": Scale({NETWORK: Network("mlp:hidden=(8,8)", "mlp:hidden=(8,8)")},
                   {**TRAINING, "steps": 120, "eval_every": 6}, validation=0.1, limit=64),
    "small": Scale({NETWORK: SMALL}, {**TRAINING, "steps": 2400, "eval_every": 120}, validation=0.1),
    "paper": Scale({NETWORK: Network("residual3", "resnet1d:r=2**-2")},
                   {**TRAINING, "batch_size": 64, "steps": 250_000, "eval_every": 12_500}, data="cifar10", validation=0.1),
}

register(Experiment(
    "evolution", "Evolution of networks against random search, longer training and ensembles, at equal FLOPs",
    "Deep neuroevolution with shared weights: its table on CIFAR-10", ARMS, SCALES, reference=BASE, setup=Comparison))
