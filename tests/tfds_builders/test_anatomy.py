import itertools

import numpy as np
import pytest

from tests.tfds_builders.made_scans import LIVER_HU, make_abdomen
from tfds_builders.anatomy import (
    FLIPS,
    find_flips,
    find_mask_flips,
    is_liver,
    list_unclear,
    measure_fit,
    measure_sides,
    shows_enough,
    take_samples,
)

IMAGE, MASK = make_abdomen(3)


def test_flips_are_all_eight():
    wanted = [c for n in range(4) for c in itertools.combinations(range(3), n)]
    assert list(FLIPS) == wanted and len(FLIPS) == 8


@pytest.mark.parametrize("shape", [(1, 2, 3), (31, 32, 33), (63, 64, 65), (5, 200, 129)])
def test_samples_of_a_flip_are_the_flip_of_the_samples(shape):
    array = np.random.default_rng(0).integers(0, 9999, shape)
    samples = take_samples(array)
    assert max(samples.shape) <= 64
    assert samples[0, 0, 0] == array[0, 0, 0] and samples[-1, -1, -1] == array[-1, -1, -1]
    for axes in FLIPS:
        np.testing.assert_array_equal(take_samples(np.flip(array, axes)), np.flip(samples, axes))


def test_fit_by_hand():
    image = np.array([[[100, 110, 120, 900, -900]]])
    fit = measure_fit(image, np.array([[[1, 1, 1, 1, 1]]], bool))
    assert fit.median_hu == 110
    assert fit.spread_hu == pytest.approx((10 + 0 + 10 + 130 + 270) / 5)  # clipped to -160, 240


def test_a_mask_in_place_is_a_liver():
    axes, fit = find_mask_flips(IMAGE, MASK)
    assert axes == () and is_liver(fit)
    assert fit.median_hu == pytest.approx(LIVER_HU, abs=3)


@pytest.mark.parametrize("axes", FLIPS)
def test_the_flip_of_a_mask_is_found(axes):
    assert find_mask_flips(IMAGE, np.flip(MASK, axes))[0] == axes


def test_few_slices_flip_less():
    few = np.zeros_like(MASK)
    few[np.flatnonzero(MASK.any(axis=(1, 2)))[:2]] = 1
    assert not shows_enough(few, 5.0) and shows_enough(MASK, 5.0)
    image = np.random.default_rng(0).normal(60, 30, MASK.shape)
    image[::-1][few != 0] = 60 + 0.65 * (image[few != 0] - 60)  # a little evener there
    assert find_mask_flips(image, few)[0] == (0,)
    assert find_mask_flips(image, few, is_enough=False)[0] == ()


def test_a_mask_elsewhere_is_no_liver():
    moved = np.roll(MASK, (0, 16, 30), axis=(0, 1, 2))
    assert not is_liver(find_mask_flips(IMAGE, moved)[1])


@pytest.mark.parametrize("axes", FLIPS)
def test_wrong_sides_are_found(axes):
    sides = measure_sides(np.flip(IMAGE, axes), np.flip(MASK, axes))
    assert find_flips(sides) == axes and list_unclear(sides) == []
    right = measure_sides(IMAGE, MASK)
    wanted = [-v if axis in axes else v for axis, v in enumerate(right)]
    np.testing.assert_allclose(sides, wanted, atol=0.03)
    assert min(right) > 0.1


def test_a_table_below_the_patient_does_not_count():
    image = IMAGE.copy()
    image[:, 46:, 20:44] = 300  # hard, dorsal, apart from the body
    np.testing.assert_allclose(measure_sides(image, MASK), measure_sides(IMAGE, MASK), atol=1e-6)


def test_missing_landmarks_are_unclear():
    image = np.where(IMAGE > 200, 40, IMAGE)  # no bone
    assert list_unclear(measure_sides(image, MASK)) == ["dorsal and ventral"]
    image = np.where((IMAGE < -500) & (np.abs(np.arange(64) - 31.5) < 24), -80, IMAGE)  # no lung
    assert "cranial and caudal" in list_unclear(measure_sides(image, MASK))
    assert list_unclear(measure_sides(np.full_like(IMAGE, 30), np.ones_like(MASK))) == [
        "cranial and caudal",
        "dorsal and ventral",
        "left and right",
    ]
