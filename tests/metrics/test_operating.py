"""Precision, recall and the operating point, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lesionkeras.metrics.matches import ImageDetections, ImageTruth, match_detections
from lesionkeras.metrics.operating import (
    compute_operating_point,
    compute_precision_recall,
    compute_precision_recall_curve,
    compute_recall_by_size,
)

LESION = np.array([0, 0, 20, 20.0])
OTHER = np.array([50, 50, 90, 90.0])
NOWHERE = np.array([200, 200, 210, 210.0])


def found(*pairs: tuple[np.ndarray, float]) -> ImageDetections:
    return ImageDetections(
        boxes=np.array([box for box, _ in pairs]).reshape(-1, 4),
        scores=np.array([score for _, score in pairs]),
    )


TRUTHS = [ImageTruth(boxes=np.stack([LESION, OTHER])), ImageTruth(boxes=np.zeros((0, 4)))]
FOUND = [found((LESION, 0.9), (OTHER, 0.5), (LESION, 0.4)), found((NOWHERE, 0.6), (NOWHERE, 0.3))]


def test_counts_at_a_threshold() -> None:
    result = compute_precision_recall(TRUTHS, FOUND, score_threshold=0.5)
    # .9 and .5 are right, .6 is wrong; the second box on LESION (.4) is below.
    assert (result.true_positives, result.false_positives, result.misses) == (2, 1, 0)
    assert result.precision == pytest.approx(2 / 3) and result.recall == 1.0
    assert result.fp_per_image == 0.5
    low = compute_precision_recall(TRUTHS, FOUND, score_threshold=0.0)
    assert (low.true_positives, low.false_positives, low.misses) == (2, 3, 0)


def test_overlap_of_exactly_half_is_a_hit_and_less_is_none() -> None:
    half, less = found((np.array([0, 0, 20, 10.0]), 0.9)), found((np.array([0, 0, 20, 9.9]), 0.9))
    truth = [ImageTruth(boxes=LESION[None])]
    assert compute_precision_recall(truth, [half], 0.5).recall == 1.0
    assert compute_precision_recall(truth, [less], 0.5).recall == 0.0
    assert compute_precision_recall(truth, [less], 0.5, iou=0.4).recall == 1.0


def test_undefined_shares_are_nan() -> None:
    empty = [ImageTruth(boxes=np.zeros((0, 4)))]
    silent = [found()]
    result = compute_precision_recall(empty, silent, 0.5)
    assert math.isnan(result.precision) and math.isnan(result.recall) and result.fp_per_image == 0


def test_crowd_counts_nowhere() -> None:
    truth = ImageTruth(boxes=np.stack([LESION, OTHER]), crowd=np.array([True, False]))
    result = compute_precision_recall([truth], [found((LESION, 0.9), (LESION, 0.8))], 0.5)
    assert (result.true_positives, result.false_positives, result.misses) == (0, 0, 1)


def test_operating_point_has_the_greatest_f1() -> None:
    # F1 at .9: 2/3; at .6: 2/4; at .5: 4/5; at .4 and .3 lower.
    assert compute_operating_point(TRUTHS, FOUND) == 0.5
    f1 = {}
    for score in (0.9, 0.6, 0.5, 0.4, 0.3):
        at = compute_precision_recall(TRUTHS, FOUND, score)
        f1[score] = 2 * at.true_positives / (2 * at.true_positives + at.false_positives + at.misses)
    assert max(f1, key=f1.__getitem__) == 0.5


def test_operating_point_takes_equal_scores_together() -> None:
    truth = [ImageTruth(boxes=LESION[None])]
    tied = [found((LESION, 0.5), *[(NOWHERE, 0.5)] * 5)]
    assert compute_operating_point(truth, tied) == 0.5
    # Alone LESION at .5 would have F1 1; with its five ties it has 2 / 7, less than 1 / 2.
    two = [ImageTruth(boxes=np.stack([LESION, OTHER]))]
    better = [found((OTHER, 0.8), (NOWHERE, 0.7), (LESION, 0.5), *[(NOWHERE, 0.5)] * 5)]
    assert compute_operating_point(two, better) == 0.8


def test_operating_point_of_a_blind_model_is_one() -> None:
    assert compute_operating_point(TRUTHS, [found((NOWHERE, 0.4)), found()]) == 1.0
    assert compute_operating_point(TRUTHS, [found(), found()]) == 1.0
    assert compute_operating_point([], []) == 1.0


def test_precision_recall_curve() -> None:
    recall, precision = compute_precision_recall_curve(match_detections(TRUTHS, FOUND, (0.5,)))
    assert recall[50] == 0.5 and precision[50] == pytest.approx(1.0)
    assert precision[51] == pytest.approx(2 / 3) and precision[100] == pytest.approx(2 / 3)


def test_recall_by_size_in_mm_and_in_px() -> None:
    matches = match_detections(TRUTHS, FOUND, (0.5,))
    rows = compute_recall_by_size(TRUTHS, matches, score_threshold=0.6)
    by_label = {row["label"]: (row["found"], row["count"], row["recall"]) for row in rows}
    assert by_label["16 to 32 px"] == (1, 1, 1.0)  # 20 px, found at .9
    assert by_label["32 to 64 px"] == (0, 1, 0.0)  # 40 px, found at .5 only
    assert by_label["8 to 16 px"] == (0, 0, None)
    sized = [
        ImageTruth(boxes=TRUTHS[0].boxes, diameters_mm=np.array([9.9, 10.0])),
        ImageTruth(boxes=np.zeros((0, 4)), diameters_mm=np.zeros(0)),
    ]
    rows = compute_recall_by_size(sized, match_detections(sized, FOUND, (0.5,)), 0.6)
    assert [row["count"] for row in rows] == [1, 1, 0, 0, 0]
    assert [row["found"] for row in rows] == [1, 0, 0, 0, 0]
    assert rows[0]["label"] == "below 10 mm" and rows[-1]["label"] == "80 mm and more"
