"""A page that needs no network: one HTML file with its style, its scripts and its data in it.

The scripts make every element out of the data and put names in as text, so that no name is ever markup.
"""
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PARTS", "STYLES", "finite", "page"]

HERE = Path(__file__).parent
STYLES = (HERE / "page.css",)
PARTS = tuple(HERE / name for name in ("dom.js", "stage.js", "layout.js", "diagram.js", "sections.js"))  # of any page
SCRIPTS = (*PARTS, HERE / "report.js")


def page(data: dict[str, Any], *, scripts: Sequence[Path] = SCRIPTS, styles: Sequence[Path] = STYLES) -> bytes:
    """Return the page with its data in it, sections without data left out; the last of the `scripts` makes it."""
    def text(files: Sequence[Path]) -> str:
        return "\n".join(file.read_text(encoding="utf-8") for file in files)

    json_text = json.dumps(finite(data)).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})  # no end of a script in it
    parts = {"style": text(styles), "script": text(scripts), "data": json_text}
    return re.sub(r"/\* (style|script|data) \*/", lambda mark: parts[mark[1]], text([HERE / "page.html"])).encode()


def finite(value: Any) -> Any:
    """Return data with infinite numbers as words, since JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value
