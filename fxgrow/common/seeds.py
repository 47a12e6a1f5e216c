"""Seeds: one number made of several."""


def mixed(*numbers: int) -> int:
    """Mix several numbers into one seed; neighbours have nothing in common (the finaliser of splitmix64)."""
    mask, state = 2 ** 64 - 1, 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
