"""The tables of `fxgrow experiment evolution` and others of searches, from runs that are kept: no data, no training.

    python tools/evolution_table.py docs/data/evolve-pays.json          # prints the table, and what differs from the base
    python tools/evolution_table.py --keep results/pays -o FILE.json    # puts the runs of a result folder into a file
"""
import argparse
import json
from collections import defaultdict
from pathlib import Path

from fxgrow.experiments.papers.search_tables import BASE, table, verdicts

KEPT = ("arm", "seed", "test", "parameters", "flops", "searched", "rounds", "networks", "ensemble", "seconds", "identity")


def kept(folder: Path) -> list[dict]:
    """Return what the tables need of each finished run, the accuracies on the way, and the base network stopped in time."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*.json"))]
    for run in runs:
        run["identity"]["data"] = Path(run["identity"]["data"]).name
    return [*({name: run[name] for name in KEPT if name in run} | {
        "curve": [[round(row["flops"] / run["flops"], 3), *(round(row[f"{part}_accuracy"], 4) for part in ("test", "val"))]
                  for row in run["rows"]]} for run in runs), *(stopped(run) for run in runs if run["arm"] == BASE)]


def stopped(run: dict) -> dict:
    """Return a run as it was when its validation accuracy was highest for the first time."""
    row = max(run["rows"], key=lambda row: row["val_accuracy"])
    return {"arm": f"{BASE}, stopped", "seed": run["seed"], "test": {"accuracy": row["test_accuracy"]},
            "parameters": run["parameters"], "flops": row["flops"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    runs = kept(arguments.keep) if arguments.keep else json.loads(arguments.results.read_text())
    if arguments.out:
        arguments.out.write_text("[" + ",\n ".join(json.dumps(run) for run in runs) + "]\n")
    by_arm = defaultdict(list)
    for run in runs:
        by_arm[run["arm"]].append(run)
    print("\n".join([table(by_arm), "", *verdicts(by_arm)]))


if __name__ == "__main__":
    main()
