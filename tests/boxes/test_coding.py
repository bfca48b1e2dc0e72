import math

import numpy as np
import pytest
from keras import ops

from lesionkeras.boxes import decode_boxes, encode_boxes

VARIANCES = (0.1, 0.2, 0.3, 0.4)  # pairwise different: a swapped axis shows
ANCHORS = np.array([[10.0, 20.0, 30.0, 60.0], [5.0, 5.0, 13.0, 9.0]], np.float32)
BOXES = np.array([[[12.0, 25.0, 36.0, 45.0], [4.0, 6.0, 20.0, 8.0]]], np.float32)
# Hand, row 0: centre (24, 35) from (20, 40), sides 24 x 20 on 20 x 40.
# Row 1: centre (12, 7) from (9, 7), sides 16 x 2 on 8 x 4.
DELTAS = np.array(
    [
        [
            [4 / 20 / 0.1, -5 / 40 / 0.2, math.log(1.2) / 0.3, math.log(0.5) / 0.4],
            [3 / 8 / 0.1, 0.0, math.log(2.0) / 0.3, math.log(0.5) / 0.4],
        ]
    ]
)


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_coding_equals_hand_computed_values_both_ways(xp):
    before = BOXES.copy(), ANCHORS.copy()
    deltas = encode_boxes(BOXES, ANCHORS, VARIANCES, xp)
    np.testing.assert_allclose(deltas, DELTAS, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decode_boxes(deltas, ANCHORS, VARIANCES, xp), BOXES, rtol=1e-5)
    np.testing.assert_array_equal(BOXES, before[0])
    np.testing.assert_array_equal(ANCHORS, before[1])


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_padding_boxes_encode_to_finite_numbers(xp):
    assert np.isfinite(np.asarray(encode_boxes(np.zeros((1, 2, 4)), ANCHORS, VARIANCES, xp))).all()


@pytest.mark.parametrize("xp", [np, ops], ids=["numpy", "keras"])
def test_huge_deltas_decode_to_finite_boxes_of_limited_size(xp):
    for value in (65504.0, -65504.0):
        boxes = np.asarray(decode_boxes(np.full((2, 4), value), ANCHORS, (1, 1, 1, 1), xp))
        assert np.isfinite(boxes).all()
    sides = np.asarray(decode_boxes([[0, 0, 99, 99], [0, 0, 99, 99]], ANCHORS, VARIANCES, xp))
    np.testing.assert_allclose(
        sides[:, 2:] - sides[:, :2], 62.5 * (ANCHORS[:, 2:] - ANCHORS[:, :2]), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_coding_is_float32_under_16_bit_inputs(dtype):
    deltas = ops.cast(DELTAS, dtype)
    boxes = decode_boxes(deltas, ANCHORS, VARIANCES, ops)
    assert boxes.dtype == "float32"
    exact = decode_boxes(np.asarray(ops.cast(deltas, "float32")), ANCHORS, VARIANCES)
    np.testing.assert_allclose(boxes, exact, rtol=1e-6)
    assert encode_boxes(ops.cast(BOXES, dtype), ANCHORS, VARIANCES, ops).dtype == "float32"
