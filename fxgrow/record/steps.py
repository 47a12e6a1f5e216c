"""Steps of a growth record in words."""


def describe_step(step: dict) -> str:
    """Return a pass of the lineage on one line: its name, where, by which method, its other settings, the seed."""
    rest = dict(step)
    name, where, method, seed = (rest.pop(k, None) for k in ("pass", "where", "method", "seed"))
    places = [where] if isinstance(where, str) else where or []
    words = [str(name or "a pass without a name"), ", ".join(map(str, places)) or "everywhere"]
    if method:
        words.append(f"by {method}")
    settings = [f"{k} {_shown(v)}" for k, v in rest.items() if v not in (None, [], "")]
    if seed is not None:
        settings.append(f"seed {seed}")
    return " ".join(words) + (f" ({', '.join(settings)})" if settings else "")


def _shown(value) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
