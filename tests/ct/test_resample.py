"""Resampling against volumes that are known everywhere: a ramp and a ball."""

import numpy as np
import pytest

from lesionkeras.ct import resample
from lesionkeras.ct.dicom import read_dicom
from lesionkeras.ct.findings import CtError
from lesionkeras.ct.resample import move_slice, resample_stack
from tests.ct.made_dicom import make_slices, write_slices

SPACING = np.array([0.8, 0.6])
ZS = np.array([0, 2.0, 4.1, 6.0, 10.0, 12.0, 13.5, 16, 18, 20, 22, 24])
TILT = np.tan(np.radians(12))


def find_places(shape, zs, ys):
    """Return LPS mm [N, H, W, 3] of slices at heights zs, moved down by ys."""
    k, row, column = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return np.stack([column * SPACING[1], row * SPACING[0] + ys[k], zs[k]], -1)


def read(tmp_path, hu, zs, ys, **options):
    slices = make_slices((hu + 1024).astype(np.uint16), origin=(0, 0, 0), spacing=SPACING)
    for ds, z, y in zip(slices, zs, ys, strict=True):
        ds.ImagePositionPatient = ["0", f"{y:.6f}", f"{z:.6f}"]
    return read_dicom(write_slices(slices, tmp_path), resample=True, **options)


@pytest.mark.parametrize("tilt", [0.0, TILT])
def test_a_ramp_stays_a_ramp(tmp_path, tilt):
    ys = ZS * tilt
    places = find_places((12, 20, 24), ZS, ys)
    ramp = np.array([7.0, -5.0, 11.0])
    volume = read(tmp_path, np.rint(places @ ramp), ZS, ys)
    assert [one.name for one in volume.corrections] == ["resampled"]
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1)
    mm = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    height = np.clip(mm[..., 2], 0, 24)
    top = height * tilt  # where the box of the scan begins, at this height
    inside = (mm[..., 1] >= top - 1e-6) & (mm[..., 1] <= top + 19 * SPACING[0] + 1e-6)
    # A voxel between two slices needs both: leave the strip out that only one of them reaches.
    inside &= (mm[..., 1] >= top + 4 * tilt) & (mm[..., 1] <= top + 19 * SPACING[0] - 4 * tilt)
    assert inside.mean() > 0.5
    assert abs(volume.array - mm @ ramp)[inside].max() <= 1.5
    assert (volume.array[~inside & (mm[..., 1] < top - 4 * tilt - 0.8)] == -1024).all()
    np.testing.assert_allclose(volume.spacing_mm, (2.0, 0.8, 0.6), atol=1e-9)


def test_a_ball_keeps_its_centre_and_size(tmp_path):
    zs = np.delete(np.arange(20) * 1.5, [6, 13])
    ys = zs * TILT
    centre, radius = np.array([9.0, 13.0, 14.25]), 6.0  # midway between the gaps
    apart = np.linalg.norm(find_places((18, 36, 30), zs, ys) - centre, axis=-1)
    share = np.clip((radius - apart) / 0.8 + 0.5, 0, 1)
    volume = read(tmp_path, np.rint(share * 1000 - 500), zs, ys)
    weights = np.clip((volume.array.astype(float) + 500) / 1000, 0, 1)
    index = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), -1)
    mean = (index * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    np.testing.assert_allclose(volume.affine @ [*mean, 1], [*centre, 1], atol=0.05)
    # Between sections of 69 and 0 mm2 the mean is 35, the ball's own 26: twice, 3 % in all.
    mm3 = weights.sum() * np.prod(volume.spacing_mm)
    assert mm3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    assert volume.array.shape[0] == 20


def test_masks_stay_masks(tmp_path):
    stored = np.zeros((4, 4, 6), np.uint8)
    stored[1:3, 1, 2] = 255
    slices = make_slices(stored)
    del slices[0]
    for ds, z in zip(slices, (0, 2, 6), strict=True):
        ds.ImagePositionPatient = ["0", "0", str(z)]
    volume = read_dicom(write_slices(slices, tmp_path), kind="mask", resample=True)
    # Distances 2 and 4: steps of 3 take 0, 3 and 6; 3 lies a quarter of the way from 1 to 0.
    assert volume.array.dtype == np.uint8 and volume.array[:, 1, 2].tolist() == [1, 1, 0]
    assert volume.array.sum() == 2


def test_move_by_hand():
    image = np.array([[0, 10], [20, 30]], np.int16)
    moved = move_slice(image, (1.0, 0.25), (3, 3), -8)
    # A quarter of a pixel to the right: 3/4 of the pixel and 1/4 of its left neighbour.
    wanted = [[-8, -8, -8], [-2, 7.5, 5.5 - 4.0 + 0.0], [13, 27.5, 1.5]]
    wanted[1][2] = 0.75 * -8 + 0.25 * 10
    assert moved.tolist() == [[-8, -8, -8], [-2.0, 7.5, wanted[1][2]], [13.0, 27.5, 1.5]]


def test_even_slices_are_not_touched():
    array = np.arange(24, dtype=np.int16).reshape(4, 2, 3)
    same = resample_stack(array, np.arange(4) * 3.0, np.zeros((4, 2)), -1024)
    np.testing.assert_array_equal(same.array, array)
    assert (same.step_mm, same.shift_px) == (3.0, (0.0, 0.0))


def test_negative_shifts_move_the_grid():
    array = np.full((2, 1, 1), 5, np.int16)
    moved = resample_stack(array, np.array([0.0, 1.0]), np.array([[0, 0], [-2.0, 0]]), 0)
    assert moved.shift_px == (-2.0, 0.0)
    assert moved.array[..., 0].tolist() == [[0, 0, 5], [5, 0, 0]]


def test_too_large(monkeypatch):
    monkeypatch.setattr(resample, "MAX_VOXELS", 7)
    with pytest.raises(CtError) as error:
        resample_stack(np.zeros((2, 2, 2), np.int16), np.array([0, 1.0]), np.zeros((2, 2)), 0)
    assert error.value.name == "too-large"
