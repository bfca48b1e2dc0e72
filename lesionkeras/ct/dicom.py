"""CT series in DICOM files to volumes in HU with their place in the patient.

The way of a series: find files -> parse headers -> choose the series -> check that slices are
alike -> put them in order by position -> check distances and tilt -> read pixels -> canonical.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lesionkeras.ct.dicom_files import list_folders, open_entries
from lesionkeras.ct.dicom_geometry import (
    Stack,
    check_alike,
    check_stack,
    find_step,
    make_affine,
    stack_slices,
)
from lesionkeras.ct.dicom_pixels import are_same_slices, read_pixels
from lesionkeras.ct.dicom_series import (
    SeriesSummary,
    check_counts,
    choose_series,
    filter_series,
    group_series,
    parse_files,
    summarise,
)
from lesionkeras.ct.dicom_slices import ParsedFile, Slice, read_slices
from lesionkeras.ct.findings import Correction, CtError, make_correction
from lesionkeras.ct.hounsfield import AIR_HU
from lesionkeras.ct.resample import resample_stack
from lesionkeras.ct.volume import Volume, to_canonical

__all__ = ["SeriesSummary", "list_folders", "list_series", "read_dicom"]


def list_series(path: str | Path) -> list[SeriesSummary]:
    """List the image series at a path.

    Args:
        path: See `read_dicom`.

    Returns:
        One summary a SeriesInstanceUID, in the order in which files are met.

    Raises:
        CtError: There is no DICOM image, or a file is damaged.
    """
    with open_entries(Path(path)) as (entries, _):
        images, _ = parse_files(entries, str(path))
        return [summarise(files) for files in group_series(images).values()]


def _find_series(
    path: Path, entries: list, named: str, series_uid: str | None, kind: str
) -> tuple[list[ParsedFile], list[Correction]]:
    """Return the files of the one series that is meant."""
    images, num_others = parse_files(entries, str(path), named)
    if named and series_uid is None:
        own = next(file for file in images if file.entry.name == named)
        series_uid = own.series_uid
    corrections = []
    if num_others:
        detail = f"{num_others} of {len(entries)} files"
        corrections.append(make_correction("other-files-left-out", detail))
    return choose_series(images, series_uid, kind, str(path)), corrections


def _resample(
    stack: Stack, array: np.ndarray, kind: str, problem: CtError
) -> tuple[np.ndarray, np.ndarray, Correction]:
    """Put uneven or tilted slices on an even grid; return array, affine and what was done."""
    spacing = stack.slices[0].spacing_mm
    fill = AIR_HU if kind == "image" else 0
    result = resample_stack(array, stack.positions_mm, stack.shifts_mm / spacing, fill)
    shift_mm = (result.shift_px[0] * spacing[0], result.shift_px[1] * spacing[1])
    affine = make_affine(stack, result.step_mm, float(stack.positions_mm[0]), shift_mm)
    before, after = (" x ".join(map(str, part.shape)) for part in (array, result.array))
    detail = (
        f"{problem.name} ({problem.found}): {before} slices, rows, columns became {after} "
        f"at {result.step_mm:.3f} mm"
    )
    return result.array, affine, make_correction("resampled", detail)


def _correct_types(files: list[ParsedFile]) -> list[Correction]:
    """Name elements whose type was wrong."""
    odd = [file for file in files if file.header.num_odd or file.data.num_odd[0]]
    if not odd:
        return []
    return [make_correction("vr-corrected", f"in {len(odd)} of {len(files)} files")]


def _note_copies(slices: list[Slice], stack: Stack) -> list[Correction]:
    num_copies = len(slices) - len(stack.slices)
    if not num_copies:
        return []
    return [make_correction("copies-left-out", f"{num_copies} of {len(slices)} slices")]


def read_dicom(
    path: str | Path,
    *,
    kind: str = "image",
    series_uid: str | None = None,
    resample: bool = False,
) -> Volume:
    """Read one CT series, or refuse it by name.

    Args:
        path: A folder, searched with its sub-folders and whatever the files are called; a zip, read
            in place; a folder inside a zip ("MASKS_DICOM.zip/MASKS_DICOM/liver"); or a file, which
            means its series in its folder.
        kind: "image" for HU, or "mask": values above 0 become 1, no modality or rescale is asked.
        series_uid: SeriesInstanceUID to choose where there are several.
        resample: Put tilted, uneven and incomplete series on an even grid instead of refusing them.

    Returns:
        int16 HU of at least -1024, or a uint8 mask, in canonical orientation.

    Raises:
        CtError: Named in `findings.ERRORS`; nothing else comes from any file.
    """
    assert kind in ("image", "mask"), kind
    path = Path(path)
    with open_entries(path) as (entries, named):
        series, corrections = _find_series(path, entries, named, series_uid, kind)
        files, more = filter_series(series, kind)
        slices = [part for file in files for part in read_slices(file, kind)]
        corrections += more + _correct_types(files)
        check_alike(slices)
        stack = stack_slices(slices, are_same_slices)
        corrections += _note_copies(slices, stack)
        problem = None
        try:
            check_stack(stack)
            check_counts(series, len(stack.slices))
        except CtError as error:
            if not resample:
                raise
            problem = error
        array, more = read_pixels(stack.slices, kind, str(path))
    corrections += more
    if problem is None:
        affine = make_affine(stack, find_step(stack), float(stack.positions_mm[0]))
    else:
        array, affine, correction = _resample(stack, array, kind, problem)
        corrections.append(correction)
    return to_canonical(array, affine, "dicom", tuple(corrections), str(path))
