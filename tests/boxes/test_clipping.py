import numpy as np

from lesionkeras.boxes.clipping import MIN_VISIBLE_SHARE, clip_to_square

# x1, y1, x2, y2 and the share that a picture of 20 px shows, by hand
CASES = [
    ([2, 3, 7, 9], 1.0),
    ([-6, 0, 4, 5], 0.4),
    ([-6.1, 0, 4, 5], 4 / 10.1),
    ([15, 12, 25, 32], 0.5 * 0.4),
    ([15, 10, 23, 22.5], 5 / 8 * 0.8),
    ([21, 3, 25, 9], 0.0),
    ([0, 0, 0, 0], 0.0),
]


def test_a_box_is_kept_with_two_fifths_of_its_area():
    boxes = np.float32([box for box, _ in CASES])
    clipped, kept = clip_to_square(boxes, 20)
    shares = np.array([share for _, share in CASES])
    assert kept.tolist() == (shares >= MIN_VISIBLE_SHARE).tolist()
    assert kept.tolist() == [True, True, False, False, True, False, False]
    assert clipped.dtype == np.float32 and clipped.min() >= 0 and clipped.max() <= 20
    assert clipped[4].tolist() == [15, 10, 20, 20]
    assert clipped[0].tolist() == [2, 3, 7, 9]


def test_any_leading_axes():
    boxes = np.float32([box for box, _ in CASES[:6]]).reshape(2, 3, 4)
    clipped, kept = clip_to_square(boxes, 20)
    assert clipped.shape == (2, 3, 4) and kept.tolist() == [
        [True, True, False],
        [False, True, False],
    ]
