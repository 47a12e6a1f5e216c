"""How large new weights should be, and which learning rate growth should go on with.

Widening at half of training. The sizes: as the layer's own (match_std), such that the first gradient is as large on new
numbers as on old ones (`equalise`), zero where they are read (netmorph), and much larger (R2R's appendix E). The rates: the
schedule goes on; `alpha' = alpha |theta_old| / |theta_new|` (the report's rule); the full rate again, decayed faster (LEMON,
Wang et al. 2023, arXiv:2310.07999); warm-up, stable, decay with the growth in the stable part (Bu 2025); a second warm-up.
"""
from fxgrow.experiments.papers.declaration import Arm, Experiment, register
from fxgrow.experiments.papers.presets import scales


def _growth(options: str = "", passes: str = "method=r2r", at: float = 0.5) -> tuple[str, ...]:
    return (f"fraction={at} {options}: widen factor={{factor}} {passes}",)


WSD = {"schedule": "wsd", "warmup": 0.05, "decay": 0.3}

register(Experiment(
    "scale-and-rate", "The size of new weights and the learning rate when widening at half of training",
    "R2R (Painter 2024), report and appendix E; LEMON (Wang 2023); Bu 2025",
    (*(Arm(name, "wide", _growth(passes=passes), group="size of new weights") for name, passes in (
        ("match_std", "method=r2r"), ("equal gradients", "method=r2r + equalise"), ("zero consumer", "method=netmorph"),
        ("sd 0.01", "method=r2r init=0.01"), ("sd 0.3", "method=r2r init=0.3"), ("random padding", "method=random"))),
     Arm("never grown", "wide", group="size of new weights"),
     Arm("scratch", "wide", _growth(), fresh=True, group="size of new weights"),
     *(Arm(name, "wide", _growth(options), settings=settings, group="learning rate") for name, options, settings in (
         ("schedule goes on", "", {}), ("parameter ratio", "lr=ratio", {}), ("LEMON: full rate again", "lr=restart", {}),
         ("new numbers x 3", "lr=parts new=3", {}), ("warm-up, stable, decay", "", WSD),
         ("the same, warmed up again", "lr=rewarm rewarm=8", WSD))),
     Arm("random padding", "wide", _growth(passes="method=random"), group="learning rate"),
     Arm("scratch", "wide", _growth(), fresh=True, group="learning rate"),
     Arm("scratch, warm-up, stable, decay", "wide", _growth(), fresh=True, settings=WSD, group="learning rate")),
    scales(small={"steps": 150, "lr": 0.1})))
