"""A page that needs no network: one HTML file with its style, its scripts and its data in it.

The scripts make every element out of the data and put names in as text, so that no name is ever markup.
"""
from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "layout.js", "diagram.js", "sections.js")


def page(told: dict[str, Any]) -> bytes:
    """The page with its data in it. Sections of which nothing is told are left out."""
    def part(name: str) -> str:
        return (HERE / name).read_text(encoding="utf-8")

    data = json.dumps(_plain(told)).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})  # no end of a script in it
    parts = {"style": part("page.css"), "script": "\n".join(map(part, SCRIPTS)), "data": data}
    return re.sub(r"/\* (style|script|data) \*/", lambda found: parts[found[1]], part("page.html")).encode()


def _plain(value: Any) -> Any:
    """Data that JSON holds: no infinite numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
