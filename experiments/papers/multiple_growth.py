"""Growing several times, against once by as much: widen twice, deepen twice, both."""
from fxgrow.experiments.papers.declaration import Arm, Experiment, register
from fxgrow.experiments.papers.presets import scales

WIDER, TWICE_WIDER = "widen factor={half}", "widen factor={half} + widen factor={half}"
DEEPER, TWICE_DEEPER = "deepen {places} times=1", "deepen {places} times=2"
JUMPS = (("r2r once", "r2r", 0.25), ("r2r once", "r2r", 0.5), ("random padding", "random", 0.5))


def _by(method: str, growth: str) -> str:
    return " + ".join(f"{step} method={method}" for step in growth.split(" + "))


def _arms(group: str, first: str, second: str, both: str) -> list[Arm]:
    """Return arms that all end with one architecture."""
    twice = tuple(f"fraction={at}: {_by('r2r', step)}" for at, step in ((0.25, first), (0.5, second)))
    jumps = [Arm(f"{name} at {at:.0%}", "residual", (f"fraction={at}: {_by(method, both)}",), group=group)
             for name, method, at in JUMPS]
    return [Arm("r2r at 25% and 50%", "residual", twice, group=group), *jumps,
            Arm("scratch", "residual", (f"step=0: {_by('r2r', both)}",), fresh=True, group=group)]


SCALES = scales(small={"steps": 150, "lr": 0.1})
for _scale, _half in (("smoke", 1.5), ("small", 1.5), ("paper", 2 ** 0.25)):
    SCALES[_scale].words["half"] = _half  # type: ignore[index]

register(Experiment(
    "multiple-growth", "Growing twice against growing once by as much: widening, deepening, both",
    "R2R (Painter 2024): transforms in a row",
    (*_arms("widen twice", WIDER, WIDER, TWICE_WIDER), *_arms("deepen twice", DEEPER, DEEPER, TWICE_DEEPER),
     *_arms("widen and deepen", WIDER, DEEPER, f"{WIDER} + {DEEPER}")),
    SCALES))
