"""The runner of documentation blocks: shared names, written files, blocks left out, and failures with their place."""
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "run_doc_blocks.py"
PAGE = """# Page

```python
# file: part.py
value = 41
```

```python
from part import value
answer = value + 1
```

Some text.

<!-- no-run -->
```bash
exit 3
```

```bash
python -c "import part; assert part.value == 41" && touch done.txt
```

```python
import os
assert answer == 42 and os.path.exists("done.txt")
```
"""


def run(tmp_path: Path, text: str):
    page = tmp_path / "page.md"
    page.write_text(text)
    return subprocess.run([sys.executable, str(TOOL), str(page)], capture_output=True, text=True)


def test_a_page_that_works(tmp_path):
    done = run(tmp_path, PAGE)
    assert done.returncode == 0, done.stderr
    assert [line.rpartition(":")[2] for line in done.stdout.splitlines()] == ["4", "9", "21", "25"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.md"]


def test_failures_name_their_place(tmp_path):
    done = run(tmp_path, "text\n\n```python\nx = 1\nassert x == 2\n```\n")
    assert done.returncode == 1 and "page.md:4" in done.stdout and "page.md\", line 5" in done.stderr
    done = run(tmp_path, "```bash\necho said; false; true\n```\n")
    assert done.returncode == 1 and "said" in done.stderr
