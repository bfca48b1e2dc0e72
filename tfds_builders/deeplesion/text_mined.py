"""The 'liver' list of the text-mined labels, which P2 trained and tested on.

NIH's CADLab mined 171 labels from the reports (Yan et al. 2019, LesaNet) and divided the lesions
that have some anew.  Its 'liver' lists have 1,995 training, 179 validation and 203 test lesions:
P2's 1,989, 179 and 203 images.  They are no part of the official split: 197 of the training lesions
are official validation rows.  Lesions are named by their row in the whole `DL_info.csv`, from 0.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lesionkeras.errors import DataError
from tfds_builders.deeplesion.parse import LesionRow

LABELS_FILE = "text_mined_labels_171_and_split.json"
ROW_INDEX_FILE = "row_index.csv"
TERM = "liver"
NUM_OFFICIAL_ROWS = 32735  # of the whole DL_info.csv
LIST_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # ours: the file's


def list_tables(root: Path) -> list[Path]:
    """Return the files that decide what is on the list, as far as they are there."""
    paths = [root / name for name in (LABELS_FILE, ROW_INDEX_FILE)]
    return [path for path in paths if path.is_file()]


def read_liver_list(root: Path) -> dict[int, str]:
    """Read which lesions P2 used, and for what.

    Args:
        root: The folder that holds `DL_info.csv` and the labels.

    Returns:
        Number of the official row, from 0 -> train, validation or test.

    Raises:
        DataError: The labels are missing or not what CADLab published.
    """
    path = root / LABELS_FILE
    wanted = f"{LABELS_FILE} of NIH CADLab beside DL_info.csv"
    if not path.is_file():
        raise DataError(
            "P2's split needs the text-mined labels",
            where=str(root),
            found=f"no {LABELS_FILE}",
            wanted=wanted,
            next_step="put it there, or give --split patient",
        )
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        liver = labels["term_list"].index(TERM)
        return {
            int(row): split
            for split, name in LIST_SPLITS.items()
            for row, terms in zip(
                labels[f"{name}_lesion_idxs"], labels[f"{name}_relevant_labels"], strict=True
            )
            if liver in terms
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "The text-mined labels cannot be read",
            where=str(path),
            found=repr(error),
            wanted=wanted,
            next_step="copy the file from the source again",
        ) from error


def number_rows(root: Path, rows: Sequence[LesionRow]) -> dict[int, int]:
    """Find which row of the whole table each row is.

    Args:
        root: The folder; where rows are missing from its table, `row_index.csv` says which are
            there: a line a row, in the same order, the number in its fourth column, -1 where it is
            not known.
        rows: Of the folder's table, all of them.

    Returns:
        Number of the official row, from 0 -> position in `rows`.

    Raises:
        DataError: Rows are missing, and nothing says which; or the index is of another table.
    """
    if len(rows) == NUM_OFFICIAL_ROWS:
        return {number: number for number in range(NUM_OFFICIAL_ROWS)}
    path = root / ROW_INDEX_FILE
    lines: list[list[str]] = []
    boxes = [(row.file_name, row.bounding_boxes) for row in rows]
    try:
        if path.is_file():
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = list(csv.reader(file))[1:]
        named = [(line[0], tuple(map(float, line[1].split(",")))) for line in lines]
        numbers = [int(line[3]) for line in lines]
    except (ValueError, IndexError, csv.Error, OSError):
        named, numbers = [], []
    if named != boxes:
        raise DataError(
            "P2's list counts the rows of the whole DL_info.csv",
            where=str(root),
            found=f"{len(rows)} rows and "
            + ("another table's" if lines else "no")
            + f" {ROW_INDEX_FILE}",
            wanted=f"all {NUM_OFFICIAL_ROWS}, or {ROW_INDEX_FILE} with the number of each",
            next_step="use DL_info.csv as it was published",
        )
    return {number: place for place, number in enumerate(numbers) if number >= 0}


def find_listed(root: Path, rows: Sequence[LesionRow]) -> tuple[dict[int, str], dict[str, int]]:
    """Find the rows that are on P2's list.

    Args:
        root: The folder that holds `DL_info.csv` and the labels.
        rows: Of its table, all of them.

    Returns:
        Row as a text editor counts (`LesionRow.row`) -> split, and the length of each split's list.

    Raises:
        DataError: See `read_liver_list` and `number_rows`.
    """
    listed, places = read_liver_list(root), number_rows(root, rows)
    found = {
        rows[places[number]].row: split for number, split in listed.items() if number in places
    }
    return found, dict(Counter(listed.values()))


def describe_listed(
    used: Sequence[LesionRow], listed: dict[int, str], totals: dict[str, int]
) -> list[str]:
    """Say how much of P2's list is there, a clause each.

    Args:
        used: Rows of the key slices that are on disk.
        listed: Row -> split, of the table.
        totals: Length of each split's list.
    """
    there = Counter(listed[row.row] for row in used if row.row in listed)
    parts = [f"{there[split]} of {totals.get(split, 0)} {split}" for split in LIST_SPLITS]
    clauses = [f"of P2's list {', '.join(parts[:-1])} and {parts[-1]} lesions are on disk"]
    unknown = sum(totals.values()) - len(listed)
    if unknown:
        clauses.append(f"{unknown} of its lesions are in no row that is known")
    official = Counter(
        row.split for row in used if row.row in listed and listed[row.row] != row.split
    )
    clauses += [f"{count} of them are official {split} rows" for split, count in official.items()]
    return clauses
