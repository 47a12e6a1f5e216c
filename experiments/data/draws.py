"""What torch's generator draws first after each of many seeds, all at once."""
from typing import Any

import numpy as np

SHIFT = 397  # of the Mersenne twister


def first_numbers(seeds: np.ndarray, count: int) -> np.ndarray:
    """Return the first numbers of 32 bits that torch's generator on the CPU draws behind `manual_seed`, for each seed.

    M. Matsumoto, T. Nishimura, "Mersenne Twister", 1998, https://doi.org/10.1145/272991.272995. seeds: uint64 [n], count: up
    to 227. uint32, shape [count, n].
    """
    state: Any = (seeds & 0xFFFFFFFF).astype(np.uint32)
    first, later = [], []
    for i in range(SHIFT + count):
        state = 1812433253 * (state ^ (state >> 30)) + i if i else state
        if i <= count:
            first.append(state)
        if i >= SHIFT:
            later.append(state)
    high, low = np.stack(first[:-1]) & 0x80000000, np.stack(first[1:])
    drawn = np.stack(later) ^ ((high | (low & 0x7FFFFFFF)) >> 1) ^ (low & 1) * np.uint32(0x9908B0DF)
    drawn ^= drawn >> 11
    drawn ^= (drawn << 7) & 0x9D2C5680
    drawn ^= (drawn << 15) & 0xEFC60000
    return drawn ^ (drawn >> 18)
