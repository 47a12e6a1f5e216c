"""Seeds: one number made of several."""
from typing import Any

MASK = 2 ** 64 - 1


def mixed(*numbers: int) -> int:
    """Mix several numbers into one seed; neighbours have nothing in common (the finaliser of splitmix64)."""
    return mixed_each(*numbers)


def mixed_each(*numbers: Any) -> Any:
    """Return `mixed` of numbers of which the last may be an array of uint64: a seed for each."""
    state: Any = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state = state ^ (state >> 31)
    return state >> 1
