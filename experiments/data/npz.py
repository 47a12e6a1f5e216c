"""Any NumPy archive with arrays `images` and `labels`, or `targets` to predict, or `masks`, a class for each pixel."""
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxgrow.experiments.data.arrays import Arrays, channels_first, padded_crop
from fxgrow.experiments.data.registry import DataError, Request, numbered, register

FORM = ("it holds `images`, N x height x width or N x channels x ... numbers, or N x height x width x 3 bytes, and "
        "`labels`, N whole numbers from 0 (or `targets` to predict, or `masks`)")


# what labels, targets and masks are: types of numbers, and how many axes
KINDS = {"labels": ("ui", (1,)), "targets": ("uif", (1, 2)), "masks": ("ui", (2, 3, 4))}


@register("npz", path=True)
def npz(request: Request) -> Arrays:
    """Read `images` [N, height, width], [N, channels, ...] or, bytes, [N, height, width, 1, 3 or 4] and `labels` [N].

    Instead of labels, fractions `targets` [N] or [N, k] are for regression (`images` may be a table [N, k] then), whole
    numbers `masks` [N, height, width] for segmentation. `test_images`, `test_labels` (..., so called) and `class_names`
    (strings) are read if it has them, and `augment` (strings): how images may change and stay of their class, `shift`, or
    `shift` and `flip`. Nothing in the file is run: it is read without pickles.
    """
    path = Path(request.path)
    if not path.is_file():
        raise DataError(f"there is no file {path}: name one as npz:PATH; {FORM}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} cannot be read as an .npz archive (it is no zip file); {FORM}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz archive of plain arrays ({error}); {FORM}") from error
    what = next((key for key in ("targets", "masks") if key in arrays and "labels" not in arrays), "labels")
    missing = [key for key in ("images", what) if key not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r} (it has {', '.join(arrays) or 'none'}); {FORM}")
    x, y = _pair(path, arrays, "", what)
    test = _pair(path, arrays, "test_", what) if {"test_images", f"test_{what}"} & arrays.keys() else None
    if test and test[0].shape[1:] != x.shape[1:]:
        raise DataError(f"{path}: test_images are {tuple(test[0].shape[1:])}, images {tuple(x.shape[1:])}: they must agree")
    names = _class_names(path, arrays, torch.cat([y, test[1]]) if test else y)
    return Arrays(x, y, names, test, _augmentation(path, arrays, x))


def _augmentation(path: Path, arrays: dict[str, np.ndarray], x: Tensor) -> padded_crop | None:
    """Return what the file says that may be done to its images, if it does."""
    said = set(np.atleast_1d(arrays.get("augment", ())).tolist())
    if not said:
        return None
    if x.ndim < 3 or said not in ({"shift"}, {"shift", "flip"}):
        raise DataError(f"{path}: augment is {', '.join(map(repr, sorted(map(str, said))))}; it is 'shift', or 'shift' and "
                        "'flip', and for images or sequences")
    return padded_crop(x.shape[1:], "flip" in said)


def _class_names(path: Path, arrays: dict[str, np.ndarray], labels: Tensor) -> tuple[str, ...]:
    """Return those of the file, or the numbers up to the highest label."""
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise DataError(f"{path}: class_names is {names.dtype} of shape {names.shape}; it holds one string a class")
        return tuple(str(name) for name in names)
    if labels.is_floating_point():
        return tuple(str(i) for i in range(labels[0].numel()))
    return numbered(str(path), labels)


def _pair(path: Path, arrays: dict[str, np.ndarray], prefix: str, what: str) -> tuple[Tensor, Tensor]:
    """Return examples with a channel axis, and labels; or an error that says what is wrong with them."""
    names = f"{prefix}images", f"{prefix}{what}"
    if not all(n in arrays for n in names):
        raise DataError(f"{path} has one of {names[0]} and {names[1]} only; it needs both or neither")
    x, y = (arrays[n] for n in names)
    if x.ndim < (2 if what == "targets" else 3) or x.dtype.kind not in "uifb" or not x.size:
        raise DataError(f"{path}: {names[0]} is {x.dtype} of shape {x.shape}; {FORM}")
    kinds, dims = KINDS[what]
    if y.ndim not in dims or y.dtype.kind not in kinds:
        raise DataError(f"{path}: {names[1]} is {y.dtype} of shape {y.shape}; {FORM}")
    if len(x) != len(y):
        raise DataError(f"{path}: {len(x)} {names[0]} but {len(y)} {names[1]}; {FORM}")
    for name, array in zip(names, (x, y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{path}: {name} holds numbers that are not finite: clean them first")
    if x.dtype not in (np.uint8, np.float32):
        x = x.astype(np.float32)
    images = channels_first(torch.from_numpy(x if x.ndim != 3 else x[:, None]))
    if what == "masks" and y.shape[1:] != images.shape[2:]:
        raise DataError(f"{path}: {names[1]} are of shape {y.shape}, images {tuple(images.shape)}: one class a pixel")
    return images, torch.from_numpy(y.astype(np.float32 if what == "targets" else np.int64))
