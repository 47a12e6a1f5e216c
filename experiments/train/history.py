"""The history of a run: one row for each evaluation, kept in memory and on the disk."""
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxgrow.common import atomic_write, csv_text, one_line
from fxgrow.errors import ArchiveError

COLUMNS = ("step", "epoch", "samples", "flops", "eval_flops", "train_loss", "val_loss", "lr", "parameters", "seconds",
           "event")


@dataclass
class History:
    """Rows of `COLUMNS` and, behind `val_loss`, the metrics of the task; and an account of each growth.

    samples, flops: seen and spent in training up to here; eval_flops: spent in evaluations. train_loss: the mean over the
    steps since the row before (None right behind a growth). lr: of the next step. seconds: of training, growing and
    evaluating, over all restarts. event: the growth that made this row, or nothing.
    """
    rows: list[dict[str, Any]] = field(default_factory=list)
    growths: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        return [row[name] for row in self.rows]

    def to_csv(self) -> str:
        """Return the rows as CSV, under a header."""
        columns = list(self.rows[0]) if self.rows else COLUMNS
        return csv_text(columns, ([row.get(column) for column in columns] for row in self.rows))

    def save(self, folder: Path) -> None:
        """Write `history.csv`, `history.jsonl` and `growths.json`, each whole."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        for name, content in (("history.csv", self.to_csv()), ("history.jsonl", lines),
                              ("growths.json", json.dumps(self.growths, indent=1))):
            with atomic_write(folder / name) as file:
                file.write(content.encode())

    def append(self, row: dict[str, Any], folder: Path | None) -> None:
        """Add a row, in the file of lines as well."""
        self.rows.append(row)
        if folder is not None:
            append_line(folder / "history.jsonl", json.dumps(row))


def append_line(path: Path, text: str) -> None:
    """Add a line to a file; ArchiveError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise ArchiveError(f"cannot write {str(path)!r}: {one_line(error)}") from error
