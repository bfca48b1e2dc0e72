"""Defects of NIfTI images: header, affine, values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.ct.defects import nifti_files as nifti
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.scans import HANDS, Scan, make_rotation, make_scan


def start(rng: np.random.Generator, dtype: str = "int16", **options) -> tuple[Scan, nifti.Nifti]:
    """Return a scan, oblique in one case of four and of any handedness, and its file."""
    hand = HANDS[int(rng.integers(len(HANDS)))]
    scan = make_scan(rng, hand, degrees=rng.choice([0, 0, 0, 12]))
    return scan, nifti.make_nifti(scan, dtype, **options)


def finish(rng, folder: Path, file: nifti.Nifti, truth, **options) -> Case:
    """Write a file, compressed or not, and return what is to be read."""
    name = str(rng.choice(["scan.nii.gz", "volume-12.nii", "CT_0000.nii.gz"]))
    return Case(file.write(folder / name), truth, options)


def make_identity(rng, folder):
    """As LiTS 28 to 47: no place, and 1 mm that is false."""
    scan, file = start(rng)
    identity = np.eye(4) if rng.random() < 0.5 else np.diag([-1.0, -1, 1, 1])
    nifti.set_forms(file.header, identity, *[(1, 1), (0, 1), (1, 0)][int(rng.integers(3))])
    return finish(rng, folder, file, scan)


def make_singular(rng, folder):
    scan, file = start(rng, qform=0)
    axis = int(rng.integers(3))
    if rng.random() < 0.5:
        file.header["srow"][:, axis] = 0
    else:
        file.header["srow"][:, axis] = file.header["srow"][:, axis - 1]
    return finish(rng, folder, file, scan)


def make_nan_affine(rng, folder):
    scan, file = start(rng, qform=0)
    value = [np.nan, np.inf, -np.inf][int(rng.integers(3))]
    file.header["srow"][int(rng.integers(3)), int(rng.integers(4))] = value
    return finish(rng, folder, file, scan)


def make_nan_qform(rng, folder):
    scan, file = start(rng, sform=0)
    field = ("quatern", "qoffset")[int(rng.integers(2))]
    file.header[field][int(rng.integers(3))] = np.nan
    return finish(rng, folder, file, scan)


def make_quaternion_too_long(rng, folder):
    """b, c, d longer than 1: a would be the root of a negative number."""
    scan, file = start(rng, sform=0)
    file.header["quatern"] = (0.9, 0.9, 0.1)
    return finish(rng, folder, file, scan)


def make_forms_disagree(rng, folder):
    _scan, file = start(rng)
    rows = file.header["srow"]
    kind = int(rng.integers(3))
    if kind == 0:
        rows[:, 3] += rng.choice([-1, 1], 3) * rng.uniform(1, 50)
    elif kind == 1:
        rows[0] *= -1
    else:
        rows[:, :3] = make_rotation(rng, float(rng.uniform(5, 90))) @ rows[:, :3]
    return finish(rng, folder, file, None)


def make_sheared(rng, folder):
    """A tilted gantry, converted."""
    _scan, file = start(rng, qform=0)
    rows = file.header["srow"]
    rows[:, 2] += rows[:, 1] * rng.uniform(0.3, 2)
    return finish(rng, folder, file, None)


def make_any_orientation(rng, folder):
    return finish(rng, folder, *start(rng)[::-1])


def _add_axes(file: nifti.Nifti, sizes: tuple[int, ...]) -> None:
    file.header["dim"][0] = 3 + len(sizes)
    file.header["dim"][4 : 4 + len(sizes)] = sizes
    file.data = np.stack([file.data] * int(np.prod(sizes)), -1)


def make_singletons(rng, folder):
    """4-D to 7-D, the further axes of length one."""
    scan, file = start(rng)
    _add_axes(file, (1,) * int(rng.integers(1, 5)))
    return finish(rng, folder, file, scan)


def make_four_dimensional(rng, folder):
    _scan, file = start(rng)
    _add_axes(file, [(3,), (2,), (1, 3), (2, 2)][int(rng.integers(4))])
    return finish(rng, folder, file, None)


def make_two_dimensional(rng, folder):
    scan, file = start(rng)
    file.header["dim"][0] = 2
    file.data = file.data[:, :, 0]
    if rng.random() < 0.5:
        file.header["dim"][3] = 0
    else:
        file.header["dim"][3] = 1
    return finish(rng, folder, file, scan.keep(0, 1))


def make_scaled(rng, folder):
    """Slope and intercept, whole or not."""
    scan, file = start(rng, "float64")
    slope = float(rng.choice([1, 2**-1, 2**-3, 0.1, 0.37]))
    intercept = float(rng.choice([-1024, -1024.5, 0, -8192]))
    file.data = np.round((file.data - intercept) / slope).astype("int32")
    file.header["datatype"], file.header["bitpix"] = nifti.DATATYPES["int32"], 32
    file.header["scl_slope"], file.header["scl_inter"] = slope, intercept
    return finish(rng, folder, file, scan)


def make_slope_zero(rng, folder):
    """By the standard: not scaled, and the intercept does not count."""
    scan, file = start(rng)
    file.header["scl_slope"], file.header["scl_inter"] = 0, rng.choice([0, -1024])
    return finish(rng, folder, file, scan)


def make_slope_not_finite(rng, folder):
    scan, file = start(rng)
    field = ("scl_slope", "scl_inter")[int(rng.integers(2))]
    file.header[field] = [np.nan, np.inf][int(rng.integers(2))]
    return finish(rng, folder, file, scan)


def make_float(rng, folder):
    """Resampled elsewhere: floats that are not whole."""
    dtype = ("float32", "float64")[int(rng.integers(2))]
    scan, file = start(rng, dtype)
    file.data += rng.uniform(-0.4, 0.4, file.data.shape).astype(dtype)
    return finish(rng, folder, file, scan)


def make_unsigned(rng, folder):
    """Unsigned with the offset in the intercept."""
    scan, file = start(rng, "int32")
    file.data = (file.data + 1024).astype("uint16")
    file.header["datatype"], file.header["bitpix"] = nifti.DATATYPES["uint16"], 16
    file.header["scl_inter"] = -1024
    return finish(rng, folder, file, scan)


def make_not_finite(rng, folder):
    scan, file = start(rng, ("float32", "float64")[int(rng.integers(2))])
    at = tuple(int(rng.integers(size)) for size in file.data.shape)
    file.data[at] = [np.nan, np.inf, -np.inf][int(rng.integers(3))]
    return finish(rng, folder, file, scan)


def make_rgb(rng, folder):
    _scan, file = start(rng)
    file.header["datatype"], file.header["bitpix"] = nifti.RGB, 24
    file.data = rng.integers(0, 256, (3, *file.data.shape), np.uint8)
    return finish(rng, folder, file, None)


def make_complex(rng, folder):
    _scan, file = start(rng, "complex64")
    return finish(rng, folder, file, None)


def make_eight_bit(rng, folder):
    """A window was applied and the result saved as bytes."""
    scan, file = start(rng)
    file.data = np.clip((file.data + 160) / 400 * 255, 0, 255).astype("uint8")
    file.header["datatype"], file.header["bitpix"] = nifti.DATATYPES["uint8"], 8
    return finish(rng, folder, file, scan)


def make_normalised(rng, folder):
    """Values of 0 to 1, of 0 to 255, or standardised."""
    scan, file = start(rng, "float32")
    unit = np.clip((file.data + 160) / 400, 0, 1)
    kind = int(rng.integers(3))
    if kind == 2:
        file.data = ((file.data - file.data.mean()) / file.data.std()).astype("float32")
    else:
        file.data = (unit * (1, 255)[kind]).astype("float32")
    return finish(rng, folder, file, scan)


def make_no_offset(rng, folder):
    """HU + 1024 without an intercept."""
    scan, file = start(rng)
    file.data = file.data + np.int16(1024)
    return finish(rng, folder, file, scan)


def make_out_of_range(rng, folder):
    scan, file = start(rng, "int32")
    file.data = file.data * 100 + int(rng.integers(0, 10**6))
    return finish(rng, folder, file, scan)


def make_padding(rng, folder):
    """-2000, -2048 or -3024 HU outside the field of view."""
    scan, file = start(rng)
    truth = scan.array.copy()
    outside = np.zeros(truth.shape, bool)
    outside[:, :3], outside[:, :, -2:] = True, True
    truth[outside] = -1024
    stored = np.where(outside, int(rng.choice([-2000, -2048, -3024])), truth).astype("int16")
    file.data = np.transpose(stored, (2, 1, 0))
    return finish(rng, folder, file, Scan(truth, scan.affine))


def make_negative_pixdim(rng, folder):
    scan, file = start(rng, qform=int(rng.integers(2)))
    file.header["pixdim"][1 + int(rng.integers(3))] *= -1
    return finish(rng, folder, file, scan)


def make_zero_pixdim(rng, folder):
    _scan, file = start(rng, sform=0)
    file.header["pixdim"][1 + int(rng.integers(3))] = 0
    return finish(rng, folder, file, None)


def make_no_form(rng, folder):
    """Both codes 0: by the standard's method 1, only spacing is known."""
    scan, file = start(rng)
    file.header["qform_code"] = file.header["sform_code"] = 0
    return finish(rng, folder, file, scan)


def make_version_2(rng, folder):
    scan, file = start(rng, version=2)
    return finish(rng, folder, file, scan)


def make_big_endian(rng, folder):
    scan, file = start(rng, version=int(rng.integers(1, 3)))
    file.order = ">"
    return finish(rng, folder, file, scan)


def make_metres(rng, folder):
    """Spacing and forms in metres or micrometres, and units that say so."""
    scan, file = start(rng)
    unit, factor = [(1, 1e-3), (3, 1e3)][int(rng.integers(2))]
    file.header["xyzt_units"] = unit
    file.header["pixdim"][1:4] *= factor
    file.header["srow"] *= factor
    file.header["qoffset"] *= factor
    return finish(rng, folder, file, scan)


NIFTI: dict[str, Defect] = {
    "identity affine": accept(make_identity, "identity-affine"),
    "singular affine": accept(make_singular, "singular-affine", "sheared-affine"),
    "NaN in the sform": accept(make_nan_affine, "not-finite-affine"),
    "NaN in the qform": accept(make_nan_qform, "not-finite-affine"),
    "no quaternion": accept(make_quaternion_too_long, "damaged", "singular-affine", "no-geometry"),
    "sform and qform disagree": accept(make_forms_disagree, "affine-mismatch"),
    "sheared affine": accept(make_sheared, "sheared-affine"),
    "any of 48 orientations": accept(make_any_orientation, RIGHT),
    "axes of length one": accept(make_singletons, RIGHT, logged="squeezed"),
    "4-D": accept(make_four_dimensional, "four-dimensional"),
    "2-D": accept(make_two_dimensional, RIGHT, "too-few-slices", "damaged"),
    "slope and intercept": accept(make_scaled, RIGHT),
    "slope 0 (not scaled)": accept(make_slope_zero, RIGHT),
    "slope NaN or infinite": accept(make_slope_not_finite, RIGHT, "bad-rescale"),
    "floats": accept(make_float, RIGHT, logged="rounded-to-hu"),
    "unsigned": accept(make_unsigned, RIGHT),
    "NaN or infinity": accept(make_not_finite, "not-finite"),
    "RGB NIfTI": accept(make_rgb, "not-16-bit"),
    "complex": accept(make_complex, "not-16-bit", "not-hu", "unknown-format", "damaged"),
    "8-bit NIfTI": accept(make_eight_bit, "not-16-bit", "not-hu"),
    "normalised": accept(make_normalised, "not-hu"),
    "HU + 1024": accept(make_no_offset, "not-hu"),
    "out of range": accept(make_out_of_range, "not-hu"),
    "padding in NIfTI": accept(make_padding, RIGHT, logged="padding-to-air"),
    "negative pixdim": accept(make_negative_pixdim, RIGHT, "damaged", "affine-mismatch"),
    "zero pixdim": accept(make_zero_pixdim, "singular-affine", "damaged", "no-geometry"),
    "neither form": accept(make_no_form, "no-geometry"),
    "NIfTI-2": accept(make_version_2, RIGHT),
    "big-endian NIfTI": accept(make_big_endian, RIGHT),
    "metres or micrometres": accept(make_metres, RIGHT, "no-geometry", "damaged"),
}
