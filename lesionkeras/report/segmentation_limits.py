"""What a run's metrics.json must not say: scores that its network or its slices do not define."""

from __future__ import annotations

import math
from typing import Any

OVERLAP_NAMES = ("dice", "jaccard", "accuracy", "sensitivity", "specificity", "precision", "f1")
# Of scattered slices: what counts voxels alone, by key of a table of scores.
OVERLAP_KEYS = {"case", "patient", "lesion_free"} | {
    f"{organ}_{score}" for organ in ("tumour", "liver") for score in (*OVERLAP_NAMES, "voe", "rvd")
}
# What a network that was not taught tumours says nothing of; the truth's own figures stay.
LESION_KEYS = (
    *("lesions_found", "false_components", "false_positive_mm3", "predicted_tumour_mm3"),
    *("recall_0", "recall_50", "precision_0", "precision_50"),
)
COUNT_KEYS = ("lesions", "lesions_found", "false_components")


def blank_structure(metrics: dict[str, Any], name: str) -> None:
    """Make undefined what a binary head of one structure cannot say of the other.

    Args:
        metrics: From `measure_volumes`; changed in place.
        name: The structure that the head does not know, "tumour" or "liver".
    """
    truths = (f"{name}_mm3",)
    blanked = LESION_KEYS if name == "tumour" else ()
    tables = list(metrics["postprocessing"])
    for protocol in metrics["protocol"].values():
        tables += [*protocol["per_case"], protocol["mean"], protocol["global"]]
        counts = protocol.get("counts", {})
        for key in [key for key in counts if _is_unknown(key, name, blanked)]:
            counts[key] = 0
    for table in tables:
        for key in table:
            if key not in truths and _is_unknown(key, name, blanked):
                table[key] = math.nan
    metrics["slices"] = [row for row in metrics["slices"] if row["target"] != name]
    if name == "tumour":
        metrics["lesions"] = []


def _is_unknown(key: str, name: str, blanked: tuple[str, ...]) -> bool:
    return key.startswith((f"{name}_", "burden_")) or key in blanked


def keep_overlap(metrics: dict[str, Any]) -> None:
    """Drop what scattered slices of a scan do not define: distances, lesions, volumes.

    Args:
        metrics: From `measure_volumes`; changed in place, and marked as "scattered".
    """
    corrected = metrics["protocol"]["corrected"]
    kept = {part: _keep(corrected[part], OVERLAP_KEYS) for part in ("mean", "counts", "global")} | {
        "per_case": [_keep(row, OVERLAP_KEYS) for row in corrected["per_case"]]
    }
    metrics["protocol"] = {"corrected": kept}
    metrics["lesions"] = []
    for row in metrics["postprocessing"]:
        for key in COUNT_KEYS:
            del row[key]
    metrics["scattered"] = True


def _keep(table: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key in keys}
