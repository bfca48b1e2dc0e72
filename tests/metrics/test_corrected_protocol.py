import math

import numpy as np
import pytest

from lesionkeras.metrics.volumes import evaluate_case

SPACING_MM = (5.0, 0.5, 2.0)  # 5 mm3 a voxel


def make():
    return np.ones((2, 1, 4, 12), np.uint8)


def count(detection):
    return (detection.num_found, detection.num_missed, detection.num_true, detection.num_false)


def test_a_component_over_two_lesions_is_judged_by_each():
    truth, prediction = make()
    truth[0, 0, 0:4] = truth[0, 0, 5] = 2  # 4 voxels, a gap, 1 voxel
    prediction[0, 0, 0:6] = 2
    scores = evaluate_case(truth, prediction, SPACING_MM)
    # Intersection by union: 4 / 6 of the first, 1 / 6 of the second.
    assert count(scores.detections[0]) == (2, 0, 1, 0)
    assert count(scores.detections[1]) == (1, 1, 1, 0)
    assert [row.iou for row in scores.lesions] == [4 / 6, 1 / 6]
    assert [row.dice for row in scores.lesions] == [8 / 10, 2 / 7]
    assert [row.found_half for row in scores.lesions] == [True, False]


def test_a_lesion_in_two_pieces_is_found_by_both_together():
    truth, prediction = make()
    truth[0, 1, 0:7] = 2
    prediction[0, 1, 0:3] = prediction[0, 1, 4:7] = prediction[0, 3, 11] = 2
    scores = evaluate_case(truth, prediction, SPACING_MM)
    assert count(scores.detections[0]) == count(scores.detections[1]) == (1, 0, 2, 1)
    lesion, false = scores.lesions
    assert (lesion.num_components, lesion.iou, lesion.volume_mm3) == (2, 6 / 7, 35.0)
    assert lesion.predicted_mm3 == 30.0 and lesion.centroid_zyx == (0, 1, 3)
    assert (false.kind, false.centroid_zyx, false.volume_mm3) == ("false component", (0, 3, 11), 5)


def test_exactly_half_is_not_above_half():
    truth, prediction = make()
    truth[0, 0, 0:2], prediction[0, 0, 0] = 2, 2
    assert count(evaluate_case(truth, prediction, SPACING_MM).detections[1]) == (0, 1, 0, 1)


def test_lesions_touch_across_faces():
    truth, prediction = make()
    truth[0, 0, 0] = truth[0, 1, 1] = 2
    assert len(evaluate_case(truth, prediction, SPACING_MM).lesions) == 2


def test_all_tumour_is_one_object_with_rvd_as_published():
    truth, prediction = make()
    truth[0, 0, 0:4], prediction[0, 0, 0:3] = 2, 2
    scores = evaluate_case(truth, prediction, SPACING_MM)
    (tumour,) = scores.tumour_objects
    assert tumour.rvd == -0.25 and tumour.dice == scores.tumour_dice == pytest.approx(6 / 7)
    assert tumour.assd_mm == pytest.approx(2.0 / 7) and tumour.msd_mm == 2.0
    assert scores.burden_error == pytest.approx((3 - 4) / 48)
    assert scores.liver_dice == 1.0


def test_a_case_without_a_lesion_has_no_dice_but_a_false_volume():
    truth, prediction = make()
    prediction[0, 0, 0:3] = 2
    scores = evaluate_case(truth, prediction, SPACING_MM)
    assert math.isnan(scores.tumour_dice) and scores.tumour_objects == ()
    assert scores.false_positive_mm3 == 15.0 and not scores.has_lesion
    assert scores.tumour.specificity == 45 / 48
    assert count(scores.detections[0]) == (0, 0, 0, 1)
    assert math.isnan(scores.detections[0].recall) and scores.detections[0].precision == 0.0


def test_a_missed_tumour_scores_0_and_has_no_distance():
    truth, prediction = make()
    truth[0, 0, 0:3] = 2
    scores = evaluate_case(truth, prediction, SPACING_MM)
    assert scores.tumour_dice == 0.0
    assert math.isnan(scores.tumour_objects[0].assd_mm)
    assert count(scores.detections[1]) == (0, 1, 0, 0)
    nothing = evaluate_case(truth, np.zeros_like(truth), SPACING_MM)
    assert nothing.liver_dice == 0.0
    assert nothing.burden_error == -nothing.tumour.num_truth / nothing.liver.num_truth < 0
    nowhere = evaluate_case(np.zeros_like(truth), truth, SPACING_MM)
    assert math.isnan(nowhere.burden_error)  # no liver to be a share of
