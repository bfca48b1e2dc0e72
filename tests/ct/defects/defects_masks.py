"""Defects of masks: values, and the place of a mask beside its image's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.ct.defects import nifti_files as nifti
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.defects_nifti import start as start_image
from tests.ct.defects.scans import Scan, make_mask, make_rotation


def _start(rng: np.random.Generator, dtype: str = "uint8") -> tuple[Scan, nifti.Nifti]:
    image, _ = start_image(rng)
    mask = make_mask(rng, image)
    return mask, nifti.make_nifti(mask, dtype)


def _finish(rng, folder: Path, file: nifti.Nifti, truth: Scan | None) -> Case:
    name = str(rng.choice(["mask.nii.gz", "segmentation-3.nii"]))
    return Case(file.write(folder / name), truth, {"kind": "mask"})


def make_bytes(rng, folder):
    mask, file = _start(rng)
    return _finish(rng, folder, file, mask)


def make_float(rng, folder):
    mask, file = _start(rng, ("float32", "float64")[int(rng.integers(2))])
    return _finish(rng, folder, file, mask)


def make_wide(rng, folder):
    mask, file = _start(rng, ("int16", "uint16", "int32", "uint32")[int(rng.integers(4))])
    return _finish(rng, folder, file, mask)


def _with_value(rng, folder: Path, dtype: str, value: float) -> Case:
    _, file = _start(rng, dtype)
    file.data[tuple(int(rng.integers(size)) for size in file.data.shape)] = value
    return _finish(rng, folder, file, None)


def make_half(rng, folder):
    """A mask that was resampled with linear interpolation."""
    return _with_value(rng, folder, "float32", [0.5, 1.5, 0.25, 1.001][int(rng.integers(4))])


def make_negative(rng, folder):
    return _with_value(rng, folder, ("int16", "float32")[int(rng.integers(2))], -1)


def make_nan(rng, folder):
    return _with_value(rng, folder, "float32", [np.nan, np.inf][int(rng.integers(2))])


def make_too_large(rng, folder):
    """256 becomes 0 in a byte."""
    return _with_value(rng, folder, "int16", [256, 257, 300, 1000][int(rng.integers(4))])


def make_255(rng, folder):
    """White for one: a legal byte."""
    mask, _ = _start(rng)
    mask = replace(mask, array=np.where(mask.array > 0, 255, 0).astype(np.uint8))
    return _finish(rng, folder, nifti.make_nifti(mask, "uint8"), mask)


def make_scaled(rng, folder):
    """Labels times a slope that is not whole."""
    _, file = _start(rng)
    file.header["scl_slope"] = rng.choice([0.5, 0.1, 1.5])
    return _finish(rng, folder, file, None)


def make_singletons(rng, folder):
    mask, file = _start(rng)
    file.header["dim"][0] = 4
    return _finish(rng, folder, file, mask)


def make_rgb(rng, folder):
    _, file = _start(rng)
    file.header["datatype"], file.header["bitpix"] = nifti.RGB, 24
    file.data = np.stack([file.data] * 3)
    return _finish(rng, folder, file, None)


def _pair(rng, folder: Path, change) -> Case:
    image, file = start_image(rng)
    file.write(folder / "image.nii.gz")
    mask_file = nifti.make_nifti(change(make_mask(rng, image)), "uint8")
    mask_path = mask_file.write(folder / "mask.nii.gz")
    return Case(folder / "image.nii.gz", None, mask=mask_path)


def make_other_shape(rng, folder):
    def crop(mask: Scan) -> Scan:
        axis = int(rng.integers(3))
        index = tuple(slice(0, -1) if i == axis else slice(None) for i in range(3))
        return replace(mask, array=mask.array[index])

    return _pair(rng, folder, crop)


def make_other_place(rng, folder):
    """Moved by .1 to 50 mm, turned, or the image's mirror."""

    def move(mask: Scan) -> Scan:
        affine = mask.affine.copy()
        kind = int(rng.integers(3))
        if kind == 0:
            affine[int(rng.integers(3)), 3] += rng.uniform(0.1, 50) * rng.choice([-1, 1])
        elif kind == 1:
            affine[:3] = make_rotation(rng, float(rng.uniform(2, 90))) @ affine[:3]
        else:
            affine[int(rng.integers(2))] *= -1
        return replace(mask, affine=affine)

    return _pair(rng, folder, move)


def make_identity(rng, folder):
    """A mask saved from an array, beside an image with a place."""
    identity = np.diag([-1.0, -1, 1, 1])[:, [2, 1, 0, 3]]
    return _pair(rng, folder, lambda mask: replace(mask, affine=identity))


MASKS: dict[str, Defect] = {
    "mask of bytes": accept(make_bytes, RIGHT),
    "mask of floats": accept(make_float, RIGHT, logged="mask-to-uint8"),
    "mask of 16 or 32 bits": accept(make_wide, RIGHT, logged="mask-to-uint8"),
    "mask with .5": accept(make_half, "bad-label"),
    "mask with -1": accept(make_negative, "bad-label"),
    "mask with NaN": accept(make_nan, "not-finite", "bad-label"),
    "mask above 255": accept(make_too_large, "bad-label"),
    "mask of 255": accept(make_255, RIGHT, "bad-label"),
    "mask with a slope": accept(make_scaled, "bad-label", "bad-rescale"),
    "mask in 4-D": accept(make_singletons, RIGHT, logged="squeezed"),
    "mask of colours": accept(make_rgb, "bad-label", "not-16-bit", "unknown-format", "damaged"),
    "mask of another shape": accept(make_other_shape, "shape-mismatch"),
    "mask of another place": accept(make_other_place, "affine-mismatch", "shape-mismatch"),
    "mask of identity affine": accept(
        make_identity, "identity-affine", "affine-mismatch", "shape-mismatch"
    ),
}
