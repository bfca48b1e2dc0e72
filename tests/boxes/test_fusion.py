"""Weighted boxes fusion against values worked out by hand."""

import numpy as np
import pytest

from lesionkeras.boxes.fusion import fuse_boxes

NOTHING = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def fuse(*found, **options):
    """Fuse detectors' [(box, score, class), ...]; the same, rounded."""
    columns = [tuple(map(np.array, zip(*rows, strict=True))) if rows else NOTHING for rows in found]
    boxes, scores, classes = fuse_boxes(*zip(*columns, strict=True), **options)
    rounded = boxes.round(6).tolist(), scores.round(6).tolist(), classes.tolist()
    return list(zip(*rounded, strict=True))


def test_members_weigh_by_their_scores_and_who_is_silent_says_zero():
    one, two = [([0, 0, 10, 10], 0.8, 0)], [([2, 0, 12, 10], 0.4, 0)]  # IoU 80 / 120
    # x1: 2 x .4 / 1.2; the score: 1.2 / 3
    assert fuse(one, two, []) == [([0.666667, 0, 10.666667, 10], 0.4, 0)]
    assert fuse(one) == [([0, 0, 10, 10], 0.8, 0)]


def test_one_detector_gives_a_group_one_box():
    """Its second box of the same place is a group of its own, which others' second ones join."""
    twice = [([0, 0, 10, 10], 0.8, 0), ([0, 0, 10, 10], 0.6, 0)]
    assert fuse(twice, twice) == [([0, 0, 10, 10], 0.8, 0), ([0, 0, 10, 10], 0.6, 0)]


def test_classes_and_places_stay_apart():
    one = [([0, 0, 10, 10], 0.8, 0), ([50, 50, 60, 60], 0.2, 0)]
    two = [([0, 0, 10, 10], 0.6, 1)]
    assert fuse(one, two) == [
        ([0, 0, 10, 10], 0.4, 0), ([0, 0, 10, 10], 0.3, 1), ([50, 50, 60, 60], 0.1, 0),
    ]  # fmt: skip


def test_overlap_is_with_the_groups_box_and_the_most_overlapped_group_is_joined():
    # [0, 20] and [5, 25] overlap by 15 / 25: their box is [2.5, 22.5], which [10, 30] overlaps by
    # 12.5 / 27.5 = .4545, but the first alone by a third
    rows = [[([x, 0, x + 20, 1], 0.5, 0)] for x in (0, 5, 10)]
    assert fuse(*rows, iou_of_one=0.45) == [([5, 0, 25, 1], 0.5, 0)]
    assert len(fuse(*rows, iou_of_one=0.46)) == 2
    two = [([0, 0, 20, 1], 0.9, 0), ([6, 0, 26, 1], 0.8, 0)]
    (near, far) = fuse(two, [([5, 0, 25, 1], 0.7, 0)])
    assert near[1:] == (0.75, 0) and far == ([0, 0, 20, 1], 0.45, 0)


def test_nothing_and_scores_of_zero():
    assert fuse([], []) == []
    assert fuse([([0, 0, 4, 4], 0.0, 0)], [([0, 0, 4, 4], 0.0, 0)]) == [([0, 0, 4, 4], 0.0, 0)]


def test_what_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match="no detector"):
        fuse_boxes([], [], [])
    for score in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"not in 0\.\.1"):
            fuse([([0, 0, 4, 4], score, 0)])
