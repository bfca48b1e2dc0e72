import numpy as np
import pytest

from lesionkeras.ct.components import find_boxes

SPACING_MM = (2.0, 0.5)  # y, x: a swapped axis shows


def draw(*rectangles, shape=(20, 30)):
    mask = np.zeros(shape, np.uint8)
    for x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = 1
    return mask


def test_a_rectangle_is_half_open_xyxy():
    boxes = find_boxes(draw((3, 5, 10, 9)), SPACING_MM, 0.0)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[3, 5, 10, 9]]


def test_one_pixel_in_the_last_corner():
    assert find_boxes(draw((29, 19, 30, 20)), SPACING_MM, 0.0).tolist() == [[29, 19, 30, 20]]


@pytest.mark.parametrize("empty", [np.zeros((5, 7), np.uint8), np.zeros((5, 7), bool)])
def test_empty_mask_has_no_boxes(empty):
    boxes = find_boxes(empty, SPACING_MM, 0.0)
    assert boxes.shape == (0, 4) and boxes.dtype == np.float32


def test_full_mask_is_one_box():
    assert find_boxes(np.ones((5, 7), bool), SPACING_MM, 0.0).tolist() == [[0, 0, 7, 5]]


def test_diagonal_neighbours_are_one_component():
    mask = draw((2, 2, 4, 4), (4, 4, 6, 6))
    assert find_boxes(mask, SPACING_MM, 0.0).tolist() == [[2, 2, 6, 6]]
    mask = draw((2, 2, 4, 4), (5, 4, 6, 6))  # a column between them
    assert find_boxes(mask, SPACING_MM, 0.0).tolist() == [[2, 2, 4, 4], [5, 4, 6, 6]]


@pytest.mark.parametrize(
    ("rectangle", "longer_mm"),
    [
        ((4, 4, 10, 5), 3.0),  # 6 px of .5 mm wide, 1 of 2 mm high
        ((4, 4, 5, 6), 4.0),  # 1 px of .5 mm wide, 2 of 2 mm high
        ((4, 4, 5, 5), 2.0),
    ],
)
def test_size_is_the_longer_side_in_mm(rectangle, longer_mm):
    mask = draw(rectangle)
    assert len(find_boxes(mask, SPACING_MM, longer_mm)) == 1
    assert len(find_boxes(mask, SPACING_MM, longer_mm + 0.01)) == 0
    swapped = (SPACING_MM[1], SPACING_MM[0])
    assert len(find_boxes(mask, swapped, longer_mm)) != 1 or longer_mm != 4.0


def test_spacing_read_from_float32_does_not_decide():
    spacing = tuple(float(np.float32(mm)) for mm in (0.7, 0.1))  # a bit off .7 and .1
    assert len(find_boxes(draw((0, 0, 1, 10)), spacing, 7.0)) == 1
    assert len(find_boxes(draw((0, 0, 30, 1)), spacing, 3.0)) == 1


def test_order_is_by_row_then_column():
    rectangles = [(20, 1, 22, 3), (5, 1, 7, 3), (10, 0, 12, 1), (2, 10, 4, 12)]
    boxes = find_boxes(draw(*rectangles), SPACING_MM, 0.0).tolist()
    assert boxes == [[10, 0, 12, 1], [5, 1, 7, 3], [20, 1, 22, 3], [2, 10, 4, 12]]


def test_agrees_with_an_independent_labelling():
    rng = np.random.default_rng(3)
    mask = rng.random((40, 50)) < 0.3
    seen, wanted = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):  # flood fill, 8 neighbours
        stack, pixels = [start], []
        while stack:
            y, x = stack.pop()
            if 0 <= y < 40 and 0 <= x < 50 and mask[y, x] and not seen[y, x]:
                seen[y, x] = True
                pixels.append((y, x))
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        if pixels:
            ys, xs = np.array(pixels).T
            wanted.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    boxes = find_boxes(mask, (1.0, 1.0), 0.0)
    assert sorted(boxes.tolist()) == sorted([[float(v) for v in box] for box in wanted])
