"""Draw docs/img/rooms.svg: the packages of fxgrow and which imports which, read from their imports.

    python tools/draw_rooms.py [--out docs/img/rooms.svg]

An arrow that follows from others is left out: `rewrite` imports `graph`, and so does `contents`, which `rewrite` imports.
Imports inside functions and under TYPE_CHECKING count. Needs the packages of `fxgrow[lint]` and Graphviz's `dot`.
"""
import argparse
import sys
import tempfile
import textwrap
from pathlib import Path

import graphviz
import grimp

ROOT = Path(__file__).resolve().parent.parent
ABOVE = ("passes", "zoo", "experiments")  # stand beside fxgrow/ in the repository
COLOURS = {"compiler": "#DDEBF7", "shows": "#E9F3E4", "above": "#FBE8D3"}  # pale, so that black text reads on them
SHOWS = ("cost", "compare", "archive", "models", "page", "diagram", "visual", "cli")  # what is done with a graph, not to it


def folders() -> dict[str, Path]:
    """Return the folder of each package, by its name below `fxgrow`."""
    found = [path.parent for path in (ROOT / "fxgrow").glob("*/__init__.py")] + [ROOT / name for name in ABOVE]
    return {folder.name: folder for folder in sorted(found)}


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports from, read where all lie below `fxgrow`, as they do once installed."""
    with tempfile.TemporaryDirectory() as site:
        package = Path(site) / "fxgrow"
        package.mkdir()
        for path in (*(ROOT / "fxgrow").iterdir(), *(ROOT / name for name in ABOVE)):
            (package / path.name).symlink_to(path)
        sys.path.insert(0, site)
        graph = grimp.build_graph("fxgrow", cache_dir=None)
    rooms = folders()
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            room, other = (f"{name}.".split(".")[1] for name in (module, imported))  # none of the facade `fxgrow`
            if room in rooms and other in rooms.keys() - {room}:
                found[room].add(other)
    return found


def arrows() -> set[tuple[str, str]]:
    """Return who imports from whom, without what follows from others; there are no circles."""
    below = imports()

    def reach(room: str) -> set[str]:
        return below[room].union(*map(reach, below[room]))

    return {(room, other) for room, others in below.items() for other in others
            if not any(other in reach(third) for third in others - {other})}


def purpose(room: str) -> str:
    """Return the first words of a room's docstring, up to a colon or the end of the sentence, in short lines."""
    words = (folders()[room] / "__init__.py").read_text(encoding="utf-8").removeprefix('"""').split("\n")[0]
    return "<br/>".join(textwrap.wrap(words.split(":")[0].rstrip('."'), 34))


def picture() -> graphviz.Digraph:
    """Return the drawing: what imports stands above what it imports."""
    node = {"shape": "box", "style": "filled", "fontname": "Helvetica", "fontsize": "11", "color": "#888888"}
    drawn = graphviz.Digraph(node_attr=node, edge_attr={"color": "#555555", "arrowsize": "0.6"},
                             graph_attr={"ranksep": "0.3", "nodesep": "0.25"})
    for room in folders():
        group = "above" if room in ABOVE else "shows" if room in SHOWS else "compiler"
        drawn.node(room, f'<<b>{room}</b><br/><font point-size="8">{purpose(room)}</font>>', fillcolor=COLOURS[group])
    drawn.edges(sorted(arrows()))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the packages of fxgrow and which imports which.")
    parser.add_argument("--out", type=Path, default=Path("docs/img/rooms.svg"))
    parser.parse_args().out.write_bytes(picture().pipe("svg"))


if __name__ == "__main__":
    main()
