import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label

from lesionkeras.metrics.components import count_shared, find_components


def make_masks(num_masks, seed):
    rng = np.random.default_rng(seed)
    for _ in range(num_masks):
        yield rng.random(tuple(rng.integers(1, 9, 3))) < rng.choice([0.1, 0.3, 0.5, 0.8])


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_components_and_numbers_are_scipys(connectivity):
    structure = generate_binary_structure(3, connectivity)
    for mask in make_masks(120, connectivity):
        labels, count = label(mask, structure)
        found = find_components(mask, connectivity)
        flat = np.flatnonzero(mask)
        assert found.count == count
        np.testing.assert_array_equal(found.find_numbers(flat), labels.ravel()[flat])
        np.testing.assert_array_equal(found.sizes, np.bincount(labels.ravel())[1:])


def test_x_first_numbers_as_scipy_does_on_x_y_z():
    for mask in make_masks(120, 9):
        labels = label(mask.T)[0].T
        found = find_components(mask, 1, x_first=True)
        flat = np.flatnonzero(mask)
        np.testing.assert_array_equal(found.find_numbers(flat), labels.ravel()[flat])


def test_sizes_centroids_and_voxels_by_hand():
    mask = np.zeros((3, 4, 6), bool)
    mask[0, 0, 4:] = True  # one run at a row's end ...
    mask[0, 1, 0] = True  # ... and the next row's first voxel, which is next in memory only
    mask[1:3, 2, 1:4] = True
    found = find_components(mask, 1)
    assert found.sizes.tolist() == [2, 1, 6]
    assert found.centroids_zyx.tolist() == [[0, 0, 4.5], [0, 1, 0], [1.5, 2, 2]]
    assert found.list_voxels(np.array([1, 2])).tolist() == [4, 5, 6]
    assert found.list_voxels(np.array([3])).tolist() == [37, 38, 39, 61, 62, 63]


def test_an_empty_mask_has_none():
    found = find_components(np.zeros((2, 3, 4), bool), 1)
    assert found.count == 0 and found.sizes.size == 0 and found.centroids_zyx.shape == (0, 3)
    assert found.list_voxels(np.array([], int)).size == 0


def test_shared_voxels_are_those_of_a_loop():
    rng = np.random.default_rng(3)
    truth, prediction = rng.random((2, 6, 7, 8)) < 0.3
    of_truth, of_prediction = find_components(truth, 1), find_components(prediction, 1)
    shared = count_shared(of_truth, of_prediction, np.flatnonzero(truth & prediction))
    expected = np.zeros((of_prediction.count, of_truth.count), int)
    true, predicted = label(truth)[0], label(prediction)[0]
    for one, other in zip(predicted.ravel(), true.ravel(), strict=True):
        if one and other:
            expected[one - 1, other - 1] += 1
    np.testing.assert_array_equal(shared, expected)
