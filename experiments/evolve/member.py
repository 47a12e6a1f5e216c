"""A network of a population as data: where it comes from, what it costs, how well it does."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Member:
    """One network of a search.

    Args:
        number, round: which one it is, and the round that made it.
        parent: the number of the network that it grew from; None: it is the base network.
        step: the pass that made it, with its seed, as `build` takes it.
        graph: a hash of its structure.
        parameters, flops: how many numbers it has, and the FLOPs of a forward pass for one sample.
        latency: milliseconds of that pass, if measured.
    """
    number: int
    round: int
    parent: int | None
    step: dict[str, Any] | None
    graph: str
    parameters: int
    flops: int
    latency: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """A member as it was after a training.

    Args:
        archive: a hash of its file; empty: the training failed.
        accuracy, loss: on the validation part.
        correct: which of its samples it got right, as a string of 0 and 1.
        spent, steps, seconds: FLOPs, steps and time of this training.
        fitness: what the search's own fitness gave, where it has one.
    """
    member: Member
    round: int
    archive: str
    accuracy: float
    loss: float
    correct: str
    spent: int
    steps: int
    seconds: float
    fitness: float | None = None

    @property
    def score(self) -> float:
        """Return by what the networks are compared, the higher the better: the fitness, without one the accuracy."""
        return self.accuracy if self.fitness is None else self.fitness

    @property
    def number(self) -> int:
        """Return the member's number."""
        return self.member.number


def ancestry(members: Mapping[int, Member], number: int) -> list[int]:
    """Return a member's ancestors, the base network first, and itself."""
    line = [number]
    while (parent := members[line[0]].parent) is not None:
        line.insert(0, parent)
    return line
