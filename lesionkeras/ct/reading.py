"""`read_volume` and `write_volume`: CT in any of its files to one kind of volume, and back.

    volume = read_volume("scan/")              a DICOM folder, nested or not, any file names
    volume = read_volume("scan.zip")           the same in an archive
    volume = read_volume("scan.nii.gz")
    volume = read_volume("Dataset003_Liver", case="liver_7")                nnU-Net's folders
    mask = read_volume("Dataset003_Liver", case="liver_7", kind="mask")     its labelsTr
    image, mask = read_pair("volume-0.nii.gz", "segmentation-0.nii.gz")
    write_volume("mask.nii.gz", like(image, mask.array))

What a file is, its first bytes say; its name only says which case of a folder it is.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti import read_nifti, write_nifti
from lesionkeras.ct.nifti_header import find_version
from lesionkeras.ct.nifti_stream import GZIP_MAGIC, open_file, open_stream
from lesionkeras.ct.volume import Volume, check_same_place

IMAGE_FOLDERS = ("imagesTr", "imagesTs", "imagesVal")  # nnU-Net and the Medical Decathlon
MASK_FOLDERS = ("labelsTr", "labelsTs", "labelsVal")
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # an archive with files, an empty one
CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net's number of a channel
ENDING = re.compile(r"\.nii(\.gz)?$")
MOST_NAMES = 10  # of cases in an error's text


def find_format(path: str | os.PathLike[str]) -> str:
    """Tell a file's format by its first bytes.

    Args:
        path: The file.

    Returns:
        "nifti", "zip", "dicom" or, if it is none of them by its first bytes, "".

    Raises:
        CtError: not-found, unreadable-file; damaged or truncated gzip.
    """
    with open_file(path) as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return "dicom"
    if start[:4] in ZIP_MAGIC:
        return "zip"
    if start[:2] == GZIP_MAGIC:
        with open_stream(path, str(path)) as stream:
            return "nifti" if find_version(stream.read_up_to(4)) else ""
    return "nifti" if find_version(start) else ""


def _list_cases(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Return case -> its files in a folder as nnU-Net lays it, or of NIfTI files side by side."""
    names = IMAGE_FOLDERS if kind == "image" else MASK_FOLDERS
    named = [folder / name for name in names if (folder / name).is_dir()]
    plain = not named and folder.name not in IMAGE_FOLDERS
    root = folder.parent if folder.name in IMAGE_FOLDERS else folder
    masks = {ENDING.sub("", p.name) for each in MASK_FOLDERS for p in (root / each).glob("*.nii*")}
    cases: dict[str, list[Path]] = {}
    for place in named or [folder]:
        for path in sorted(place.iterdir()):
            name = ENDING.sub("", path.name)
            if name != path.name and not name.startswith("."):  # macOS leaves ._ files
                # Masks tell case_0001 from the second channel of a case.
                is_whole = plain or kind == "mask" or name in masks
                case = name if is_whole else CHANNEL.sub("", name)
                cases.setdefault(case, []).append(path)
    if plain and cases and any(_is_dicom(path) for path in folder.iterdir()):
        cases["a DICOM series"] = [folder]
    return dict(sorted(cases.items(), key=lambda item: (item[1] == [folder], item[0])))


def _is_dicom(path: Path) -> bool:
    regular = stat.S_ISREG(_find_mode(path)) and not ENDING.search(path.name)
    return regular and find_format(path) == "dicom"


def _choose_file(folder: Path, kind: str, case: str | None) -> Path | None:
    """Return the NIfTI file of a case; None if the folder holds none."""
    try:
        cases = _list_cases(folder, kind)
    except OSError as error:
        raise CtError(
            "unreadable-file",
            "A folder cannot be read",
            where=str(folder),
            found=error.strerror or "",
            next_step="name a folder that you may read",
        ) from error
    names = ", ".join(list(cases)[:MOST_NAMES])
    names += f" and {len(cases) - MOST_NAMES} more" if len(cases) > MOST_NAMES else ""
    if case is not None and case not in cases:
        raise CtError(
            "not-found",
            f"A {kind} of case {case} is not there",
            where=str(folder),
            found=names or "no NIfTI file",
            next_step="choose one of these" if names else "name another folder",
        )
    if case is None and len(cases) > 1:
        raise CtError(
            "several-cases",
            "There is more than one case",
            where=str(folder),
            found=names,
            next_step="choose one with case=",
        )
    files = cases.get(case or next(iter(cases), ""), [])
    if len(files) > 1:
        raise CtError(
            "four-dimensional",
            "A case has more than one file",
            where=str(folder),
            found=", ".join(str(path.relative_to(folder)) for path in files),
            wanted="one channel, in one folder",
        )
    return files[0] if files else None


def _find_mode(path: Path) -> int:
    """Return what the system says lies at a path, or 0; why, `open_file` says."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _is_inside_zip(path: Path) -> bool:
    """Return whether a path goes on behind an archive's name: `scan.zip/series`."""
    return not _find_mode(path) and any(stat.S_ISREG(_find_mode(p)) for p in path.parents)


def _refuse_choice(name: str, what: str, where: Path) -> CtError:
    next_step = f"leave {name} out"
    return CtError(
        "not-found", f"There is no {what} to choose", where=str(where), next_step=next_step
    )


def read_volume(
    path: str | os.PathLike[str],
    *,
    kind: str = "image",
    series_uid: str | None = None,
    case: str | None = None,
    resample: bool = False,
) -> Volume:
    """Read a CT volume or a mask from whatever holds it.

    Args:
        path: A NIfTI file; a DICOM file, folder or zip; a folder of NIfTI files, flat or with
            imagesTr, imagesTs and labelsTr.
        kind: "image": int16 HU; "mask": uint8 labels.
        series_uid: Which series of a DICOM folder or zip.
        case: Which case of a folder of NIfTI files: its name without channel and ending.
        resample: Whether a DICOM series with a tilt, a gap or uneven slices is resampled from their
            true positions instead of refused.

    Returns:
        The volume in canonical orientation; `corrections` says what was changed.

    Raises:
        CtError: What is wrong, by a name in `findings.ERRORS`.
    """
    path = Path(path)
    if stat.S_ISDIR(_find_mode(path)):
        chosen = _choose_file(path, kind, case)
    elif case is not None:
        raise _refuse_choice("case", "case", path)
    else:
        chosen = path if not _is_inside_zip(path) and find_format(path) == "nifti" else None
    if chosen is not None:
        if series_uid is not None:
            raise _refuse_choice("series_uid", "series", path)
        return read_nifti(chosen, kind)
    from lesionkeras.ct.dicom import read_dicom

    return read_dicom(path, kind=kind, series_uid=series_uid, resample=resample)


def read_pair(
    image_path: str | os.PathLike[str], mask_path: str | os.PathLike[str]
) -> tuple[Volume, Volume]:
    """Read an image and a mask of it.

    Args:
        image_path: As in `read_volume`.
        mask_path: The same.

    Returns:
        (image, mask), voxel for voxel in the same place.

    Raises:
        CtError: What `read_volume` raises; "shape-mismatch" or "affine-mismatch".
    """
    image, mask = read_volume(image_path), read_volume(mask_path, kind="mask")
    check_same_place(image, mask, str(mask_path))
    return image, mask


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a volume as NIfTI in the orientation of its source, wholly or not at all.

    Args:
        path: Ends in .nii or .nii.gz.
        volume: int16 or uint8; a prediction made with `like` comes out on its image's grid.

    Raises:
        CtError: unknown-format, too-large, unreadable-file (it cannot be written).
    """
    write_nifti(path, volume)
