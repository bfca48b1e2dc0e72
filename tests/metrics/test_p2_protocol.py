"""P2's figures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lesionkeras.metrics.matches import ImageDetections, ImageTruth
from lesionkeras.metrics.p2_protocol import compute_box_errors, evaluate_p2

LESION = [10.0, 20, 30, 60]  # 20 x 40 px
SIZES = np.array([[200, 100]] * 4)  # height, width


def truth(*boxes: list[float]) -> ImageTruth:
    return ImageTruth(np.array(boxes, float).reshape(-1, 4))


def found(*pairs: tuple[list[float], float]) -> ImageDetections:
    boxes = np.array([box for box, _ in pairs], float).reshape(-1, 4)
    return ImageDetections(boxes, np.array([score for _, score in pairs]))


def test_one_box_an_image() -> None:
    """Two of three are hit; 800 / 8000 is IoU .1, and not above it."""
    wide = [10.0, 20, 110, 100]
    shifted = [15.0, 20, 35, 60]
    truths = [truth(LESION)] * 3
    detections = [found((LESION, 1.0)), found((shifted, 1.0)), found((wide, 1.0))]
    scores = evaluate_p2(truths, detections, ["a", "b", "c"], SIZES[:3], 0.5, num_resamples=20)
    assert scores["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert scores["false_share"]["value"] == pytest.approx(1 / 3)
    assert scores["fp_per_image"]["value"] == pytest.approx(1 / 3)
    # Shares of 100 x 200 px: 0; (.05, 0, .05, 0); (0, 0, .8, .2).
    errors = [0.0, (2 * 0.05**2) / 4, (0.8**2 + 0.2**2) / 4]
    assert compute_box_errors(truths, detections, SIZES) == pytest.approx(errors)
    assert scores["box_mse"]["value"] == pytest.approx(np.mean(errors))
    assert scores["sensitivity"]["low"] <= 2 / 3 <= scores["sensitivity"]["high"]


def test_several_boxes_and_a_threshold() -> None:
    nowhere = [80.0, 180, 90, 190]
    truths = [truth(LESION, nowhere), truth(), truth(LESION)]
    detections = [
        found((LESION, 0.9), (LESION, 0.8), ([60.0, 90, 70, 99], 0.7), (nowhere, 0.1)),
        found((LESION, 0.6)),
        found(),
    ]
    scores = evaluate_p2(truths, detections, ["a", "b", "c"], None, 0.5, num_resamples=5)
    # Of four kept boxes two are right, both on one of the three lesions.
    assert scores["false_share"]["value"] == 0.5
    assert scores["sensitivity"]["value"] == pytest.approx(1 / 3)
    assert scores["fp_per_image"]["value"] == pytest.approx(2 / 3)
    assert "box_mse" not in scores


def test_the_surest_box_is_held_against_the_nearest_lesion() -> None:
    other = [60.0, 20, 80, 60]
    (error,) = compute_box_errors(
        [truth(LESION, other)], [found((LESION, 0.2), ([62.0, 20, 80, 60], 0.7))], SIZES
    )
    assert error == pytest.approx(0.02**2 / 4)
    errors = compute_box_errors([truth(), truth(LESION)], [found((LESION, 1.0)), found()], SIZES)
    assert np.isnan(errors).all()
    crowd = ImageTruth(np.array([LESION, other]), crowd=np.array([True, False]))
    (error,) = compute_box_errors([crowd], [found((LESION, 1.0))], SIZES)
    assert error == pytest.approx((0.5**2 + 0.5**2) / 4)  # to the lesion, 50 px of 100 to the right


def test_undefined_is_none() -> None:
    scores = evaluate_p2([truth()] * 2, [found()] * 2, ["a", "b"], SIZES[:2], 0.5, num_resamples=3)
    assert [scores[key]["value"] for key in ("sensitivity", "false_share", "box_mse")] == [None] * 3
    assert scores["fp_per_image"]["value"] == 0.0 and scores["sensitivity"]["num_undefined"] == 3
    with pytest.raises(ValueError, match="1 images of truth but 2 patients"):
        evaluate_p2([truth()], [found()], ["a", "b"], None, 0.5)
