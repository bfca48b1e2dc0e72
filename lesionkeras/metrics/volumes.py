"""Scores of volumes, one case at a time: `evaluate_case` for one, `VolumeEvaluator` for many.

    evaluator = VolumeEvaluator()
    for case in ...:
        evaluator.add(case.name, case.patient, truth, prediction, spacing_mm)
    evaluator.summarise("corrected")

A case's masks are let go once they are scored; what stays is its table of lesions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionkeras.errors import RecipeError
from lesionkeras.metrics.corrected_protocol import score_corrected
from lesionkeras.metrics.lits_protocol import WORST, score_lits
from lesionkeras.metrics.mask_pair import pair_masks
from lesionkeras.metrics.scores import CaseScores
from lesionkeras.metrics.volume_summary import summarise

PROTOCOLS = {"lits": score_lits, "corrected": score_corrected}
SAME_SCORE = 1e-9  # two figures nearer than this are the same figure
# Where the protocols part, and why; numbers are those of `lits_protocol`'s list of faults.
ALL_TUMOUR = "lits takes the liver for missed where nothing is labelled liver alone (7)"
OBJECT_SCORES = {
    "jaccard": "Jaccard",
    "voe": "VOE",
    "rvd": "RVD",
    "assd_mm": "ASSD mm",
    "rmsd_mm": "RMSD mm",
    "msd_mm": "MSD mm",
}
REASONS = {
    "tumour Dice": "a case without a lesion has no Dice; lits gives it 1 or 0 (6)",
    "liver Dice": ALL_TUMOUR,
    **{
        f"tumour {name}": "lits measures found lesions alone (4)" for name in OBJECT_SCORES.values()
    },
    **{f"liver {name}": ALL_TUMOUR for name in OBJECT_SCORES.values()},
    "tumour RVD": "lits divides by the prediction, turns the sign, takes found lesions (4, 5)",
    "liver RVD": "lits divides by the prediction and turns the sign (5)",
    "lesions found above 0": "lits counts lesions that one component covers as one (2)",
    "lesions found above .5": "lits' union is of other components than it means (1, 2)",
    "false components above 0": "lits subtracts lesions from components (3)",
    "false components above .5": "lits subtracts lesions from components (1, 2, 3)",
    "Dice per lesion": "lits leaves out what it did not find at .5 (4)",
    "tumour burden error": "lits has truth - prediction, ours prediction - truth",
}


@dataclass(frozen=True)
class Difference:
    """A score that the two protocols give differently for one case.

    Attributes:
        score: Its name.
        lits: By the organisers' program; NaN where it gives none.
        corrected: By the corrected protocol; NaN where it does not exist.
        reason: Why.
    """

    score: str
    lits: float
    corrected: float
    reason: str


@dataclass(frozen=True)
class ScoredCase:
    """One case by both protocols.

    Attributes:
        case: Its name.
        patient: Whose it is.
        lits: Scores of the organisers' program.
        corrected: Scores of the corrected protocol.
    """

    case: str
    patient: str
    lits: CaseScores
    corrected: CaseScores

    def get(self, protocol: str) -> CaseScores:
        """Returns one protocol's scores."""
        return self.lits if protocol == "lits" else self.corrected


def evaluate_case(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    protocol: str = "corrected",
) -> CaseScores:
    """Scores one case.

    Args:
        truth: uint8 [z, y, x], 0 background, 1 liver, 2 tumour.
        prediction: The same shape.
        spacing_mm: Of voxels, z, y, x.
        protocol: "corrected", or "lits", whose figures depend on how the file's axes lie: give it
            the arrays as stored, turned to z, y, x.

    Returns:
        The scores.

    Raises:
        DataError: Masks that do not fit each other, or other labels.
        RecipeError: Another protocol.

    >>> truth = np.zeros((3, 8, 8), np.uint8)
    >>> truth[1, 1:7, 1:7], truth[1, 2:4, 2:4] = 1, 2
    >>> prediction = truth.copy()
    >>> prediction[1, 3, 2:4] = 1  # half of the tumour is taken for liver
    >>> scores = evaluate_case(truth, prediction, (5.0, 1.0, 1.0))
    >>> round(scores.tumour_dice, 3), scores.liver_dice, scores.detections[1].num_found
    (0.667, 1.0, 0)
    """
    check_protocol(protocol)
    return PROTOCOLS[protocol](pair_masks(truth, prediction, spacing_mm))


def check_protocol(protocol: str) -> None:
    """Checks a protocol's name.

    Args:
        protocol: "lits" or "corrected".

    Raises:
        RecipeError: It is another.
    """
    if protocol not in PROTOCOLS:
        raise RecipeError(
            "A scoring protocol is unknown", found=repr(protocol), wanted=" or ".join(PROTOCOLS)
        )


class VolumeEvaluator:
    """Scores cases as they come, by both protocols.

    Attributes:
        cases: What was scored, in order.
    """

    def __init__(self) -> None:
        self.cases: list[ScoredCase] = []

    def add(
        self,
        case: str,
        patient: str,
        truth: np.ndarray,
        prediction: np.ndarray,
        spacing_mm: tuple[float, float, float],
    ) -> ScoredCase:
        """Scores a case and keeps its scores.

        Args:
            case: Its name, for tables.
            patient: Whose it is: cases of one patient are drawn together for intervals.
            truth: As in `evaluate_case`.
            prediction: The same.
            spacing_mm: The same.

        Returns:
            The case, scored.

        Raises:
            DataError: What `evaluate_case` raises.
        """
        pair = pair_masks(truth, prediction, spacing_mm, case)
        scored = ScoredCase(case, patient, score_lits(pair), score_corrected(pair))
        self.cases.append(scored)
        return scored

    def summarise(self, protocol: str, seed: int = 0) -> dict[str, Any]:
        """Summarises the cases so far; see `volume_summary.summarise`.

        Args:
            protocol: "lits" or "corrected".
            seed: Of the intervals' draws.

        Returns:
            Plain numbers, lists and dictionaries; NaN where a score does not exist.

        Raises:
            RecipeError: Another protocol.
            DataError: There is no case.
        """
        check_protocol(protocol)
        patients = [case.patient for case in self.cases]
        return summarise([case.get(protocol) for case in self.cases], patients, seed)


def compare_protocols(lits: CaseScores, corrected: CaseScores) -> tuple[Difference, ...]:
    """Says where the protocols differ for a case, and why.

    Args:
        lits: The case by `lits`.
        corrected: The same case by `corrected`.

    Returns:
        A row for each score that differs.

    >>> truth = np.ones((1, 2, 2), np.uint8)
    >>> lits, corrected = (evaluate_case(truth, truth, (1, 1, 1), p) for p in PROTOCOLS)
    >>> [(row.score, row.lits, row.corrected) for row in compare_protocols(lits, corrected)]
    [('tumour Dice', 1.0, nan)]
    """
    ours, theirs = _list_scores(corrected), _list_scores(lits)
    reasons = dict(REASONS)
    if lits.liver_objects == (WORST,):
        reasons["liver RVD"] = reasons["tumour burden error"] = ALL_TUMOUR
    return tuple(
        Difference(name, theirs[name], ours[name], reason)
        for name, reason in reasons.items()
        if not _is_same(theirs[name], ours[name])
    )


def _is_same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_SCORE or (math.isnan(one) and math.isnan(other))


def _list_scores(scores: CaseScores) -> dict[str, float]:
    any_overlap, half = scores.detections
    is_lits = scores.protocol == "lits"
    lesions = [row for row in scores.lesions if row.kind == "lesion"]
    per_lesion = [item.dice for item in (scores.tumour_objects if is_lits else lesions)]
    objects = {
        f"{organ} {title}": _mean([getattr(item, field) for item in items])
        for organ, items in (("tumour", scores.tumour_objects), ("liver", scores.liver_objects))
        for field, title in OBJECT_SCORES.items()
    }
    return objects | {
        "tumour Dice": scores.tumour_dice,
        "liver Dice": scores.liver_dice,
        "lesions found above 0": float(any_overlap.num_found),
        "lesions found above .5": float(half.num_found),
        "false components above 0": float(any_overlap.num_false),
        "false components above .5": float(half.num_false),
        "Dice per lesion": _mean(per_lesion),
        "tumour burden error": scores.burden_error,
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
