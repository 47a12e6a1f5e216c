"""Steps of a growth record in words."""
from __future__ import annotations


def describe_step(step: dict) -> str:
    """A pass of the lineage on one line: its name, where, by which method, its other settings, the seed."""
    rest = dict(step)
    name, where, method, seed = (rest.pop(k, None) for k in ("pass", "where", "method", "seed"))
    places = [where] if isinstance(where, str) else where or []
    words = [str(name or "a pass without a name"), ", ".join(map(str, places)) or "everywhere"]
    words += [f"by {method}"] if method else []
    settings = [f"{k} {_shown(v)}" for k, v in rest.items() if v is not None and v != [] and v != ""]
    settings += [] if seed is None else [f"seed {seed}"]
    return " ".join(words) + (f" ({', '.join(settings)})" if settings else "")


def _shown(value) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return "yes" if value is True else "no" if value is False else str(value)
