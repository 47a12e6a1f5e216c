"""The record of one ATen op that was run on meta tensors; analyses extend it by what they say of its results."""
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Recorded:
    """One ATen op that was run.

    name: without namespace and overload. place: the layer or node in which it ran, in words; node: the graph node's name.
    func: the overload. args: positional arguments. ins: for each tensor that it was given, what stands for it.
    """
    name: str = ""
    place: str = ""
    node: str = ""
    func: Any = None
    args: tuple = ()
    ins: list = field(default_factory=list)

    @property
    def numbers(self) -> list[int | float]:
        """Return the numbers among the positional arguments."""
        return [a for a in self.args if isinstance(a, (int, float))]

    def arg(self, position: int, default: Any = None) -> Any:
        """Return a positional argument, or `default` where it was not given."""
        return self.args[position] if len(self.args) > position else default
