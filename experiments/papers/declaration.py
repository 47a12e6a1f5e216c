"""The parts of an experiment: named arms (what is trained, when and how it grows), and scales (which networks, how long).

What lives here: these and their registry. What does not: running one (running.py), its cost (cost.py), results (results.py).
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fxgrow.common import did_you_mean
from fxgrow.errors import FxgrowError

SMALL_SIDE = 16  # pixels, up to which a network's first layers need not make an image smaller


class ExperimentError(FxgrowError):
    """There is no such experiment, or it cannot be run as asked for."""


@dataclass(frozen=True)
class Network:
    """A network of the zoo in the form that images take, in the one for sequences, and in the one for text.

    Args:
        image, sequence, text: as behind `zoo:` on the command line; empty: the experiment cannot be run on such data.
        where: options of `deepen` that say where this network gets new blocks (`where=...`), for either form.
        large: the form for images whose side is above `SMALL_SIDE`, if they take another.
    """
    image: str = ""
    sequence: str = ""
    where: tuple[str, str] = ("", "")
    large: str = ""
    text: str = ""

    @classmethod
    def named(cls, model: str, why: str) -> "Network":
        """Return a network of the zoo, `zoo:NAME`, in either form; raise ExperimentError for others: `why` needs one."""
        if not model.startswith("zoo:"):
            raise ExperimentError(f"model is {model!r}: {why}, by the rules of the zoo, so name one of its networks, "
                                  "zoo:NAME (`fxgrow zoo` lists them)")
        name = model.removeprefix("zoo:")
        return cls(name, name)

    def on(self, input_shape: tuple[int, ...]) -> tuple[str, str]:
        """Return the zoo's name and the places to deepen at, for inputs of this shape (without the batch)."""
        large = self.large and max(input_shape[1:], default=0) > SMALL_SIDE
        forms = {1: (self.text, ""), 2: (self.sequence, self.where[1]),
                 3: (self.large if large else self.image, self.where[0])}
        name, places = forms.get(len(input_shape), ("", ""))
        if not name:
            raise ExperimentError(f"this experiment has no network for inputs of shape {input_shape}: choose other --data")
        return name, places


@dataclass(frozen=True)
class Scale:
    """A size in which an experiment is made.

    Args:
        networks: by the names that arms use.
        settings: of the training of every arm (names of `TrainConfig`).
        student: settings over these for arms that start from a teacher.
        words: what stands for `{name}` in the growths of arms.
        data: the data set, unless the user names another.
        validation: share of the training data that the curves are measured on.
        limit: so many samples of each part at most.
        checkpoints: whether a run that is interrupted goes on where it was (else it starts anew).
    """
    networks: Mapping[str, Network]
    settings: Mapping[str, Any]
    student: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)
    data: str = "digits"
    validation: float = 0.2
    limit: int | None = None
    checkpoints: bool = False


@dataclass(frozen=True)
class Arm:
    """One way of getting a trained network.

    Args:
        name: in tables and figures; unique in its group.
        network: which network of the scale it starts as.
        grow: growths as `fxgrow train --grow` takes them, with `{places}` for the network's places to deepen at, and
            `{name}` for a network of the scale as MODEL.
        teacher: the arm (of the same group) whose trained network it starts from.
        fresh: it is the network behind all growths from the start, every layer drawn anew: the from-scratch baseline,
            of the very architecture that the other arms end with.
        settings: of its training, over those of the scale.
        group: arms of a group share a figure and a part of the table.
        share: of the scale's length of training, that it gets.
    """
    name: str
    network: str
    grow: tuple[str, ...] = ()
    teacher: str = ""
    fresh: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    share: float = 1.0

    @property
    def key(self) -> str:
        """Return the name that is unique in the experiment."""
        return f"{self.group}/{self.name}" if self.group else self.name

    @property
    def teacher_key(self) -> str:
        """Return the key of its teacher."""
        return f"{self.group}/{self.teacher}" if self.group and self.teacher else self.teacher


@dataclass(frozen=True)
class Experiment:
    """A comparison of arms.

    Args:
        name: on the command line.
        title: one line.
        source: the paper, figure or table that it follows.
        arms: in the order of the table; a teacher comes before its students.
        scales: smoke, small and paper.
        reference: the arm of each group whose accuracy the others are to reach.
        filters: whether the first layers' filters are drawn.
        setup: the class of `Setup` that works out more arms, from a network of the user's (--model, --count).
    """
    name: str
    title: str
    source: str
    arms: tuple[Arm, ...]
    scales: Mapping[str, Scale]
    reference: str = "scratch"
    filters: bool = False
    setup: Callable[..., Any] | None = None

    def arm(self, key: str) -> Arm:
        """Return the arm of a key."""
        return next(arm for arm in self.arms if arm.key == key)

    @property
    def groups(self) -> list[str]:
        """Return the groups of arms, in order."""
        return list(dict.fromkeys(arm.group for arm in self.arms))

    @property
    def teachers(self) -> set[str]:
        """Return the keys of arms that others start from."""
        return {arm.teacher_key for arm in self.arms if arm.teacher}

    def levels(self) -> list[list[Arm]]:
        """Return the arms in the order in which they can run: each list needs only the ones before it."""
        levels: list[list[Arm]] = []
        done: set[str] = set()
        while rest := [arm for arm in self.arms if arm.key not in done]:
            levels.append([arm for arm in rest if not arm.teacher or arm.teacher_key in done])
            done |= {arm.key for arm in levels[-1]}
        return levels

    def scale(self, name: str) -> Scale:
        """Return the scale of a name, or raise ExperimentError."""
        if name not in self.scales:
            raise ExperimentError(f"experiment {self.name} has no scale {name!r}; it has {', '.join(self.scales)}")
        return self.scales[name]


_EXPERIMENTS: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Make an experiment known by its name.

    Raises:
        ExperimentError: the name is taken, two arms have one name, or a teacher or the reference is missing.
    """
    keys = [arm.key for arm in experiment.arms]
    if experiment.name in _EXPERIMENTS:
        raise ExperimentError(f"there is an experiment {experiment.name!r} already: give the new one another name")
    for i, arm in enumerate(experiment.arms):
        if arm.key in keys[:i]:
            raise ExperimentError(f"experiment {experiment.name!r} has two arms {arm.key!r}: name them differently")
        if arm.teacher and arm.teacher_key not in keys[:i]:
            raise ExperimentError(f"experiment {experiment.name!r}: arm {arm.key!r} starts from {arm.teacher_key!r}, which "
                                  "is no arm before it")
        for name, scale in experiment.scales.items():
            if arm.network not in scale.networks:
                raise ExperimentError(f"experiment {experiment.name!r}: scale {name} has no network {arm.network!r}, which "
                                      f"arm {arm.key!r} is of")
    for group in experiment.groups:
        if Arm(experiment.reference, "", group=group).key not in keys:
            raise ExperimentError(f"experiment {experiment.name!r} has no arm {experiment.reference!r} in "
                                  f"{group or 'it'}, the reference")
    _EXPERIMENTS[experiment.name] = experiment
    return experiment


def list_experiments() -> list[Experiment]:
    """Return all experiments, by name."""
    return [_EXPERIMENTS[name] for name in sorted(_EXPERIMENTS)]


def get_experiment(name: str) -> Experiment:
    """Return the experiment of a name; raise ExperimentError, with the nearest name, if there is none."""
    if name not in _EXPERIMENTS:
        raise ExperimentError(f"there is no experiment {name!r}{did_you_mean(name, _EXPERIMENTS)}; "
                              f"there are {', '.join(sorted(_EXPERIMENTS))}")
    return _EXPERIMENTS[name]
