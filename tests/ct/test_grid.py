import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.ct.grid import SliceGrid, find_grid, place_hu, place_hu_graph, place_mask, to_slice

# rows and columns, spacing y and x, side, mm a pixel: padded, cut, both, whole, same size
CASES = [
    ((50, 70), (0.9, 0.6), 64, 1.0),
    ((61, 47), (1.3, 1.7), 64, 1.0),
    ((80, 30), (1.1, 0.8), 64, 0.7),
    ((37, 53), (0.7, 0.9), 64, 0.0),
    ((40, 60), (0.8, 0.8), 50, 0.8),
]


def make_mask(height, width):
    """A liver ellipse in the middle half with a tumour left of its centre; no symmetry."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height - 0.48, (x + 0.5) / width - 0.53
    mask = ((y / 0.2) ** 2 + (x / 0.23) ** 2 < 1).astype(np.uint8)
    mask[((y - 0.03) / 0.09) ** 2 + ((x + 0.06) / 0.1) ** 2 < 1] = 2
    return mask


def find_centre(mask):
    return np.argwhere(mask).mean(axis=0)


@pytest.mark.parametrize(("size_px", "spacing_mm", "side_px", "pixel_mm"), CASES)
def test_a_mask_comes_back_where_it_was(size_px, spacing_mm, side_px, pixel_mm):
    mask, grid = make_mask(*size_px), find_grid(size_px, spacing_mm, side_px, pixel_mm)
    placed = place_mask(mask, grid)
    assert placed.shape == (side_px, side_px) and set(np.unique(placed)) == {0, 1, 2}
    back = to_slice(np.eye(3, dtype=np.float32)[placed], grid, np.float32([1, 0, 0]))
    assert back.shape == (*size_px, 3)
    np.testing.assert_allclose(back.sum(-1), 1.0, atol=1e-5)
    found = back.argmax(-1)
    for label in (1, 2):
        a, b = found >= label, mask >= label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
        np.testing.assert_allclose(find_centre(a), find_centre(b), atol=0.35)  # nearest pixels
    if grid.resized_px == size_px:
        assert np.array_equal(found, mask)


@pytest.mark.parametrize(("size_px", "spacing_mm", "side_px", "pixel_mm"), CASES)
def test_places_of_pixels_survive_both_ways(size_px, spacing_mm, side_px, pixel_mm):
    """A ramp is a ramp after resizing: its value says which pixel of the slice lies there."""
    grid = find_grid(size_px, spacing_mm, side_px, pixel_mm)
    ramp = (10 * np.mgrid[: size_px[0], : size_px[1]][0]).astype(np.int16)
    placed = place_hu(ramp, grid)
    (scale, _), (shift, _) = grid.scale, grid.shift_px
    rows = np.arange(max(shift, 0) + 4, min(shift + grid.resized_px[0], side_px) - 4)
    wanted = 10 * ((rows + 0.5 - shift) / scale - 0.5)
    np.testing.assert_allclose(placed[rows, side_px // 2], wanted, atol=0.6)
    back = to_slice(placed[..., None].astype(np.float32), grid)[..., 0]
    middle = slice(size_px[0] // 2 - 6, size_px[0] // 2 + 6)
    np.testing.assert_allclose(back[middle, size_px[1] // 2], ramp[middle, 0], atol=1.0)


@pytest.mark.parametrize(("size_px", "spacing_mm", "side_px", "pixel_mm"), CASES)
def test_graph_equals_numpy(size_px, spacing_mm, side_px, pixel_mm):
    grid = find_grid(size_px, spacing_mm, side_px, pixel_mm)
    image_hu = np.random.default_rng(0).integers(-1024, 3071, size_px).astype(np.int16)
    placed = place_hu(image_hu, grid)
    stack = tf.constant(np.stack([image_hu, image_hu[::-1]], -1)[None])
    found = place_hu_graph(stack, tf.constant(grid.resized_px), side_px)
    assert found.dtype == tf.int16 and np.array_equal(found[0, ..., 0], placed)
    assert np.array_equal(found[0, ..., 1], place_hu(image_hu[::-1], grid))


def test_mm_a_pixel_by_hand():
    grid = find_grid((100, 200), (0.9, 0.6), 128, 1.2)
    assert grid == SliceGrid((100, 200), (75, 100), 128)
    assert grid.shift_px == (26, 14) and grid.scale == (0.75, 0.5)
    cut = find_grid((100, 200), (0.9, 0.6), 64, 0.6)
    assert cut.resized_px == (150, 200) and cut.shift_px == (-43, -68)


def test_beyond_the_slice_is_air_and_beyond_the_square_is_as_said():
    grid = find_grid((4, 8), (1.0, 1.0), 6, 1.0)
    placed = place_hu(np.full((4, 8), 50, np.int16), grid)
    assert placed[:, 0].tolist() == [-1024, 50, 50, 50, 50, -1024]
    mask = place_mask(np.ones((4, 8), np.uint8), grid)
    assert mask[:, 0].tolist() == [0, 1, 1, 1, 1, 0]
    back = to_slice(placed[..., None].astype(np.float32), grid, beyond=7.0)[..., 0]
    assert back[2].tolist() == [7, 50, 50, 50, 50, 50, 50, 7]
