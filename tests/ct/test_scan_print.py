"""A scan's print: where the body is, what stays the same and what does not."""

import pickle

import numpy as np
import pytest

from lesionkeras.ct.scan_print import MARGIN_MM, OUTSIDE, VOXEL_MM, describe_scan, hash_slice
from lesionkeras.ct.volume import Volume
from tests.ct.made_up_people import RADII_MM, make_scan


@pytest.fixture(scope="module")
def scan():
    return make_scan(0)


def test_a_print_shows_the_trunk_in_canonical_millimetres(scan):
    shown = describe_scan(*scan)
    depth, height, width = np.array(shown.detail.shape) * VOXEL_MM
    assert depth == pytest.approx(150.0, abs=2 * VOXEL_MM)  # liver of 90 mm and what is around
    assert height == pytest.approx(2 * RADII_MM[0] - 16.0, abs=3 * VOXEL_MM)  # without 8 mm of skin
    assert width == pytest.approx(2 * RADII_MM[1] - 16.0, abs=3 * VOXEL_MM)
    inside = shown.detail[shown.detail != OUTSIDE] / 32.0
    assert abs(inside.mean()) < 0.2
    assert 0.5 < inside.std() < 1.2


def test_a_print_is_small_and_can_be_kept(scan):
    shown = describe_scan(*scan)
    data = pickle.dumps(shown)
    assert len(data) < 1_000_000
    again = pickle.loads(data)
    assert np.array_equal(again.detail, shown.detail)
    assert again.slices == shown.slices


def test_a_table_and_what_lies_beside_the_patient_are_left_out(scan):
    image, mask = scan
    with_table = image.array.copy()
    with_table[:, 94:97, 10:-10] = 100  # a plate of 7 mm that touches the back
    with_table[:, 5:10, 5:10] = 500
    shown = describe_scan(Volume(with_table, image.affine), mask)
    plain = describe_scan(*scan)
    assert np.abs(np.subtract(shown.detail.shape, plain.detail.shape)).max() <= 2


def test_only_slices_around_the_liver_count(scan):
    image, mask = scan
    thin = mask.array.copy()
    rows = np.flatnonzero(thin.any(axis=(1, 2)))
    thin[rows[2] :] = 0  # two slices, 8 mm
    shown = describe_scan(image, Volume(thin, mask.affine))
    assert len(shown.slices) == 2
    below = min(rows[0] * 4.0, MARGIN_MM)
    assert len(shown.detail) * VOXEL_MM == pytest.approx(below + 8.0 + MARGIN_MM, abs=VOXEL_MM)


def test_a_long_scan_without_a_liver_is_cut_to_its_middle():
    image = np.full((30, 40, 40), 40, np.int16)
    affine = np.diag([20.0, 8.0, 8.0, 1.0])[[2, 1, 0, 3]]
    shown = describe_scan(Volume(image, affine), Volume(np.zeros_like(image, "u1"), affine))
    assert len(shown.detail) * VOXEL_MM == 400.0


def make_slice():
    return np.random.default_rng(0).integers(-300, 400, (64, 64)).astype(np.int16)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: a.T,
        lambda a: np.clip(a, -160, 240),
        lambda a: np.clip(a, -200, 300),
        lambda a: np.pad(a, 5, constant_values=-1024),
        lambda a: a.astype(np.int32),
    ],
)
def test_a_slices_hash_survives_what_copying_does(change):
    assert hash_slice(change(make_slice())) == hash_slice(make_slice())


def test_a_slices_hash_changes_with_one_voxel_and_is_not_given_to_an_empty_one():
    image = make_slice()
    changed = image.copy()
    changed[np.unravel_index(np.argmin(abs(image)), image.shape)] += 1
    assert hash_slice(image) is not None
    assert hash_slice(changed) != hash_slice(image)
    assert hash_slice(np.full((64, 64), -1000, np.int16)) is None
    assert hash_slice(np.repeat(np.arange(50, dtype=np.int16), 64).reshape(50, 64)) is None
    assert hash_slice(image[:20, :20]) is None
