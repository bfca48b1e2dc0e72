"""Scores over cases, with 95 % intervals over patients; nothing is left out without being counted.

Each score is a ratio of two sums over cases (a mean has the cases it exists for below the line, a
recall the lesions, a global Dice the voxels), so that one resampling serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lesionkeras.errors import DataError
from lesionkeras.metrics.bootstrap import resample
from lesionkeras.metrics.lits_protocol import WORST
from lesionkeras.metrics.overlap import UNDEFINED, Overlap, divide
from lesionkeras.metrics.scores import CaseScores, ObjectScores

# What the organisers call the scores of an object, in the order of `ObjectScores`.
OBJECT_SCORES = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")
OVERLAP_SCORES = ("accuracy", "sensitivity", "specificity", "precision", "f1")


def summarise(
    cases: Sequence[CaseScores], patients: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Summarises cases.

    Args:
        cases: All of one protocol.
        patients: Whose each case is.
        seed: Of the draws of patients.

    Returns:
        Of `corrected`: "tumour", "liver", "lesions", "lesion_free", "tumour_burden", and in
        "num_tumour_alone" how many predictions have tumours but no liver beside them where the
        truth has one, "num_truth_alone" how many truths have none; each score
        is {"value", "low", "high", "num_cases"}, where `num_cases` counts those it exists for and
        the interval is NaN for one patient.  Of `lits`: the organisers' figures under their names,
        and "intervals".

    Raises:
        DataError: There is no case.
    """
    if not cases:
        raise DataError("There is no case to summarise", next_step="score a case first")
    head = {
        "protocol": cases[0].protocol,
        "num_cases": len(cases),
        "num_patients": len(set(patients)),
    }
    table = _Table(patients, seed)
    if cases[0].protocol == "lits":
        return head | _summarise_lits(cases, table)
    return head | _summarise_corrected(cases, table)


class _Table:
    """Turns sums over cases into a value and its interval."""

    def __init__(self, patients: Sequence[str], seed: int) -> None:
        self._patients, self._seed = list(patients), seed

    def divide(
        self, numerators: ArrayLike, denominators: ArrayLike, root: bool = False
    ) -> dict[str, Any]:
        """Return sum by sum; cases with 0 below the line have no part in it."""
        above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        value = divide(above.sum(), below.sum())
        low, high, _ = resample(
            lambda weights: _divide_rows(weights @ above, weights @ below),
            self._patients,
            seed=self._seed,
            has_part=below > 0,
        )
        found = [float(np.sqrt(number)) if root else number for number in (value, low, high)]
        names = ("value", "low", "high")
        return dict(zip(names, found, strict=True)) | {"num_cases": int((below > 0).sum())}

    def average(self, values: ArrayLike, root: bool = False) -> dict[str, Any]:
        """Return the mean over the cases where the score exists."""
        exists = ~np.isnan(np.asarray(values, np.float64))
        return self.divide(np.nan_to_num(values), exists.astype(np.float64), root)


def _divide_rows(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _summarise_corrected(cases: Sequence[CaseScores], table: _Table) -> dict[str, Any]:
    lesions = {
        f"{cases[0].detections[place].threshold:g}": _summarise_detection(cases, table, place)
        for place in range(len(cases[0].detections))
    }
    rows = [row for case in cases for row in case.lesions if row.kind == "lesion"]
    errors = [case.burden_error for case in cases]
    exist = [abs(error) for error in errors if not np.isnan(error)]
    return {
        "tumour": _summarise_structure(
            [case.tumour for case in cases], [case.tumour_objects for case in cases], table
        ),
        "liver": _summarise_structure(
            [case.liver for case in cases], [case.liver_objects for case in cases], table
        ),
        "lesions": lesions,
        "dice_per_lesion": table.divide(
            [sum(row.dice for row in case.lesions) for case in cases],
            [sum(row.kind == "lesion" for row in case.lesions) for case in cases],
        )
        | {"num_lesions": len(rows)},
        "lesion_free": _summarise_lesion_free(cases, table),
        "num_tumour_alone": sum(
            case.tumour.num_prediction == case.liver.num_prediction > 0
            and case.tumour.num_truth < case.liver.num_truth
            for case in cases
        ),
        "num_truth_alone": sum(case.tumour.num_truth == case.liver.num_truth > 0 for case in cases),
        "tumour_burden": {
            "rmse": table.average(np.square(errors), root=True),
            "max_absolute": max(exist) if exist else UNDEFINED,
            "num_undefined": len(errors) - len(exist),
        },
    }


def _summarise_structure(
    overlaps: Sequence[Overlap], objects: Sequence[tuple[ObjectScores, ...]], table: _Table
) -> dict[str, Any]:
    """Means over the cases that have the structure, and Dice of all voxels together."""
    scores = {
        f"{name}_mm" if name in ("assd", "rmsd", "msd") else name: table.average(
            [astuple(of_case[0])[place] if of_case else UNDEFINED for of_case in objects]
        )
        for place, name in enumerate(OBJECT_SCORES)
    }
    for name in OVERLAP_SCORES:
        scores[name] = table.average(
            [getattr(overlap, name) if overlap.num_truth else UNDEFINED for overlap in overlaps]
        )
    scores["dice_global"] = _summarise_global(overlaps, table)
    present = sum(overlap.num_truth > 0 for overlap in overlaps)
    empty = sum(overlap.num_truth > 0 == overlap.num_prediction for overlap in overlaps)
    return scores | {"num_present": present, "num_predicted_empty": empty}


def _summarise_global(overlaps: Sequence[Overlap], table: _Table) -> dict[str, Any]:
    return table.divide(
        [2 * overlap.num_both for overlap in overlaps],
        [overlap.num_truth + overlap.num_prediction for overlap in overlaps],
    )


def _summarise_detection(cases: Sequence[CaseScores], table: _Table, place: int) -> dict[str, Any]:
    found = [case.detections[place] for case in cases]
    num_found, num_missed = [row.num_found for row in found], [row.num_missed for row in found]
    num_true, num_false = [row.num_true for row in found], [row.num_false for row in found]
    recall = table.divide(num_found, np.add(num_found, num_missed))
    precision = table.divide(num_true, np.add(num_true, num_false))
    both = recall["value"] + precision["value"]
    return {
        "recall": recall,
        "precision": precision,
        "f1": divide(2 * recall["value"] * precision["value"], both),
        "false_per_case": table.divide(num_false, [1] * len(cases)),
        "num_found": sum(num_found),
        "num_missed": sum(num_missed),
        "num_true_components": sum(num_true),
        "num_false_components": sum(num_false),
    }


def _summarise_lesion_free(cases: Sequence[CaseScores], table: _Table) -> dict[str, Any]:
    """What counts of cases without a lesion: what was predicted there, and where nothing was."""
    free = [not case.has_lesion for case in cases]
    return {
        "num_cases": sum(free),
        "num_left_clean": sum(
            is_free and not case.tumour.num_prediction
            for is_free, case in zip(free, cases, strict=True)
        ),
        "false_positive_mm3": table.average(
            [
                case.false_positive_mm3 if is_free else UNDEFINED
                for is_free, case in zip(free, cases, strict=True)
            ]
        ),
        "specificity": table.average(
            [
                case.tumour.specificity if is_free else UNDEFINED
                for is_free, case in zip(free, cases, strict=True)
            ]
        ),
        "false_positive_mm3_of_all_cases": table.average(
            [case.false_positive_mm3 for case in cases]
        ),
    }


def _summarise_lits(cases: Sequence[CaseScores], table: _Table) -> dict[str, Any]:
    """The organisers' figures by their names; `intervals` are ours."""
    counts, detection, intervals = {}, {}, {}
    for place, suffix in ((1, ""), (0, "_greater_zero")):
        found = [case.detections[place] for case in cases]
        hits = [row.num_found for row in found]
        false, missed = [row.num_false for row in found], [row.num_missed for row in found]
        for name, others in (("precision", false), ("recall", missed)):
            ratio = table.divide(hits, np.add(hits, others))
            detection[name + suffix] = ratio["value"] if sum(hits) + sum(others) else 0.0
            intervals[f"lesion_{name}{suffix}"] = (ratio["low"], ratio["high"])
        threshold = f"{found[0].threshold:g}"
        counts[threshold] = {"TP": sum(hits), "FP": sum(false), "FN": sum(missed)}
    errors = [case.burden_error for case in cases]
    structures = {}
    for name, attribute in (("lesion", "tumour"), ("liver", "liver")):
        structures[name] = _average_objects(cases, attribute, table)
        intervals |= {
            f"{name}_{key}": pair for key, pair in structures[name].pop("low_high").items()
        }
    return {
        "lesion_detection": detection,
        "lesion_segmentation": structures["lesion"].pop("means"),
        "liver_segmentation": structures["liver"].pop("means"),
        "per_object": {name: found["per_object"] for name, found in structures.items()},
        "dice_per_case": {name: found["per_case"] for name, found in structures.items()},
        "detection_counts": dict(sorted(counts.items())),
        "tumour_burden_error": errors,
        "tumour_burden_rmse": float(np.sqrt(np.mean(np.square(errors)))),
        "tumour_burden_max": float(np.max(errors)),
        "intervals": intervals,
    }


def _average_objects(cases: Sequence[CaseScores], name: str, table: _Table) -> dict[str, Any]:
    """Means over all objects of all cases, as the program takes them; its defaults without any."""
    objects = [getattr(case, f"{name}_objects") for case in cases]
    per_case = [getattr(case, f"{name}_dice") for case in cases]
    ratios = {}
    for score, field in zip(OBJECT_SCORES, fields(ObjectScores), strict=True):
        sums = [sum(getattr(one, field.name) for one in of_case) for of_case in objects]
        ratios[score] = table.divide(sums, [len(of_case) for of_case in objects])
    if not any(objects):
        for score, worst in zip(OBJECT_SCORES, astuple(WORST), strict=True):
            ratios[score]["value"] = worst
    ratios["dice_per_case"] = table.divide(per_case, [1] * len(cases))
    ratios["dice_global"] = _summarise_global([getattr(case, name) for case in cases], table)
    flat = [one for of_case in objects for one in of_case]
    return {
        "means": {score: ratio["value"] for score, ratio in ratios.items()},
        "low_high": {score: (ratio["low"], ratio["high"]) for score, ratio in ratios.items()},
        "per_object": {
            score: [astuple(one)[place] for one in flat]
            for place, score in enumerate(OBJECT_SCORES)
        },
        "per_case": per_case,
    }
