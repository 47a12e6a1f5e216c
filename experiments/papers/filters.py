"""First-layer filters before and after widening, and after training on (R2R's paper, figure 4)."""
from fxgrow.experiments.papers.declaration import Experiment, Network, register
from fxgrow.experiments.papers.presets import converging, scales

register(Experiment(
    "filters", "Filters of the first layer before and after widening by each method, and after training on",
    "R2R (Painter 2024), figure 4",
    tuple(converging("first", "widen factor={factor}")),
    scales(networks={"smoke": {"first": Network("net2net_conv:r=2**-4", "resnet1d:r=2**-4")},
                     "small": {"first": Network("net2net_conv:r=2**-2", "resnet1d:r=2**-3", large="net2net_conv:r=2**-3")},
                     "paper": {"first": Network("cifar_resnet18:r=2**-2", "resnet1d:r=2**-1")}}),
    filters=True))
