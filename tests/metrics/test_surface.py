import math

import numpy as np
import pytest
from medpy.metric import binary as medpy
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial.distance import cdist

from lesionkeras.metrics.surface import (
    LITS,
    MEDPY,
    MEDPY_0_4,
    NO_SURFACE,
    SurfaceConvention,
    find_distances,
    measure_surfaces,
)

SPACING_MM = (5.0, 2.0, 0.5)  # z, y, x, all different: a swapped axis fails


def make_pairs(num_pairs, seed=5, most=12):
    rng = np.random.default_rng(seed)
    for _ in range(num_pairs):
        shape = tuple(rng.integers(2, most, 3))
        pair = rng.random((2, *shape)) < rng.choice([0.1, 0.4, 0.8])
        pair[0].flat[rng.integers(pair[0].size)] = pair[1].flat[rng.integers(pair[0].size)] = True
        yield pair[0], pair[1], tuple(rng.uniform(0.3, 5.0, 3))


def find_by_scipy(mask, connectivity):
    return mask & ~binary_erosion(mask, generate_binary_structure(3, connectivity))


@pytest.mark.parametrize(("axis", "side_mm"), list(enumerate(SPACING_MM)))
def test_two_voxels_are_as_far_apart_as_their_axis_says(axis, side_mm):
    truth, prediction = np.zeros((2, 4, 4, 4), bool)
    truth[1, 1, 1] = True
    place = [1, 1, 1]
    place[axis] = 3
    prediction[tuple(place)] = True
    scores = measure_surfaces(truth, prediction, SPACING_MM)
    assert scores.assd_mm == scores.rmsd_mm == scores.msd_mm == 2 * side_mm


def test_scores_by_hand():
    # Truth x = 0; prediction x = 0, 2 and 6: 0 mm back, then 0, 1 and 3 mm at .5 mm a voxel.
    truth, prediction = np.zeros((2, 1, 1, 7), bool)
    truth[..., 0], prediction[..., [0, 2, 6]] = True, True
    pooled = measure_surfaces(truth, prediction, SPACING_MM, LITS)
    assert pooled.assd_mm == 4 / 4
    assert pooled.rmsd_mm == pytest.approx(math.sqrt(10 / 4))
    assert pooled.msd_mm == 3.0
    assert measure_surfaces(truth, prediction, SPACING_MM, MEDPY_0_4).assd_mm == (0 + 4 / 3) / 2
    to_prediction, to_truth = find_distances(truth, prediction, SPACING_MM, 1)
    assert to_prediction.tolist() == [0.0] and sorted(to_truth) == [0.0, 1.0, 3.0]


def test_conventions_differ_in_what_they_call_surface():
    # A cube of 5 less the middle of an edge: the voxel diagonally inside has its 6 neighbours, yet
    # not its 18; a corner less, and only the 26 see it.
    cube = np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    for missing, counts in (((1, 1, 3), [97, 98, 100]), ((1, 1, 1), [97, 97, 98])):
        mask = cube.copy()
        mask[missing] = False
        found = [find_distances(mask, mask, SPACING_MM, c)[0].size for c in (1, 2, 3)]
        assert found == counts


def test_equals_medpy_on_200_random_pairs():
    worst = 0.0
    for truth, prediction, spacing_mm in make_pairs(200):
        scores = measure_surfaces(truth, prediction, spacing_mm, MEDPY)
        to_prediction, to_truth = find_distances(truth, prediction, spacing_mm, 1)
        differences = (
            scores.assd_mm - medpy.assd(prediction, truth, spacing_mm),
            scores.msd_mm - medpy.hd(prediction, truth, spacing_mm),
            to_prediction.mean() - medpy.asd(truth, prediction, spacing_mm),
            to_truth.mean() - medpy.asd(prediction, truth, spacing_mm),
        )
        worst = max(worst, *np.abs(differences))
    assert worst < 1e-12


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_equals_all_distances_between_scipy_surfaces(connectivity):
    convention = SurfaceConvention(connectivity, pooled=True)
    for truth, prediction, spacing_mm in make_pairs(20, seed=connectivity):
        points = [
            np.argwhere(find_by_scipy(mask, connectivity)) * spacing_mm
            for mask in (truth, prediction)
        ]
        far = cdist(*points)
        expected = np.concatenate([far.min(axis=1), far.min(axis=0)])
        scores = measure_surfaces(truth, prediction, spacing_mm, convention)
        assert scores.assd_mm == pytest.approx(expected.mean(), abs=1e-12)
        assert scores.rmsd_mm == pytest.approx(np.sqrt((expected**2).mean()), abs=1e-12)
        assert scores.msd_mm == pytest.approx(expected.max(), abs=1e-12)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("num_slices", [15, 16, 17, 33])
def test_slabs_leave_no_seam(num_slices, connectivity):
    mask = np.random.default_rng(num_slices).random((num_slices, 6, 7)) < 0.97
    corner = np.zeros_like(mask)
    corner[0, 0, 0] = True
    to_corner, _ = find_distances(mask, corner, SPACING_MM, connectivity)
    points = np.argwhere(find_by_scipy(mask, connectivity)) * SPACING_MM
    np.testing.assert_allclose(np.sort(to_corner), np.sort(np.linalg.norm(points, axis=1)))


def test_without_one_of_the_masks_nothing_is_measured():
    truth, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    for pair in ((truth, empty), (empty, truth), (empty, empty)):
        assert measure_surfaces(*pair, SPACING_MM) == NO_SURFACE
    assert math.isnan(NO_SURFACE.assd_mm)
    assert measure_surfaces(truth, truth, SPACING_MM).msd_mm == 0.0
