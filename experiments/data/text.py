"""Text as bytes or tokens: files of your own, or the source text of Python's standard library, which is always at hand.

An example is a window of tokens; its target is the window one further on. Parts share no file.
"""
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxgrow.experiments.data.arrays import Resident
from fxgrow.experiments.data.registry import TEST, DataError, Examples, Parts, Request, Source, register
from fxgrow.experiments.settings import optional

LENGTH = 128  # of a window, where no other is said
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "idlelib", "turtledemo"}
BYTES = tuple(bytes([b]).decode("latin-1") for b in range(256))


class Windows(Examples):
    """Windows of `length` tokens out of a text, none of which overlap; shifted at random if `random`.

    bytes_per_token: of this text.
    """
    together = True

    def __init__(self, text: Resident, length: int, rows: Tensor, random: bool, bytes_per_token: float):
        super().__init__(text.tensor, rows, random)
        self.text, self.length, self.bytes_per_token = text, length, bytes_per_token

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = torch.randint(0, self.length, (1, 1)) if self.random else None
        x, y = self.take(self.rows[index, None], shift, torch.device("cpu"))
        return x[0], y[0]

    def draw(self, seeds: np.ndarray) -> Tensor | None:
        """Return how far each window is shifted. int64, shape [n, 1]."""
        return torch.from_numpy((seeds % np.uint64(self.length)).astype(np.int64))[:, None] if self.random else None

    def take(self, rows: Tensor, drawn: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return windows and the same one token further on. int64, shape [n, length] each."""
        start = rows[:, None] * self.length + (0 if drawn is None else drawn)
        store = self.text.on(device)
        start = start.clamp_max(len(store) - self.length - 1).to(store.device)
        windows = store[start + torch.arange(self.length + 1, device=store.device)].to(device, torch.int64)
        return windows[:, :-1], windows[:, 1:]


@dataclass
class Text(Source):
    """Texts, each whole in one part: `tokens` int [n] of each, how many bytes each has, and the names of all tokens."""
    tokens: Sequence[Tensor]
    sizes: Sequence[int]
    class_names: tuple[str, ...] = BYTES
    length: int = LENGTH
    task: str = field(default="language", init=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of a window."""
        return (self.length,)

    def cut(self, name: str, validation: float, seed: int, augment: bool | None, limit: int | None) -> Parts:
        """Return three parts that share no file, of about their shares of the bytes; `limit` is of windows.

        The train part's windows are shifted at random, unless `augment` says no.
        """
        rest, test = self._share(list(range(len(self.tokens))), TEST, 0)
        train, held_out = self._share(rest, validation, seed)
        parts = (self._windows(train, augment is not False, limit), self._windows(held_out, False, limit),
                 self._windows(test, False, limit))
        if not len(parts[0]):
            raise DataError(f"{name} has no stretch of {self.length + 1} tokens to train on: give more text")
        return parts

    def _share(self, files: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
        """Return the rest, and files of about this share of the bytes, drawn by the seed."""
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        wanted, taken = share * sum(self.sizes[i] for i in files), set()
        for i in (files[at] for at in order):
            if self.sizes[i] / 2 < wanted:
                taken.add(i)
                wanted -= self.sizes[i]
        taken = taken if len(taken) < len(files) else set()
        return [i for i in files if i not in taken], [i for i in files if i in taken]

    def _windows(self, files: Iterable[int], random: bool, limit: int | None) -> Windows:
        files = list(files)
        text = torch.cat([self.tokens[i] for i in files]) if files else torch.zeros(0, dtype=torch.uint8)
        rows = torch.arange(max(0, len(text) - 1) // self.length)[:limit]
        return Windows(Resident(text), self.length, rows, random, sum(self.sizes[i] for i in files) / max(1, len(text)))


@register("text", path=True)
def text(request: Request) -> Text:
    """Read `text:PATH`, a file or all files of a folder that are text, as bytes; `text:PATH?tokens=FILE&length=256`.

    FILE is what `tokenizers` saves (tokenizer.json of any model).
    """
    path, options = _options(request)
    root = Path(path)
    if not path or not root.exists():
        raise DataError(f"there is no file or folder {path or '(none given)'}: name it as text:PATH")
    files = [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file() and _shown(f.relative_to(root)))
    contents = [content for f in files if b"\0" not in (content := f.read_bytes()) and content]
    if not contents:
        raise DataError(f"{path} holds no text: files that hold zero bytes are taken for something else")
    return _text(_in_pieces(contents), options)


@register("stdlib")
def stdlib(request: Request) -> Text:
    """Read the source text of the running Python's standard library, as bytes, in the order of its files' names.

    Its tests are left out. What it says depends on the version of Python.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(f for f in root.rglob("*.py") if not LEFT_OUT & set(f.relative_to(root).parts))
    if not files:
        raise DataError(f"{root} holds no source text of Python's standard library: give text:PATH")
    return _text([f.read_bytes() for f in files if f.stat().st_size], {})


def _options(request: Request) -> tuple[str, dict[str, str]]:
    path, _, words = request.path.partition("?")
    options = dict(word.partition("=")[::2] for word in words.split("&") if word)
    strange = options.keys() - {"tokens", "length"}
    if strange or not options.get("length", "1").isdigit() or options.get("length") == "0":
        raise DataError(f"text:{request.path}: write text:PATH?tokens=FILE&length=256, either or both")
    return path, options


def _shown(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _in_pieces(contents: list[bytes]) -> list[bytes]:
    """Return the contents, cut into a hundred pieces where there are too few files to make three parts of."""
    if len(contents) >= 20:
        return contents
    whole = b"\n".join(contents)
    size = max(1, -(-len(whole) // 100))
    return [whole[i:i + size] for i in range(0, len(whole), size)]


def _text(contents: list[bytes], options: dict[str, str]) -> Text:
    length, sizes = int(options.get("length", LENGTH)), [len(c) for c in contents]
    if "tokens" not in options:
        return Text([torch.frombuffer(bytearray(c), dtype=torch.uint8) for c in contents], sizes, length=length)
    tokenizer = _tokenizer(options["tokens"])
    encoded = tokenizer.encode_batch([c.decode("utf-8", "replace") for c in contents], add_special_tokens=False)
    names = tuple(str(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size()))
    return Text([torch.tensor(e.ids, dtype=torch.int32) for e in encoded], sizes, names, length)


def _tokenizer(path: str) -> Any:
    package = optional("tokenizers", "tokens= needs tokenizers", "tokenizers", DataError)
    try:
        return package.Tokenizer.from_file(path)
    except Exception as error:  # the package raises bare Exceptions
        raise DataError(f"{path} is no tokenizer that can be read ({error}): give what tokenizers saves") from error
