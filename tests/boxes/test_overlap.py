import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from lesionkeras import boxes as lib

# Wide and high boxes differ, so that a swapped axis shows.
A = np.array([[0.0, 0.0, 10.0, 4.0], [2.0, 1.0, 5.0, 9.0]], np.float32)
B = np.array([[5.0, 2.0, 15.0, 6.0], [2.0, 1.0, 5.0, 9.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
# Hand: A0 & B0 share 5 x 2 = 10 of 40 + 40; A0 & B1 share 3 x 3 = 9 of 40 + 24; A1 & B0 touch only.
SHARED = np.array([[10.0, 9.0, 0.0], [0.0, 24.0, 0.0]], np.float32)
IOU = np.array([[10 / 70, 9 / 55, 0.0], [0.0, 1.0, 0.0]], np.float32)


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_overlaps_equal_hand_computed_values(xp):
    before = A.copy(), B.copy()
    np.testing.assert_allclose(lib.compute_area(xp.array(B), xp), [40.0, 24.0, 0.0])
    np.testing.assert_allclose(lib.compute_intersection(xp.array(A), xp.array(B), xp), SHARED)
    np.testing.assert_allclose(lib.compute_iou(xp.array(A), xp.array(B), xp), IOU, rtol=1e-6)
    covered = lib.compute_ioa(xp.array(A), xp.array(B), xp)
    np.testing.assert_allclose(covered, SHARED / [[40.0], [24.0]], rtol=1e-6)
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(B, before[1])


def test_iou_broadcasts_leading_axes_and_keeps_float64():
    batch = np.stack([A, A + 1.0]).astype(np.float64)
    iou = lib.compute_iou(batch, B.astype(np.float64))
    assert iou.shape == (2, 2, 3) and iou.dtype == np.float64
    np.testing.assert_allclose(iou[0], IOU, rtol=1e-6)
    np.testing.assert_allclose(iou[1], lib.compute_iou(batch[1], B.astype(np.float64)))


def test_empty_inverted_and_padding_boxes_overlap_nothing():
    bad = np.array([[0.0] * 4, [3.0, 3.0, 3.0, 8.0], [9.0, 3.0, 1.0, 4.0]])
    everything = np.array([[-50.0, -50.0, 50.0, 50.0], [0.0] * 4])
    assert (lib.compute_iou(bad, everything) == 0).all()
    assert (lib.compute_ioa(bad, everything) == 0).all()
    assert lib.compute_iou(np.zeros((0, 4)), everything).shape == (0, 2)


@pytest.mark.parametrize("xp", [np, ops, tf], ids=["numpy", "keras", "tensorflow"])
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("xyxy", [10.0, 20.0, 40.0, 80.0]),
        ("xywh", [10.0, 20.0, 30.0, 60.0]),
        ("cxcywh", [25.0, 50.0, 30.0, 60.0]),
        ("rel_yxyx", [0.2, 0.05, 0.8, 0.2]),
    ],
)
def test_formats_go_both_ways(name, row, xp):
    make = xp.constant if xp is tf else xp.array
    xyxy = make([[10.0, 20.0, 40.0, 80.0]], dtype="float32")
    other = make([row], dtype="float32")
    size = (100, 200)
    np.testing.assert_allclose(lib.from_xyxy(xyxy, name, size, xp), other, rtol=1e-6)
    np.testing.assert_allclose(lib.to_xyxy(other, name, size, xp), xyxy, rtol=1e-6)


def test_formats_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="unknown box format 'yxyx'; known are xyxy, xywh"):
        lib.to_xyxy(A, "yxyx")
    with pytest.raises(ValueError, match="rel_yxyx boxes need image_size_px"):
        lib.from_xyxy(A, "rel_yxyx")


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_clip_boxes_cuts_at_the_image(xp):
    boxes = xp.array([[-3.0, -2.0, 25.0, 9.0], [30.0, 12.0, 40.0, 15.0], [1.0, 2.0, 3.0, 4.0]])
    wanted = [[0.0, 0.0, 20.0, 9.0], [20.0, 10.0, 20.0, 10.0], [1.0, 2.0, 3.0, 4.0]]
    np.testing.assert_array_equal(lib.clip_boxes(boxes, 10, 20, xp), wanted)


def test_importing_the_package_needs_neither_keras_nor_tensorflow():
    code = (
        "import sys, lesionkeras.boxes as b; b.compute_iou;"
        "sys.exit(bool({'keras', 'tensorflow', 'keras_cv'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
