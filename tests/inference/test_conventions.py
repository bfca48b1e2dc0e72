from dataclasses import replace

import numpy as np
import pytest

from lesionkeras.config import DataConfig
from lesionkeras.data.box_convention import KEPT, RECIST_PLUS_5, TIGHT, estimate_boxes
from lesionkeras.data.opening import Split
from lesionkeras.inference.conventions import change_convention, find_learnt
from lesionkeras.inference.detect import Findings, find_truth
from lesionkeras.metrics import ImageDetections
from tests.data.made import make_split


def make_known(count=3):
    """Sources of 64 x 128 px with two lesions, of which the square shows one."""
    split = make_split(count)
    own = np.zeros((count, len(KEPT), 3, 4), np.float32)
    own[:, :2, :2] = [[30, 20, 50, 40], [100, 5, 110, 9]]  # as stored and tight
    own[:, 2, :2] = [[26, 16, 54, 44], [95, 0, 115, 14]]
    classes = np.tile(np.int32([0, 0, -1]), (count, 1))
    images = replace(split.images, own_boxes=own, own_classes=classes, convention=TIGHT)
    return Split(images, split.rows)


def test_what_is_learnt():
    assert find_learnt(DataConfig(name="deeplesion")) == RECIST_PLUS_5
    assert find_learnt(DataConfig(name="lits+deeplesion", box_convention=TIGHT)) == TIGHT
    assert find_learnt(DataConfig(name="lits+deeplesion")) == ""


@pytest.mark.parametrize(("convention", "box"), [("", 0), (TIGHT, 0), (RECIST_PLUS_5, 2)])
def test_truth_is_all_lesions_with_their_own_sizes(convention, box):
    split = make_known()
    truth = find_truth(split, 1, convention)
    assert np.array_equal(truth.boxes, split.images.own_boxes[1, box, :2])
    # pixels of 0.5 x 0.75 mm on 32 px are 0.25 x 0.1875 on 64 x 128; the lesion's, whatever the box
    np.testing.assert_allclose(truth.diameters_mm, [20 * 0.25, 10 * 0.1875])


def test_detections_are_estimated_and_truth_is_looked_up():
    split = make_known(2)
    boxes = np.float32([[30, 20, 50, 40], [120, 50, 127, 63]])
    found = [
        ImageDetections(boxes, np.float32([0.9, 0.3])),
        ImageDetections(boxes[:0], np.zeros(0)),
    ]
    truths = tuple(find_truth(split, i) for i in range(2))
    before = Findings(truths, tuple(found), tuple(split.patients), split.images.files)
    after = change_convention(before, split, TIGHT, RECIST_PLUS_5)
    wanted = estimate_boxes(boxes, TIGHT, RECIST_PLUS_5)
    assert wanted[1].max() > 128
    np.testing.assert_allclose(
        after.detections[0].boxes, np.clip(wanted, 0, [128, 64, 128, 64]), atol=1e-5
    )
    assert after.detections[0].scores.tolist() == before.detections[0].scores.tolist()
    assert len(after.detections[1].boxes) == 0
    assert np.array_equal(after.truths[1].boxes, split.images.own_boxes[1, 2, :2])
    same = change_convention(before, split, TIGHT, TIGHT)
    np.testing.assert_allclose(same.detections[0].boxes, boxes)
    assert same.patients == before.patients
