"""The names of data sets, and how a train, a validation and a test part that share nothing are made of one."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxgrow.common import brief, load_plugin, nearest, plugins
from fxgrow.errors import FxgrowError
from fxgrow.experiments.settings import IGNORED, optional

GROUP = "fxgrow.data"
TEST = 0.2  # share of the test part where a data set has none


class DataError(FxgrowError):
    """A data set cannot be had, or its files are not what they should be."""


@dataclass(frozen=True)
class Request:
    """A data set to read, `name:path`, with files in `root` (fetched if `download`); size: the side of images in pixels."""
    name: str
    path: str
    root: Path | None
    download: bool
    size: int | None


class Examples(Dataset):
    """Pairs (tensor, target) of some rows of a data set; a subclass reads one. A label of a class is an int.

    together: whether `take` gives many at once, which is faster, and `draw` what is random in them.
    """
    together = False

    def __init__(self, y: Tensor, rows: Tensor, random: bool):
        """Take all targets [N, ...], the rows in order [n], and whether torch's generator draws examples anew each time."""
        self.y, self.rows, self.random = y, rows, random

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        row = int(self.rows[index])
        return self.read(row), self.target(row)

    def target(self, row: int) -> Any:
        """Return the target in a row of the data set: an int where it is a class, else a tensor."""
        y = self.y[row]
        return y if y.ndim or y.is_floating_point() else int(y)

    def draw(self, seeds: np.ndarray) -> Tensor | None:
        """Return what is random in examples, each with its seed (uint64 [n]), as a tensor of n rows; None: nothing is."""
        return None

    def take(self, rows: Tensor, drawn: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the examples in some rows of the data set on a device. rows: int64 [n]; drawn: of `draw`; on the CPU."""
        raise NotImplementedError

    def read(self, row: int) -> Tensor:
        """Return the example in a row of the data set."""
        raise NotImplementedError

    @property
    def labels(self) -> Tensor:
        """Return the labels of these rows. Shape [n]."""
        return self.y[self.rows]


Parts = tuple[Examples, Examples, Examples]  # train, validation, test


class Source:
    """A data set as a reader returns it (see `Arrays`); `test` is None where a test part must be cut from the rest.

    task: what a network is trained for on it, unless something else is said.
    """
    labels: Tensor
    class_names: tuple[str, ...]
    test: tuple[Any, Tensor] | None
    task = "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of an example."""
        raise NotImplementedError

    def parts(self, train: Tensor, validation: Tensor, test: Tensor, augment: bool | None) -> Parts:
        """Return the three parts, each of the rows given."""
        raise NotImplementedError

    def cut(self, name: str, validation: float, seed: int, augment: bool | None, limit: int | None) -> Parts:
        """Return the three parts, drawn by the seed, each class with its share; DataError if labels are out of range."""
        labels, test_labels = self.labels, self.test[1] if self.test else None
        if self.task in ("classification", "segmentation"):
            _check_labels(name, labels, test_labels, len(self.class_names))
        if self.task != "classification":  # all count as one class
            labels = torch.zeros(len(labels), dtype=torch.int64)
            test_labels = None if test_labels is None else torch.zeros(len(test_labels), dtype=torch.int64)
        if test_labels is None:
            rest, test = stratified_split(labels, TEST, seed=0)
        else:
            rest, test = torch.arange(len(labels)), torch.arange(len(test_labels))
        train, held_out = (rest[part] for part in stratified_split(labels[rest], validation, seed))
        if limit is not None:
            train, held_out = (p[stratified_subset(labels[p], limit, seed)] for p in (train, held_out))
            test = test[stratified_subset((labels if test_labels is None else test_labels)[test], limit, seed)]
        if not len(train):
            raise DataError(f"{name} has no examples to train on")
        return self.parts(train, held_out, test, augment)


@dataclass(frozen=True)
class Data:
    """Three map-style datasets of pairs (tensor of shape `input_shape`, target).

    class_names: of what the network tells apart: classes, tokens; for regression, of the numbers that it predicts.
    """
    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    task: str = "classification"

    @property
    def classes(self) -> int:
        """Return how many classes, tokens, or numbers to predict there are: so many outputs a network has."""
        return len(self.class_names)

    def first(self, count: int) -> Tensor:
        """Return the first samples of the train part as a batch, fewer than `count` if it has no more."""
        return torch.stack([self.train[i][0] for i in range(min(count, len(self.train)))])


_READERS: dict[str, tuple[Callable[[Request], Source], bool]] = {}  # and whether the name goes on with a path


def register(name: str, *, path: bool = False):
    """Register a function that takes a `Request` and returns a `Source`; with `path`, the data set is called `name:PATH`.

    A package of your own names it in an entry point of the group `fxgrow.data`, and is imported when it is asked for.
    """
    def keep(read: Callable[[Request], Source]) -> Callable[[Request], Source]:
        _READERS[name] = read, path
        return read
    return keep


def list_data() -> list[str]:
    """Return the names that `load_data` takes, those of installed packages among them."""
    here = {name: f"{name}:PATH" if with_path else name for name, (_, with_path) in _READERS.items()}
    return sorted({**{name: name for name in plugins(GROUP)}, **here}.values())


def _reader(name: str) -> tuple[Callable[[Request], Source], bool]:
    """Return what reads a data set, and whether its name goes on with a path; it may be that of an installed package."""
    installed = plugins(GROUP)
    if name not in _READERS and name in installed:
        read = load_plugin(installed[name], f"the data set {name}")
        if name not in _READERS:
            register(name)(read)
    if name not in _READERS:
        known = [*_READERS, *installed]
        raise DataError(f"there is no data set {name!r}{nearest(name, known)}; there are {', '.join(list_data())}")
    return _READERS[name]


def load_data(name: str, *, root: str | Path | None = None, download: bool = False, validation: float = 0.1, seed: int = 0,
              augment: bool | None = None, limit: int | None = None, size: int | None = None) -> Data:
    """Load the parts of a data set.

    Validation is cut from the train part, each class with its share, and so is a test part where the data set has none
    of its own (a fifth, the same whatever the seed). Statistics for the normalisation are the train part's, and only
    the train part is augmented.

    Args:
        name: one of `list_data()`; a path that ends in .npz is enough for npz:PATH.
        root: the folder that holds the files of mnist, cifar10, cifar100, svhn or imagenet.
        download: fetch the files into `root` if they are not there.
        validation: share of the train part that is held out, in [0, 1).
        seed: of the validation part and of the choice that `limit` makes.
        augment: None: as papers do on these data; True: shifted at random at least; False: not at all.
        limit: at most so many examples in each part, each class with its share.
        size: height and width of images from folders, in pixels (224 if not said); the other data have theirs.

    Raises:
        DataError: there is no such data set, its files are missing or damaged, or a number makes no sense.
    """
    _check(validation, limit, size)
    kind, _, path = name.partition(":")
    if kind not in _READERS and name.endswith(".npz"):
        kind, path = "npz", name
    read, with_path = _reader(kind)
    if path and not with_path:
        raise DataError(f"{name}: {kind} takes no path; say where its files are with root")
    source = read(Request(kind, path, Path(root) if root is not None else None, download, size))
    if not isinstance(source, Source):
        raise DataError(f"{name}: its reader gave {brief(source)}; it gives a Source, such as Arrays(images, labels, names)")
    return parted(source, name, validation, seed, augment, limit)


def parted(source: Source, name: str, validation: float = 0.1, seed: int = 0, augment: bool | None = None,
           limit: int | None = None) -> Data:
    """Return the parts of a data set that was read, as `load_data` does.

    Raises:
        DataError: labels are out of range, or there is nothing to train on.
    """
    _check(validation, limit, None)
    parts = source.cut(name, validation, seed, augment, limit)
    return Data(name, *parts, source.class_names, source.input_shape, source.task)


def _check(validation: float, limit: int | None, size: int | None) -> None:
    if not 0 <= validation < 1:
        raise DataError(f"validation is {validation}: it is a share of the train part, from 0 to less than 1")
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}: keep at least one example, or leave it out")
    if size is not None and size < 1:
        raise DataError(f"size is {size}: it is the side of the images in pixels")


def _check_labels(name: str, labels: Tensor, test_labels: Tensor | None, classes: int) -> None:
    for what, y in (("labels", _counted(labels)), ("labels of the test part", _counted(test_labels))):
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise DataError(f"{name}: {what} run from {int(y.min())} to {int(y.max())}; with {classes} classes they must be "
                            f"in 0 ... {classes - 1}")
    y = _counted(labels)
    if len(labels) and (not len(y) or y.min() == y.max()):
        there = f"all labels are {int(y[0])}" if len(y) else "no pixel counts"
        raise DataError(f"{name}: {there}: there is nothing to tell apart, give examples of two classes at least")


def _counted(labels: Tensor | None) -> Tensor:
    """Return the labels of what counts, one behind the other."""
    return torch.zeros(0) if labels is None else labels[labels != IGNORED] if labels.ndim > 1 else labels


def numbered(name: str, labels: Tensor) -> tuple[str, ...]:
    """Return names of classes that have none: numbers up to the highest label; DataError if most of these occur nowhere."""
    there = _counted(labels).unique()
    highest = int(there[-1]) if len(there) else 0
    if highest >= max(2, 2 * len(there)):
        pixels = f", or write {IGNORED} where a pixel does not count" if labels.ndim > 1 else ""
        raise DataError(f"{name}: labels go up to {highest}, and only {len(there)} numbers occur: count classes from 0, or "
                        f"name them by class_names{pixels}")
    return tuple(str(c) for c in range(highest + 1))


def library(module: str, package: str, name: str) -> Any:
    """Import a module of an optional package, which the data set `name` needs."""
    return optional(module, f"{name} needs {package}", "train", DataError)


def root_of(request: Request, *, can_fetch: bool) -> Path:
    """Return the folder of a data set's files; refuse if there is none, or if fetching is asked for and cannot be done."""
    if request.root is None:
        raise DataError(f"{request.name} needs root, the folder of its files"
                        f"{', into which download=True fetches them' if can_fetch else ''}")
    if request.download and not can_fetch:
        raise DataError(f"{request.name} cannot be downloaded: its terms want every user to sign in for it")
    if not request.root.is_dir() and not request.download:
        raise DataError(f"{request.name}: there is no folder {request.root}"
                        f"{'; download=True makes it and fetches the files' if can_fetch else ''}")
    return request.root


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the rest and of the share that is held out, in [0, 1), both in ascending order.

    Of a class with n members, n * fraction are held out, rounded down or up (by largest remainders, so that the whole
    part has round(N * fraction) members where that is possible), and never the last one. labels: int64, shape [N].
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    members = [order[labels[order] == c] for c in labels.unique().tolist()]
    exact = [len(m) * fraction for m in members]
    quotas = [min(int(e), len(m) - 1) for e, m in zip(exact, members)]
    missing = round(len(labels) * fraction) - sum(quotas)
    by_remainder = sorted(range(len(members)), key=lambda c: (quotas[c] - exact[c], len(order) - len(members[c])))
    for c in by_remainder:
        if missing > 0 and quotas[c] < exact[c] and quotas[c] < len(members[c]) - 1:
            quotas[c] += 1
            missing -= 1
    return _joined([m[q:] for m, q in zip(members, quotas)]), _joined([m[:q] for m, q in zip(members, quotas)])


def stratified_subset(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Return the indices of `limit` examples (all, if there are no more), every class with its share."""
    if limit >= len(labels):
        return torch.arange(len(labels))
    rest, held_out = stratified_split(labels, limit / len(labels), seed)
    missing = limit - len(held_out)  # classes with a single member are never held out
    extra = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:missing]]
    return _joined([held_out, extra])


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).sort().values if parts else torch.zeros(0, dtype=torch.int64)
