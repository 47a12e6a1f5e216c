"""What the options of several passes have in common: names, seeds and words out of a list."""
import contextlib
import typing
from collections.abc import Iterator, Sequence

import torch

from fxgrow.errors import GrowthError


def listed(where: str | Sequence[str] | None) -> list[str]:
    """Return the globs of a `where`: one, several, or (None) none."""
    return [where] if isinstance(where, str) else list(where or [])


def seed_of(seed: int | None) -> int:
    """Return the seed; None takes one from torch's global generator."""
    return int(torch.randint(2 ** 31, ())) if seed is None else seed


def insist_known(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a GrowthError unless an option has one of the values that it may have."""
    if value not in allowed:
        raise GrowthError(f"{name} {value!r} is not known; choose one of {', '.join(allowed)}")


def check_choices(options: object) -> None:
    """Raise a GrowthError unless each field of a dataclass whose type is a Literal has one of its values."""
    for name, hint in typing.get_type_hints(type(options)).items():
        if typing.get_origin(hint) is typing.Literal:
            insist_known(name, getattr(options, name), typing.get_args(hint))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let new layers draw their numbers from this seed; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
