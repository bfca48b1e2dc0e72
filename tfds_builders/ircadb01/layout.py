"""A 3D-IRCADb-01 folder to cases, with DICOM and masks in archives or unpacked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lesionkeras.errors import DataError

CASE_NAME = re.compile(r"3dircadb1\.(\d+)", re.IGNORECASE)
PARTS = ("PATIENT_DICOM", "MASKS_DICOM")
NUM_CASES = 20
TREE = """\
DATA_DIR/
    3Dircadb1.1/
        PATIENT_DICOM.zip      (or the folder PATIENT_DICOM)
        MASKS_DICOM.zip        (or the folder MASKS_DICOM)
    3Dircadb1.2/
        ...
"""
TREE_WORDS = (
    "{root}/3Dircadb1.1/PATIENT_DICOM and {root}/3Dircadb1.1/MASKS_DICOM, as folders or .zip, and "
    "so on up to 3Dircadb1.20"
)


@dataclass(frozen=True)
class Case:
    """A patient: number, and image and masks, each a folder or an archive."""

    number: int
    image: Path
    masks: Path

    @property
    def name(self) -> str:
        """Its name in the data set, such as "3Dircadb1.1"."""
        return f"3Dircadb1.{self.number}"

    @property
    def patient(self) -> str:
        """Who: no two cases are of one patient, but LiTS 28 to 47 are of these (lits.ircadb)."""
        return f"ircadb01_{self.number:02d}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Image and masks."""
        return self.image, self.masks


def _make_error(root: Path | None, found: str, next_step: str) -> DataError:
    return DataError(
        "3D-IRCADb-01's data are not there" if root else "3D-IRCADb-01 needs its raw data",
        where=str(root or ""),
        found=found,
        wanted=TREE_WORDS.format(root=root or "DATA_DIR"),
        next_step=next_step,
    )


def _find_part(folder: Path, name: str) -> Path | None:
    """Return a folder, or else the archive of it."""
    if (folder / name).is_dir():
        return folder / name
    archive = folder / f"{name}.zip"
    return archive if archive.is_file() else None


def _find_number(folder: Path, root: Path) -> int | None:
    """Return the number in the innermost folder's name that has one, at most as far up as root."""
    parts = [*folder.relative_to(root).parts[::-1], root.absolute().name]
    matches = (CASE_NAME.fullmatch(part) for part in parts)
    return next((int(match[1]) for match in matches if match), None)


def list_cases(root: Path | None) -> tuple[Case, ...]:
    """Find the cases of a folder.

    Args:
        root: The folder that holds them, at any depth, or that of one case.

    Returns:
        By number.

    Raises:
        DataError: No folder was given or it holds no case (the tree is named); a case lacks image
            or masks, or is there twice; its folder has no number.
    """
    if root is None:
        next_step = "give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)"
        raise _make_error(None, "no data folder", next_step)
    cases: dict[int, Case] = {}
    for folder_name, folders, _ in os.walk(root):
        folder = Path(folder_name)
        image, masks = (_find_part(folder, part) for part in PARTS)
        folders[:] = sorted(name for name in folders if name not in PARTS)
        if image is None and masks is None:
            continue
        number = _find_number(folder, root)
        if image is None or masks is None or number is None:
            lacking = PARTS[0] if image is None else PARTS[1]
            found = "a folder without a number" if number is None else f"no {lacking}"
            raise _make_error(folder, found, "complete the case, or move it away")
        other = cases.setdefault(number, Case(number, image, masks))
        if other.image != image:
            raise DataError(
                f"Case {number} is there twice",
                where=str(root),
                found=f"{other.image.relative_to(root)} and {image.relative_to(root)}",
                wanted="one folder",
                next_step="remove or move one of them",
            )
    if not cases:
        found = "no case" if root.is_dir() else "no such folder"
        archives = sorted(root.glob("3D*.zip")) if root.is_dir() else []
        next_step = f"unpack {archives[0].name}" if archives else "give the folder that holds them"
        raise _make_error(root, found, next_step)
    return tuple(cases[number] for number in sorted(cases))
