"""A 3D-IRCADb-01 case to a scan: DICOM image, and the masks that are the liver's joined to one.

Masks are folders that the annotators named freely.  Tumours of the liver are `livertumor`,
`livertumors`, `livertumor1`, `livertumor01` and so on: all become label 2.  Cysts are `livercyst`,
`liverkyst` and `liverkyste`: they stay liver.  What is not named after the liver is not of it: the
`tumor` of case 7 is adrenal (it lies outside the liver but for .03 % of its voxels, and the
publishers count no liver tumour there), the `metastasectomie` of case 14 a scar.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from lesionkeras.ct.dicom import list_folders, read_dicom
from lesionkeras.ct.findings import CtError, make_correction
from lesionkeras.ct.volume import Volume, check_same_place, like
from tfds_builders.anatomy import find_mask_flips, is_liver, shows_enough, take_samples
from tfds_builders.ircadb01.layout import Case
from tfds_builders.segmentation import LESION, LIVER, Scan

LIVER_NAME = "liver"
TUMOUR = re.compile(r"liver[ _-]?tumou?rs?[ _-]?\d*", re.IGNORECASE)
CYST = re.compile(r"liver[ _-]?[ck]yste?s?[ _-]?\d*", re.IGNORECASE)


def read_case(case: Case, patient: str) -> Scan:
    """Read a case and check that its mask lies on a liver.

    Args:
        case: Image and masks.
        patient: Whose scan it is.

    Returns:
        Image and mask in one place; lesions count as liver where the liver's mask leaves them out.

    Raises:
        CtError: What `read_dicom` raises, also where a mask of the liver has no files;
            shape-mismatch, affine-mismatch: a mask does not lie where the image lies, or
            not on a liver; bad-label: no liver, or a mask of the liver that is neither liver,
            tumour nor cyst.
    """
    image = read_dicom(case.image)
    groups = group_masks([*list_folders(case.masks), *_list_empty(case.masks)], case)
    labels = np.zeros(image.array.shape, np.uint8)
    corrections = list(image.corrections)
    for label, folders in ((LIVER, groups["liver"]), (LESION, groups["tumour"])):
        for folder in folders:
            mask = _read_mask(case, folder, image)
            corrections += [c for c in mask.corrections if c not in corrections]
            labels[mask.array != 0] = label
    if len(groups["tumour"]) + len(groups["cyst"]):
        detail = f"{len(groups['tumour'])} masks of tumours became label {LESION}"
        if groups["cyst"]:
            detail += f", {len(groups['cyst'])} of cysts stayed liver"
        corrections.append(make_correction("labels-merged", detail))
    _check_anatomy(case, image, labels)
    texts = tuple(str(correction) for correction in corrections)
    return Scan(case.name, patient, image, like(image, labels), texts)


def group_masks(folders: list[str], case: Case) -> dict[str, list[str]]:
    """Sort mask folders by what they are to the liver.

    Args:
        folders: Paths inside the masks' folder or archive.
        case: Names the file in an error.

    Returns:
        Folders of "liver", "tumour", "cyst"; other organs are left out.

    Raises:
        CtError: bad-label: not one liver, or a name that starts as the liver's and is unknown.
    """
    groups: dict[str, list[str]] = {"liver": [], "tumour": [], "cyst": []}
    for folder in sorted(folders):
        name = folder.rsplit("/", 1)[-1].strip()
        if name.lower() == LIVER_NAME:
            groups["liver"].append(folder)
        elif TUMOUR.fullmatch(name):
            groups["tumour"].append(folder)
        elif CYST.fullmatch(name):
            groups["cyst"].append(folder)
        elif name.lower().startswith(LIVER_NAME):
            raise _make_error(case, f"a mask {name!r}", "rename it, or move it away")
    if len(groups["liver"]) != 1:
        found = f"{len(groups['liver'])} masks of the liver"
        raise _make_error(case, found, "copy the case from its source again")
    return groups


def _list_empty(masks: Path) -> list[str]:
    """Return unpacked folders without anything in them: a mask that was not copied."""
    folders = sorted(path for path in masks.rglob("*") if path.is_dir()) if masks.is_dir() else []
    return [path.relative_to(masks).as_posix() for path in folders if not any(path.iterdir())]


def _make_error(case: Case, found: str, next_step: str) -> CtError:
    return CtError(
        "bad-label",
        "Masks of the liver cannot be told apart",
        where=str(case.masks),
        found=found,
        wanted="one 'liver', and 'livertumor...' and 'livercyst...' where there are any",
        next_step=next_step,
    )


def _read_mask(case: Case, folder: str, image: Volume) -> Volume:
    path = case.masks / folder
    mask = read_dicom(path, kind="mask")
    check_same_place(image, mask, str(path))
    return mask


def _check_anatomy(case: Case, image: Volume, labels: np.ndarray) -> None:
    image_hu, samples = take_samples(image.array), take_samples(labels)
    if not samples.any():
        image_hu, samples = image.array, labels
    if not samples.any():
        raise _make_error(case, "an empty mask of the liver", "copy the case from its source again")
    is_enough = shows_enough(labels, image.spacing_mm[0])
    axes, fit = find_mask_flips(image_hu, samples, is_enough)
    if axes or not is_liver(fit):
        raise CtError(
            "affine-mismatch",
            "Masks do not lie on the liver",
            where=str(case.masks),
            found="a mirrored liver" if axes else f"a median of {fit.median_hu:.0f} HU",
            next_step="copy the case from its source again",
        )
