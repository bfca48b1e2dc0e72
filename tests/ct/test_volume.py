import logging

import numpy as np
import pytest

from lesionkeras.ct.findings import CtError, make_correction
from lesionkeras.ct.volume import (
    Source,
    Volume,
    check_affine,
    check_same_place,
    like,
    to_canonical,
    to_source,
)

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
# 36.87 degrees about the patient's x axis (3-4-5), .5 mm along x, 2 and 3 mm along the others.
OBLIQUE = np.array([[0.5, 0, 0, -7], [0, 1.6, -1.8, 8], [0, 1.2, 2.4, 9], [0, 0, 0, 1]])


def say(function, *arguments) -> tuple[str, str]:
    with pytest.raises(CtError) as error:
        function(*arguments)
    return error.value.name, str(error.value)


def test_oblique_to_canonical():
    volume = to_canonical(ARRAY, OBLIQUE, "nifti")
    # Stored axes point to L, P and S, so that canonical is the transpose; nothing is flipped.
    assert volume.source == Source("nifti", "LPS", ())
    np.testing.assert_array_equal(volume.array, ARRAY.T)
    assert volume.array.flags.c_contiguous and volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.affine, OBLIQUE[:, [2, 1, 0, 3]])
    np.testing.assert_allclose(volume.spacing_mm, (3, 2, 0.5))


def test_flipped_to_canonical():
    stored = np.diag([-2.0, -3.0, 5.0, 1.0])
    volume = to_canonical(ARRAY, stored, "array")
    assert volume.source.code == "RAS"
    np.testing.assert_array_equal(volume.array, ARRAY[::-1, ::-1].T)
    # The last voxel along x of 2 is 2 mm to the right of the first, along y of 3 is 6 mm ventral.
    np.testing.assert_allclose(volume.affine[:3, 3], [-2, -6, 0])
    assert volume.spacing_mm == (5, 3, 2)


def test_to_source_goes_back():
    volume = to_canonical(ARRAY, OBLIQUE, "dicom")
    array, affine = to_source(volume)
    np.testing.assert_array_equal(array, ARRAY)
    np.testing.assert_array_equal(affine, OBLIQUE)
    assert array.flags.c_contiguous


def test_corrections_are_kept_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="lesionkeras.ct"):
        correction = make_correction("squeezed", "sizes (2, 3, 4, 1) became (2, 3, 4)")
    assert caplog.messages == ["squeezed: sizes (2, 3, 4, 1) became (2, 3, 4)"]
    assert to_canonical(ARRAY, OBLIQUE, "nifti", (correction,)).corrections == (correction,)


def test_names_are_known():
    with pytest.raises(AssertionError):
        make_correction("mended", "")
    with pytest.raises(AssertionError):
        CtError("broken", "A file is broken")


def test_singular_affines():
    no_axis, in_plane = OBLIQUE.copy(), OBLIQUE.copy()
    no_axis[:3, 1] = 0
    in_plane[:3, 2] = in_plane[:3, 1]
    assert say(check_affine, no_axis, "a.nii") == (
        "singular-affine",
        "An affine cannot be inverted in a.nii: found axes of 0.5, 0, 3 mm; "
        "convert the scan again from its source.",
    )
    assert say(check_affine, in_plane, "a.nii")[0] == "singular-affine"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_affine_not_finite(value):
    affine = OBLIQUE.copy()
    affine[1, 3] = value
    assert say(check_affine, affine, "a.nii") == (
        "not-finite-affine",
        "An affine holds NaN or infinity in a.nii; convert the scan again from its source.",
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-300, 1e200, 1e308])
def test_affine_beyond_numbers(size):
    affine = OBLIQUE.copy()
    affine[:3, 0] *= size
    assert say(check_affine, affine, "a.nii")[0] == "singular-affine"


def test_sheared_affine():
    sheared = np.diag([1.0, 2.0, 3.0, 1.0])
    sheared[0, 1] = 2 * np.tan(np.deg2rad(1))  # the second axis leans by one degree
    assert say(check_affine, sheared, "a.nii") == (
        "sheared-affine",
        "The axes of an affine are not at right angles in a.nii: "
        "found a cosine of 0.0175, wanted at most 0.001; convert the scan again from its source.",
    )
    sheared[0, 1] = 2 * np.tan(np.deg2rad(0.05))
    check_affine(sheared, "a.nii")


def test_to_canonical_checks():
    assert say(to_canonical, ARRAY, np.zeros((4, 4)), "array")[0] == "singular-affine"


def test_like_keeps_the_place():
    volume = to_canonical(ARRAY, OBLIQUE, "nifti")
    mask = like(volume, (volume.array > 9).astype(np.uint8))
    assert mask.affine is volume.affine and mask.source is volume.source
    assert to_source(mask)[0].tolist() == (ARRAY > 9).tolist()
    assert say(like, volume, np.zeros((4, 3, 3))) == (
        "shape-mismatch",
        "An array does not fit its volume: found shape (4, 3, 3), wanted (4, 3, 2).",
    )


def test_same_place():
    image = Volume(ARRAY, OBLIQUE)
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.009
    check_same_place(image, Volume(ARRAY, moved), "m.nii")
    moved[0, 3] += 0.002
    assert say(check_same_place, image, Volume(ARRAY, moved), "m.nii") == (
        "affine-mismatch",
        "A mask does not lie where its image lies in m.nii: found corners up to 0.01 mm apart, "
        "wanted at most 0.01 mm; give the mask its image's affine if the arrays agree.",
    )
    # .004 mm a voxel adds up to .012 mm over three voxels: no column differs by more than .004.
    stretched = OBLIQUE.copy()
    stretched[2, 2] += 0.004
    assert say(check_same_place, image, Volume(ARRAY, stretched), "m.nii")[0] == "affine-mismatch"
    assert say(check_same_place, image, Volume(ARRAY[:, :, :3], OBLIQUE), "m.nii") == (
        "shape-mismatch",
        "A mask does not have its image's shape in m.nii: found (2, 3, 3) (z, y, x), "
        "wanted (2, 3, 4); draw the mask on this image, or resample it there.",
    )
