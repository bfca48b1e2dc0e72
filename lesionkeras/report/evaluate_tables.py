"""The tables of an evaluation of masks: a row a case, a row a lesion, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lesionkeras.files import write_bytes
from lesionkeras.metrics.scores import CaseScores, ObjectScores
from lesionkeras.metrics.volumes import ScoredCase

MAX_SHOWN_ROWS = 2000  # of a page's table of lesions; the CSV has all


def list_case_rows(
    cases: Sequence[ScoredCase], protocol: str, predictions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Lists the rows of the per-case table.

    Args:
        cases: Scored.
        protocol: "lits" or "corrected".
        predictions: Case to the name of its predicted mask.

    Returns:
        A row a case, column to value; NaN where a score does not exist.
    """
    return [
        {
            "case": case.case,
            "patient": case.patient,
            "prediction": predictions.get(case.case, case.case),
        }
        | _flatten(case.get(protocol))
        for case in cases
    ]


def _flatten(scores: CaseScores) -> dict[str, Any]:
    row: dict[str, Any] = dict(
        zip(("spacing_z_mm", "spacing_y_mm", "spacing_x_mm"), scores.spacing_mm, strict=True)
    )
    for name in ("tumour", "liver"):
        overlap, objects = getattr(scores, name), getattr(scores, f"{name}_objects")
        row[f"{name}_dice"] = getattr(scores, f"{name}_dice")
        for field in fields(ObjectScores)[1:]:
            values = [getattr(one, field.name) for one in objects]
            row[f"{name}_{field.name}"] = sum(values) / len(values) if values else math.nan
        for score in ("accuracy", "sensitivity", "specificity", "precision"):
            row[f"{name}_{score}"] = getattr(overlap, score)
    for detection in scores.detections:
        for field in fields(detection)[1:]:
            row[f"{field.name}_{detection.threshold:g}"] = getattr(detection, field.name)
        row[f"recall_{detection.threshold:g}"] = detection.recall
        row[f"precision_{detection.threshold:g}"] = detection.precision
    row["false_positive_mm3"] = scores.false_positive_mm3
    row["tumour_burden_error"] = scores.burden_error
    return row


def list_lesion_rows(cases: Sequence[ScoredCase], protocol: str) -> list[dict[str, Any]]:
    """Lists the rows of the per-lesion table.

    Args:
        cases: Scored.
        protocol: "lits" or "corrected".

    Returns:
        A row a lesion and a false component; the centroid counts the file's slices, rows and
        columns from 0.
    """
    rows = []
    for case in cases:
        for lesion in case.get(protocol).lesions:
            row = asdict(lesion)
            z, y, x = row.pop("centroid_zyx")
            place = {"centroid_k": z, "centroid_j": y, "centroid_i": x}
            rows.append({"case": case.case, "patient": case.patient} | row | place)
    return rows


def pick_shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Picks what a page can show of a per-lesion table: lesions first, then the largest others.

    Args:
        rows: Of `list_lesion_rows`.

    Returns:
        At most MAX_SHOWN_ROWS, in their order.
    """
    ranks = [(row["kind"] != "lesion", -row["volume_mm3"], place) for place, row in enumerate(rows)]
    return [rows[place] for place in sorted(place for *_, place in sorted(ranks)[:MAX_SHOWN_ROWS])]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows; what does not exist is an empty cell.

    Args:
        path: The file.
        columns: Their names, in order.
        rows: Column to value.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if _is_missing(value) else value for k, value in row.items()})
    write_bytes(path, text.getvalue().encode())


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
