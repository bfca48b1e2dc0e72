"""A LiTS pair of files to a scan whose mask lies on its liver, with every known fault put right.

What is put right, each by a named and logged correction: a false affine of a volume that is a
3D-IRCADb-01 case (published voxel size), a mask's affine that is not its image's (the image's), an
image or mask flipped along an axis (by anatomy), one-sided axes and types (by the NIfTI reader).
Everything else is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lesionkeras.ct.findings import Correction, CtError, make_correction
from lesionkeras.ct.nifti import read_nifti, read_nifti_header
from lesionkeras.ct.nifti_header import find_affine
from lesionkeras.ct.orientation import NEGATIVE, POSITIVE, reorient
from lesionkeras.ct.volume import Volume, check_same_place
from tfds_builders.anatomy import (
    AXIS_NAMES,
    LIVER_MEDIAN_HU,
    MOST_SPREAD_HU,
    find_flips,
    find_mask_flips,
    is_liver,
    list_unclear,
    measure_sides,
    shows_enough,
    take_samples,
)
from tfds_builders.lits.ircadb import PUBLISHED, find_case, find_spacing_mm
from tfds_builders.lits.layout import Case
from tfds_builders.segmentation import LESION, Scan

# What a header may have wrong about where its voxels lie.
GEOMETRY = (
    "no-geometry",
    "identity-affine",
    "affine-mismatch",
    "not-finite-affine",
    "singular-affine",
    "sheared-affine",
)


def read_case(case: Case, patient: str) -> Scan:
    """Read a pair, put right what is known to be wrong, and check the rest.

    Args:
        case: The two files.
        patient: Whose scan it is.

    Returns:
        Image and mask in one place.

    Raises:
        CtError: What `read_nifti` raises; shape-mismatch; bad-label: a label other than 0, 1 and 2,
            or no liver; affine-mismatch: the mask does not lie on a liver however it is flipped;
            identity-affine: the file is no published 3D-IRCADb-01 case, or its anatomy does not
            show how its axes lie.
    """
    image, is_known = _read_image(case)
    mask, corrections = _read_mask(case, image)
    image, mask, flips = _align(case, image, mask, is_known)
    all_of_them = (*image.corrections, *mask.corrections, *corrections, *flips)
    return Scan(case.name, patient, image, mask, tuple(str(c) for c in all_of_them))


def _read_image(case: Case) -> tuple[Volume, bool]:
    """Return the image, and whether its affine is a published voxel size without directions."""
    header = read_nifti_header(case.image)
    if find_case(case.number) is None:
        return read_nifti(case.image), False
    spacing_mm = find_spacing_mm(case.number, header.shape[2])
    try:
        stored = find_affine(header, str(case.image))
        lengths = np.linalg.norm(stored[:3, :3], axis=0)
        if not np.allclose(lengths, 1.0, atol=1e-6):
            return read_nifti(case.image), False
    except CtError as error:
        if error.name not in GEOMETRY or spacing_mm is None:
            raise
    if spacing_mm is None:
        raise _refuse_part(case, header.shape[2])
    z_mm, y_mm, x_mm = spacing_mm
    detail = (
        f"1 x 1 x 1 mm became {z_mm} x {y_mm} x {x_mm} mm (z, y, x), as published for 3D-IRCADb-01 "
        f"case {find_case(case.number)}"
    )
    correction = make_correction("known-affine", detail)
    # RAS, as the identity says; the anatomy decides.
    image = read_nifti(case.image, affine=np.diag([-x_mm, -y_mm, z_mm, 1.0]))
    return _add_correction(image, correction), True


def _refuse_part(case: Case, num_slices: int) -> CtError:
    number = find_case(case.number)
    assert number is not None
    return CtError(
        "identity-affine",
        "An affine of 1 mm along each axis is false: the volume is a 3D-IRCADb-01 case",
        where=str(case.image),
        found=f"{num_slices} slices",
        wanted=f"{PUBLISHED[number][2]}, of which the millimetres are published",
        next_step="use the original volume, or set its true affine",
    )


def _add_correction(volume: Volume, correction: Correction) -> Volume:
    corrections = (*volume.corrections, correction)
    return replace(volume, source=replace(volume.source, corrections=corrections))


def _read_mask(case: Case, image: Volume) -> tuple[Volume, list[Correction]]:
    """Return the mask in its image's place."""
    corrections = []
    try:
        mask = read_nifti(case.mask, "mask")
        check_same_place(image, mask, str(case.mask))
    except CtError as error:
        if error.name not in (*GEOMETRY, "shape-mismatch"):
            raise
        stored_affine = reorient(image.array, image.affine, image.source.code)[1]
        mask = read_nifti(case.mask, "mask", affine=stored_affine)
        if mask.array.shape != image.array.shape:
            check_same_place(image, mask, str(case.mask))
        detail = f"{error.name}: the mask has its image's shape and lies on the liver"
        corrections.append(make_correction("mask-affine-from-image", detail))
    _check_labels(mask.array, str(case.mask))
    return replace(mask, affine=image.affine), corrections


def _check_labels(mask: np.ndarray, where: str) -> None:
    if mask.any() and mask.max() <= LESION:
        return
    # Slice by slice: bincount makes int64 of what it counts.
    planes = [np.bincount(plane.reshape(-1), minlength=256) for plane in mask]
    counts = enumerate(np.sum(planes, axis=0))
    others = [f"{count} voxels of {i}" for i, count in counts if i > LESION and count]
    raise CtError(
        "bad-label",
        "A mask holds other labels than LiTS'" if others else "A mask holds no liver",
        where=where,
        found=", ".join(others[:5]) or "0 alone",
        wanted="0 background, 1 liver, 2 tumour",
        next_step="copy the file from its source again, or map its labels to these",
    )


def _align(
    case: Case, image: Volume, mask: Volume, is_known: bool
) -> tuple[Volume, Volume, list[Correction]]:
    """Flip image and mask to agree with each other and with the patient."""
    image_hu, labels = take_samples(image.array), take_samples(mask.array)
    if not labels.any():  # a liver of a few voxels, between the samples
        image_hu, labels = image.array, mask.array
    is_enough = shows_enough(mask.array, image.spacing_mm[0])
    mask_axes, fit = find_mask_flips(image_hu, labels, is_enough)
    if not is_liver(fit):
        raise CtError(
            "affine-mismatch",
            "A mask does not lie on a liver, however it is flipped",
            where=str(case.mask),
            found=f"a median of {fit.median_hu:.0f} HU and a spread of {fit.spread_hu:.0f}",
            wanted=f"{LIVER_MEDIAN_HU[0]:.0f} to {LIVER_MEDIAN_HU[1]:.0f} HU and a spread of at "
            f"most {MOST_SPREAD_HU:.0f}",
            next_step="copy volume and segmentation from their source again",
        )
    sides = measure_sides(image_hu, np.flip(labels, mask_axes))
    if is_known and list_unclear(sides):
        raise CtError(
            "identity-affine",
            "An affine is the identity and the anatomy does not show how the axes lie",
            where=str(case.image),
            found=f"no clear {' and '.join(list_unclear(sides))}",
            next_step="use the original volume, or set its true affine",
        )
    image_axes = find_flips(sides, is_enough)
    # What a relative flip leaves to the image is the image's fault, the rest the mask's.
    mask_axes = tuple(sorted(set(mask_axes) ^ set(image_axes)))
    corrections = [
        make_correction("mask-flipped", f"the {name} between {AXIS_NAMES[axis]}")
        for name, axes in (("image", image_axes), ("mask", mask_axes))
        for axis in axes
    ]
    return (
        _flip(image, image_axes),
        replace(_flip(mask, mask_axes), affine=image.affine),
        corrections,
    )


def _flip(volume: Volume, axes: tuple[int, ...]) -> Volume:
    """Return a volume whose array is flipped and whose place is the same."""
    if not axes:
        return volume
    code = volume.source.code
    for axis in axes:  # canonical z, y, x are patient axes 2, 1, 0
        letters = POSITIVE[2 - axis] + NEGATIVE[2 - axis]
        code = "".join(letters[1 - letters.index(c)] if c in letters else c for c in code)
    array = np.ascontiguousarray(np.flip(volume.array, axes))
    return replace(volume, array=array, source=replace(volume.source, code=code))
