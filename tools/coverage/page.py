"""The page: one word for each result, counts for each package, what is left with its reason, and one row a network."""
from collections import Counter, defaultdict

EXACT, ENOUGH = 1e-9, 1.8
VERDICTS = {
    "exact": "captured, equal on other inputs in eval and train mode, and grown by 1.8 or more",
    "parts": "the same, inside an outer forward that cannot be captured",
    "low": "equal, and grown by less than 1.8",
    "refused": "an error of fxgrow's says why nothing grows",
    "slow": "ended: too much time or memory, beside the forwards of the network itself",
    "wrong": "not equal",
    "crash": "an error that is none of fxgrow's, or the grown network stops where the network runs",
}
HEAD = """# Coverage

What `Widen(factor=2)`, `Deepen()`, `save` and `load` do with networks of other packages, as small configurations with drawn
weights and running statistics in float64. Made by `python tools/coverage` (its `--help` says how; extra `coverage`), one
process a network; [coverage.jsonl](coverage.jsonl) holds what it found.

Errors are the largest over eval mode, train mode (dropout off), and eval mode after that, on inputs of other values, another
batch and, where the network takes one, another size, relative to the largest number of the output. Seconds are of `Widen`,
capture and analysis included, on one thread.
"""


def worst(row: dict) -> float:
    """Return the largest error of a row."""
    return max(row.get(name, 0.0) for name in ("eval", "train", "after", "saved", "deeper"))


def verdict(row: dict) -> str:
    """Return the word for a row."""
    found = [("missing", "missing" in row), ("wrong", worst(row) > EXACT), ("crash", "crash" in row or "stops" in row),
             ("slow", "ended" in row), ("refused", "growth" not in row), ("low", row.get("growth", ENOUGH) < ENOUGH),
             ("parts", row.get("captured") == "no")]
    return next((word for word, holds in found if holds), "exact")


def why(row: dict) -> str:
    """Return what stands in the way, in the words of fxgrow."""
    said = [row.get(name) for name in ("crash", "stops", "ended", "reason")]
    if verdict(row) in ("low", "parts"):
        said += [row["capture"], *row["left"][:2]]
    said += [f"deepen: {row['deepen']}" if "deepen" in row else None, f"save: {row['save']}" if "save" in row else None]
    return "; ".join(part for part in said if part).replace("|", "\\|")


def counts(rows: list[dict]) -> str:
    """Return a table of the verdicts of each package, and how many were deepened and saved."""
    found: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        for name in (row["package"], "all"):
            found[name].update([verdict(row), *(["whole"] if row["captured"] == "whole" else []),
                                *(["deeper"] if "deeper" in row and "deepen" not in row else []),
                                *(["saved"] if "saved" in row else []), "networks"])
    names = ("networks", *VERDICTS, "whole", "deeper", "saved")
    lines = [f"| package | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    order = [*(p for p in found if p != "all"), "all"]
    return "\n".join([*lines, *(f"| {p} | {' | '.join(str(found[p][n] or '') for n in names)} |" for p in order)])


def line(row: dict) -> str:
    """Return the row of a network."""
    growth = f"x{row['growth']:.2f}" if "growth" in row else ""
    error = f"{worst(row):.0e}" if "eval" in row else ""
    done = {"deeper": "deepen", "saved": "save"}
    deeper, saved = ("yes" if name in row and stopped not in row else "" for name, stopped in done.items())
    return (f"| {row['package']} | {row['network']} | {verdict(row)} | {row['captured']} | {growth} | {error} | {deeper} | "
            f"{saved} | {row.get('seconds', '')} | {why(row)[:400]} |")


def written(rows: list[dict]) -> str:
    """Return the page."""
    ran = [{"captured": "no"} | row for row in rows if "missing" not in row]
    rest = sorted(ran, key=lambda row: list(VERDICTS)[::-1].index(verdict(row)))
    heads = "package network verdict captured growth error deeper saved seconds why".split()
    versions = Counter(row.get("torch", "a version that is not noted") for row in rows)
    under = f"Measured under torch {', '.join(f'{version} ({n} rows)' for version, n in versions.most_common())}.\n"
    missing = [f"* {row['package']} {row['network']}: {row['missing'][:200]}" for row in rows if "missing" in row]
    return "\n".join([HEAD, under, *(f"* {word}: {meaning}" for word, meaning in VERDICTS.items()),
                      "* whole: without opaque leaves; deeper: `Deepen()` is exact; saved: the file gives it back",
                      "", counts(ran), "", "## Each network", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|",
                      *map(line, rest), *(["", "## Not run here", "", *missing] if missing else [])]) + "\n"
