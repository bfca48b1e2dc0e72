"""log.csv: what an epoch gave, a line each, the same after any number of resumes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lesionkeras.files import write_bytes

Row = dict[str, float]
FIRST_COLUMNS = ("epoch", "loss", "class_loss", "box_loss", "learning_rate", "seconds")


def write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes log.csv anew, whole or not at all.

    Args:
        path: The file.
        rows: An epoch each: epoch (from 1), loss, its parts, learning_rate, seconds (training
            and validation) and, where the epoch was validated, val_*.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    first = [name for name in FIRST_COLUMNS if name in names]
    text = io.StringIO()
    columns = first + sorted((n for n in names if n not in first), key=lambda n: n[:4] == "val_")
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_log(path: Path) -> list[Row]:
    """Reads what `write_log` wrote.

    Args:
        path: The file.

    Returns:
        A dict an epoch; an epoch that was not validated has no val_* keys.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [
            {name: float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]
