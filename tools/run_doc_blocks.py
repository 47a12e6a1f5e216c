"""Runs the ```python and ```bash blocks of the documentation, each page in a temporary folder of its own.

    python tools/run_doc_blocks.py [PAGE ...]

Python blocks of a page share their names. A block whose first line is `# file: NAME` is written to that file instead;
a block behind `<!-- no-run -->` is left out. The first block that fails is shown, and the exit code is 1.
"""
import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.M | re.S)
SKIP = re.compile(r"<!-- no-run -->\s*\Z")
FILE = re.compile(r"# file: (\S+)\n")


@dataclass
class Block:
    """One block of a page: its language, its text, and the line it starts at."""
    language: str
    text: str
    line: int
    skipped: bool


def blocks(page: str) -> Iterator[Block]:
    """Give the blocks of a page, in order."""
    for found in BLOCK.finditer(page):
        line = page.count("\n", 0, found.start(2)) + 1
        yield Block(found[1], found[2], line, bool(SKIP.search(page[:found.start()])))


def run_python(block: Block, names: dict, where: str) -> str | None:
    """Run a block and return the error, if there is one."""
    code = "\n" * (block.line - 1) + block.text
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, where, "exec"), names)
            return None
    except BaseException:
        return traceback.format_exc()


def run_bash(block: Block) -> str | None:
    """Run a block with this Python's programs first on the path; return what it said, if it failed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env={**os.environ, "PATH": path})
    return f"exit {done.returncode}\n{done.stdout}" if done.returncode else None


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    """Work in a folder, which modules are imported from, too."""
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        os.chdir(before)


def run_page(page: Path) -> bool:
    """Run a page's blocks in a temporary folder and return whether all went well."""
    name = os.path.relpath(page, ROOT)
    names: dict = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, inside(folder):
        for block in blocks(page.read_text()):
            if block.skipped:
                continue
            error, begun, target = None, time.perf_counter(), FILE.match(block.text)
            if target:
                Path(target[1]).parent.mkdir(parents=True, exist_ok=True)
                Path(target[1]).write_text(block.text)
            elif block.language == "python":
                error = run_python(block, names, name)
            else:
                error = run_bash(block)
            print(f"{'FAILED' if error else 'ok':6} {time.perf_counter() - begun:6.1f} s  {name}:{block.line}", flush=True)
            if error:
                print(f"{block.text}\n{error}", file=sys.stderr)
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the code blocks of the documentation.")
    parser.add_argument("pages", nargs="*", type=Path, help="pages (default: README.md, CONTRIBUTING.md and docs/*.md)")
    pages = [p.resolve() for p in parser.parse_args().pages] or [
        ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    if len(pages) == 1:
        sys.exit(0 if run_page(pages[0]) else 1)
    codes = [subprocess.run([sys.executable, __file__, str(page)]).returncode for page in pages]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
