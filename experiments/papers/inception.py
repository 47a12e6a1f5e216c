"""Widening Inception networks as Net2Net did, which all of that paper's measurements are on (Chen et al. 2015, figure 4)."""
from fxgrow.experiments.papers.declaration import Experiment, Network, register
from fxgrow.experiments.papers.presets import converging, scales


def _networks(options: str) -> dict[str, Network]:
    return {name: Network(f"{name}_small:{options}", f"{name}_1d:{options}")
            for name in ("inception_resnet_v2", "inception_v4")}


register(Experiment(
    "inception", "Widening small Inception-ResNet-v2 and Inception-v4 networks",
    "Net2Net (Chen 2015), figure 4; networks of Szegedy 2016",
    (*converging("inception_resnet_v2", "widen factor={factor}", "Inception-ResNet-v2"),
     *converging("inception_v4", "widen factor={factor}", "Inception-v4")),
    scales(small={"steps": 80, "eval_every": 5, "batch_size": 32}, student={"steps": 40},
           networks={"smoke": _networks("r=2**-5"), "small": _networks("r=2**-5"), "paper": _networks("r=2**-1.5")})))
