"""Entry points, by which installed packages add passes, op rules, models, data sets and commands."""
import functools
import logging
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fxgrow.errors import FxgrowError


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; fxgrow's own names stay its own."""
    found = {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda e: e.value.startswith("fxgrow."))}
    return dict(sorted(found.items()))


def load_plugin(entry: EntryPoint, what: str) -> Any:
    """Import the object that an entry point names; `what` calls it in the message.

    Raises:
        FxgrowError: its package cannot be imported.
    """
    try:
        return entry.load()
    except Exception as error:
        raise FxgrowError(f"{what} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; mend or uninstall "
                          "the package it comes from") from error


@functools.cache
def load_installed(group: str, modules: bool = False) -> None:
    """Import, once, all that installed packages add to a group and that registers itself (`modules`: whole modules alone).

    One that cannot be imported is told in the log, on stderr unless there is another handler; the others are imported.
    """
    for name, entry in plugins(group).items():
        if modules and entry.attr:
            continue
        try:
            load_plugin(entry, f"{name} of the group {group}")
        except FxgrowError as error:
            logging.getLogger("fxgrow").warning("left out: %s", error)
