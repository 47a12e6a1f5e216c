"""Refusals: why something cannot be done exactly."""
from collections.abc import Sequence
from typing import Any


class Refusal(Exception):
    """Why one way is not exact; the caller catches it, tries another way, or shows the reason to the user.

    Args:
        reason: a sentence that says why and, where there is a choice, what to do.
        place: the layer or op, if the reason does not name it.
        classes: the axis classes that have to stay as they are for its sake.
    """

    def __init__(self, reason: str, place: str = "", classes: Sequence[Any] = ()):
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason, self.place, self.classes = reason, place, tuple(classes)
