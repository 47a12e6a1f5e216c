"""Repetitions in a row of things: from where on, and with which period, each thing is like the one a period before it.

What does not live here: what the things are, and what makes them alike (repeats.py).
"""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy
from numpy import ndarray

# What a thing reads: where that lies as seen from it, and which it is. It is like another's if either is the same.
Read: TypeAlias = tuple[Hashable, Hashable]
SLOTS = 12  # reads that are compared one by one; those beyond are compared together


def periods(forms: Sequence[int], reads: Sequence[Sequence[Read]]) -> list[list[int]]:
    """Return for each place the periods of a repetition that begins there, the one that covers most last.

    Units of a repetition have the same forms; from the second on they also read alike: the first may read anything. All
    periods are tried, each at all places at once: n * n / 2 comparisons of numbers, a second for 10,000 things.
    """
    form, (near, far) = numpy.array(forms), _slots(reads)
    n = len(form)
    most = numpy.zeros(n, int)
    found: list[list[int]] = [[] for _ in range(n)]
    for period in range(1, n // 2 + 1):
        same = form[period:] == form[:-period]
        starts = numpy.flatnonzero(_runs(same) >= period)
        if not len(starts):
            continue
        wired = ((near[period:] == near[:-period]) | (far[period:] == far[:-period])).all(1)
        further = numpy.append(_runs(same & wired), numpy.zeros(period, int))[starts + period] // period
        covered = period * (1 + further)
        better = covered > most[starts]
        most[starts[better]] = covered[better]
        for start in starts[better].tolist():
            found[start].append(period)
    return found


def _runs(true: ndarray) -> ndarray:
    """Return at each place how many follow each other from there on."""
    at = numpy.arange(len(true))
    ends = numpy.where(true, len(true), at)
    return numpy.minimum.accumulate(ends[::-1])[::-1] - at


def _slots(reads: Sequence[Sequence[Read]]) -> tuple[ndarray, ndarray]:
    """Return the reads as numbers [things, slots], by where they lie and by which they are; 0 where there are no more."""
    rows = [[*row[:SLOTS], tuple(zip(*row[SLOTS:]))] if len(row) > SLOTS else row for row in reads]
    tables = tuple(numpy.zeros((len(rows), max(map(len, rows), default=0)), int) for _ in range(2))
    for table, side in zip(tables, (0, 1)):
        numbers: dict[Hashable, int] = {}
        for i, row in enumerate(rows):
            table[i, :len(row)] = [numbers.setdefault(read[side], len(numbers) + 1) for read in row]
    return tables[0], tables[1]
