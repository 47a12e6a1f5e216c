"""MNIST-1D: ten classes of sequences made by a program, which tells kinds of architectures apart at little cost.

S. Greydanus, D. Kobak, "Scaling Down Deep Learning with MNIST-1D", 2020, https://arxiv.org/abs/2011.14439
"""
import functools
import random

import numpy as np
import torch

from fxgrow.experiments.data.arrays import Arrays
from fxgrow.experiments.data.registry import Request, library, register


@register("mnist1d")
def mnist1d(request: Request) -> Arrays:
    """Make 1 x 40 sequences by the package's own settings and seed: 4,000 to train, 1,000 to test, always the same.

    The package normalises by all of them; the train part's statistics undo that, since both are affine.
    """
    arrays = _generate()
    x, y, test_x, test_y = (torch.from_numpy(arrays[key]) for key in ("x", "y", "x_test", "y_test"))
    return Arrays(x.float()[:, None], y.long(), tuple("0123456789"), (test_x.float()[:, None], test_y.long()))


@functools.lru_cache(maxsize=1)  # seconds of work, the same outcome each time
def _generate() -> dict[str, np.ndarray]:
    before = random.getstate(), np.random.get_state()  # the package seeds every global generator
    try:
        with torch.random.fork_rng():
            package = library("mnist1d.data", "mnist1d", "mnist1d")
            return package.make_dataset(package.get_dataset_args())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
