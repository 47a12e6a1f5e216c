"""The command line, as a test calls it."""
from __future__ import annotations

import shlex

from click.testing import CliRunner, Result

from fxgrow.cli.main import main


def run(words: str | list[str], code: int = 0) -> Result:
    """Run `fxgrow WORDS`, which ends with this code."""
    result = CliRunner().invoke(main, shlex.split(words) if isinstance(words, str) else words)
    assert result.exit_code == code, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return result
