"""1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn: the data of examples, for they need no download.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49
"""
import torch

from fxgrow.experiments.data.arrays import Arrays
from fxgrow.experiments.data.registry import Request, library, register


@register("digits")
def digits(request: Request) -> Arrays:
    """Read 1 x 8 x 8 images, values 0 to 16, of ten classes."""
    digits = library("sklearn.datasets", "scikit-learn", "digits").load_digits()
    names = tuple(str(c) for c in range(10))
    return Arrays(torch.from_numpy(digits.images).float()[:, None], torch.from_numpy(digits.target).long(), names)
