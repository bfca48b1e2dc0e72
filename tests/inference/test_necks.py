import numpy as np
import pytest

from lesionkeras.ct.nifti import read_nifti, read_nifti_header
from lesionkeras.ct.nifti_header import find_affine
from lesionkeras.inference.necks import cut_necks

SPACING = (3.0, 0.8, 0.8)
NAMES = ("volume", "segmentation")
SHAPE = (60, 200, 340)  # z, y, x


def measure_mm(middle_mm):
    """Distance of every voxel from a point, mm."""
    z, y, x = (np.arange(n) * s - m for n, s, m in zip(SHAPE, SPACING, middle_mm, strict=True))
    return np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def make_mask(neck_mm, heart_mm=25.0):
    """A liver of 60 mm, a heart beside it, and a rod of a thickness between the two."""
    mask = np.zeros(SHAPE, np.uint8)
    liver, heart = (80.0, 80.0, 80.0), (80.0, 80.0, 200.0)
    x = np.arange(SHAPE[2]) * SPACING[2]
    z, y = (np.arange(n) * s - 80.0 for n, s in zip(SHAPE[:2], SPACING[:2], strict=True))
    rod = np.hypot(z[:, None], y) < neck_mm / 2
    mask[rod[..., None] & (x > 80) & (x < 200)] = 1
    is_heart = measure_mm(heart) < heart_mm
    mask[is_heart | (measure_mm(liver) < 60)] = 1
    return mask, is_heart


@pytest.mark.parametrize(("neck_mm", "is_cut"), [(3.0, True), (12.0, True), (22.0, False)])
def test_a_heart_goes_where_its_neck_is_thinner(neck_mm, is_cut):
    mask, is_heart = make_mask(neck_mm)
    before = mask.copy()
    found = cut_necks(mask, 16.0, SPACING)
    assert np.array_equal(mask, before)
    assert not found[is_heart].any() if is_cut else np.array_equal(found, mask)
    liver = mask.copy()
    liver[:, :, 180:] = 0  # 144 mm: past the liver, in the neck
    lost = (liver > 0) & (found == 0)
    assert lost.sum() < 0.001 * liver.sum()


def test_thickness_is_in_mm_and_off_is_off():
    mask, is_heart = make_mask(12.0)
    assert np.array_equal(cut_necks(mask, 8.0, SPACING), mask)
    half = tuple(s / 2 for s in SPACING)  # the neck is now 6 mm, the heart still above 10 ml
    big, is_heart = make_mask(12.0, heart_mm=40.0)
    assert not cut_necks(big, 8.0, half)[is_heart].any()
    assert np.array_equal(cut_necks(big, 4.0, half), big)


def test_little_pieces_and_bulging_tumours_stay():
    mask, _ = make_mask(6.0, heart_mm=12.0)  # 7 ml
    assert np.array_equal(cut_necks(mask, 16.0, SPACING), mask)
    mask, is_heart = make_mask(6.0)
    mask[is_heart] = 2
    assert np.array_equal(cut_necks(mask, 16.0, SPACING), mask)
    mask[is_heart & (measure_mm((80.0, 80.0, 200.0)) > 12)] = 1  # a tumour in what is cut off
    found = cut_necks(mask, 16.0, SPACING)
    assert (found[is_heart] != 1).all() and np.array_equal(found == 2, mask == 2)


def test_a_tumour_that_is_larger_than_the_liver_is_not_taken_for_it():
    mask, is_tumour = make_mask(0.0, heart_mm=70.0)
    mask[is_tumour & (mask == 1)] = 2
    mask[measure_mm((80.0, 80.0, 60.0)) < 50] = 1
    for thread in (0, 1):
        mask[27, 100, 120:180] |= thread
        assert (mask == 2).sum() > (mask == 1).sum() > 10_000
        assert np.array_equal(cut_necks(mask, 16.0, SPACING), mask)


def test_masks_without_liver_stay():
    for mask in (np.zeros((3, 4, 5), np.uint8), np.full((3, 4, 5), 2, np.uint8)):
        assert np.array_equal(cut_necks(mask, 16.0, SPACING), mask)


@pytest.mark.real
@pytest.mark.parametrize("number", [0, 2, 7])
def test_true_livers_stay_whole(real_data, number):
    scan, truth = (real_data / "lits" / f"{name}-{number}.nii.gz" for name in NAMES)
    affine = find_affine(read_nifti_header(scan), scan.name)  # masks have others
    mask = read_nifti(truth, "mask", affine=affine)
    found = cut_necks(mask.array, 16.0, mask.spacing_mm)
    assert (mask.array > 0).any() and min(mask.spacing_mm) > 0.5
    assert (found != mask.array).sum() <= 0.0005 * (mask.array > 0).sum()
