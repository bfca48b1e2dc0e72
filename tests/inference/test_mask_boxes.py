import numpy as np
import pytest

from lesionkeras.inference.mask_boxes import LEAST_PROBABILITY, find_boxes


def make_map(*pieces, shape=(20, 30)):
    tumour = np.zeros(shape, np.float32)
    for (top, left, height, width), value in pieces:
        tumour[top : top + height, left : left + width] = value
    return tumour


def test_pieces_are_boxes_the_surest_first():
    found = find_boxes(make_map(((2, 3, 4, 5), 0.4), ((10, 12, 6, 3), 0.9)))
    assert found.boxes.tolist() == [[12, 10, 15, 16], [3, 2, 8, 6]]
    np.testing.assert_allclose(found.scores, [0.9, 0.4])
    assert found.classes.tolist() == [0, 0]


def test_a_box_bounds_half_of_the_peak_and_its_halo_joins_no_neighbour():
    halo = make_map(((2, 2, 8, 20), 0.2), ((4, 4, 3, 4), 0.8), ((4, 15, 3, 4), 0.3))
    found = find_boxes(halo)
    assert found.boxes.tolist() == [[4, 4, 8, 7]]  # .2 is more than half of .3: no way down
    np.testing.assert_allclose(found.scores, [0.8])


@pytest.mark.parametrize("between", [0.12, 0.42, 0.43, 0.44])  # half of the lower is .425
def test_two_peaks_are_two_lesions_where_the_way_between_falls_below_half(between):
    bridge = make_map(((4, 2, 4, 16), between), ((4, 2, 4, 5), 0.9), ((4, 13, 4, 5), 0.85))
    found = find_boxes(bridge)
    assert found.boxes.tolist() == [[2, 4, 7, 8], [13, 4, 18, 8]]
    np.testing.assert_allclose(found.scores, [0.9, 0.85])


def test_two_peaks_with_a_ridge_between_are_one_lesion():
    bridge = make_map(((4, 2, 4, 16), 0.46), ((4, 2, 4, 5), 0.9), ((4, 13, 4, 5), 0.85))
    assert find_boxes(bridge).boxes.tolist() == [[2, 4, 18, 8]]


def test_a_weak_lesion_in_the_halo_of_a_sure_one_is_found():
    halo = make_map(((2, 2, 8, 20), 0.12), ((4, 4, 3, 4), 0.8), ((4, 15, 3, 4), 0.3))
    assert find_boxes(halo).boxes.tolist() == [[4, 4, 8, 7], [15, 4, 19, 7]]


def test_pieces_that_touch_by_a_corner_are_one():
    found = find_boxes(make_map(((2, 2, 3, 3), 0.6), ((5, 5, 3, 3), 0.7)))
    assert found.boxes.tolist() == [[2, 2, 8, 8]]


def test_little_or_unlikely_pieces_are_none():
    unlikely = make_map(((2, 2, 5, 5), LEAST_PROBABILITY - 1e-3))
    assert len(find_boxes(unlikely).boxes) == 0
    assert len(find_boxes(make_map(((2, 2, 1, 3), 0.9))).boxes) == 0
    assert find_boxes(make_map()).boxes.shape == (0, 4)


@pytest.mark.parametrize(("gap_px", "count"), [(0, 1), (2, 1), (3, 0)])
def test_pieces_away_from_the_liver_are_left_out(gap_px, count):
    tumour = make_map(((5, 10, 4, 4), 0.9))
    liver = np.maximum(make_map(((0, 0, 20, 10 - gap_px), 0.7)), tumour)  # with its lesions
    assert len(find_boxes(tumour, liver).boxes) == count
    assert len(find_boxes(tumour).boxes) == 1
