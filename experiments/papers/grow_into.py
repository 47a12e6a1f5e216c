"""A stock network grown into one that is deeper and twice as wide, against that one from scratch.

ResNetCifar-10(r) and -18(2r) of R2R's paper (Painter 2024, arXiv:2410.11038), each as its class makes it: `fxgrow.grow_into`
fills the bigger one. Random padding reaches the same architecture by `widen` and `deepen`. From scratch the bigger one gets
the full length of training, and as many FLOPs as teacher and student take together (`SHARE` of its updates).
"""
from fxgrow.experiments.papers.declaration import Arm, Experiment, Network, register
from fxgrow.experiments.papers.presets import METHODS, scales

SHARE = 0.62
PADDING = "step=0: widen factor=2 method=random + deepen times=2 method=random"


def _networks(small: str, big: str, stem: str = "", large: str = "") -> dict[str, Network]:
    """Return both: widths r as text, options for small images and, if they are others, for large ones."""
    return {name: Network(f"cifar_{kind}:r={r}{stem}", large=f"cifar_{kind}:r={r}{large}" if large else "")
            for name, kind, r in (("small", "resnet10", small), ("big", "resnet18", big))}


register(Experiment(
    "grow-into", "A trained ResNetCifar-10 grown into ResNetCifar-18, twice as wide, against training that from scratch",
    "R2R (Painter 2024): its two networks; Net2Net (Chen 2015), figures 4 and 5: wider and deeper students",
    (Arm("teacher", "small"),
     *(Arm(method, "small", (f"step=0: into model={{big}} method={method}",), "teacher")
       for method in METHODS if method != "random"),
     Arm("net2net, noise", "small", ("step=0 noise=0.01: into model={big} method=net2net",), "teacher"),  # copies part
     Arm("random padding", "small", (PADDING,), "teacher"),
     Arm("scratch", "big"),
     Arm(f"scratch, {SHARE} of the updates", "big", share=SHARE)),
    scales(networks={"smoke": _networks("2**-4", "2**-3", ",stem=7"),
                     "small": _networks("2**-4", "2**-3", ",stem=3", ",stem=7"),
                     "paper": _networks("2**-3", "2**-2")})))
