"""Which files of a folder are one CT series: parsing, grouping, choosing, leaving out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lesionkeras.ct import dicom_tags as tags
from lesionkeras.ct.dicom_files import FileEntry
from lesionkeras.ct.dicom_parse import parse_header
from lesionkeras.ct.dicom_slices import ParsedFile
from lesionkeras.ct.findings import Correction, CtError, make_correction

MAX_LISTED = 20  # series in an error
MAX_NAMED = 3  # files in an error


@dataclass(frozen=True)
class SeriesSummary:
    """What tells one series from another without naming the patient.

    Attributes:
        series_uid: SeriesInstanceUID, to choose by; an identifier: print it, never log or store it.
        modality: "CT", ...
        num_files: Image files.
        rows: Of the first file.
        columns: Likewise.
        spacing_mm: Between rows and between columns of the first file, or None.
        is_candidate: Whether it can be CT slices: no scout, no screen capture.
    """

    series_uid: str
    modality: str
    num_files: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float] | None
    is_candidate: bool

    @property
    def facts(self) -> str:
        """All but the UID: what may be kept."""
        spacing = f", {self.spacing_mm[0]:g} x {self.spacing_mm[1]:g} mm" if self.spacing_mm else ""
        size = f"{self.num_files} files, {self.rows} x {self.columns} px{spacing}"
        return f"({self.modality or 'no modality'}, {size})"

    def __str__(self) -> str:
        return f"{self.series_uid or '(no UID)'} {self.facts}"


def name_files(names: Iterable[str]) -> str:
    """Name a few files.

    >>> name_files(f"{number}.dcm" for number in range(9))
    '0.dcm, 1.dcm, 2.dcm and 6 more'
    """
    names = list(names)
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _parse_file(entry: FileEntry) -> ParsedFile | None:
    """Parse a header, or return None for a file that is not DICOM or a DICOMDIR."""
    with entry.open() as file:
        header = parse_header(file, entry.size, entry.name)
    return ParsedFile(entry, header) if header else None


def _find_pattern(name: str) -> str:
    """Return a name with its numbers replaced: slices of one export share it."""
    return re.sub(r"[0-9]+", "#", name)


def _check_whole(file: ParsedFile) -> None:
    """Refuse a CT slice that ends before its pixels, lest it be taken for another kind of file."""
    has_pixels = file.header.pixels_vr or file.header.has_float_pixels
    if file.sop_class in tags.CT_CLASSES and not has_pixels:
        raise CtError(
            "no-pixels",
            "There are no pixels",
            where=file.entry.name,
            found="no PixelData",
            next_step="copy the file from its source again",
        )


def _check_others(others: list[FileEntry], images: list[ParsedFile]) -> None:
    """Refuse a file that is named like the slices and does not begin like one: a slice is lost."""
    patterns = {_find_pattern(file.entry.name) for file in images}
    for entry in others:
        if _find_pattern(entry.name) in patterns:
            raise CtError(
                "truncated" if entry.size < 132 else "damaged",
                "A file is named like the slices and is not DICOM",
                where=entry.name,
                found=f"{entry.size} bytes without a DICOM header",
                next_step="copy it from its source again, or take it away",
            )


def parse_files(
    entries: list[FileEntry], where: str, named: str = ""
) -> tuple[list[ParsedFile], int]:
    """Parse the headers of all DICOM images among files.

    Args:
        entries: Files of any kind.
        where: What to call the folder in an error.
        named: The one file that was asked for, which must be an image.

    Returns:
        The images, and how many files were left out.

    Raises:
        CtError: "empty-folder", "unknown-format"; a DICOM file is damaged or too large.
    """
    others, images = [], []
    for entry in entries:
        file = _parse_file(entry)
        if file is None:
            others.append(entry)
        elif file.is_image:
            _check_whole(file)
            images.append(file)
    if named and all(file.entry.name != named for file in images):
        raise CtError(
            "unknown-format",
            "A file is no DICOM image",
            where=named,
            next_step="name a slice, its folder or its archive",
        )
    _check_others(others, images)
    if not images:
        raise CtError(
            "empty-folder",
            "There is no DICOM image",
            where=where,
            found=f"{len(entries)} other files",
            next_step="name the folder that holds the slices",
        )
    return images, len(entries) - len(images)


def _is_candidate(files: list[ParsedFile], kind: str) -> bool:
    return any(
        (kind == "mask" or file.modality in ("CT", ""))
        and not file.is_localizer
        and file.sop_class != tags.SECONDARY_CAPTURE
        for file in files
    )


def group_series(images: list[ParsedFile]) -> dict[str, list[ParsedFile]]:
    """Group images by SeriesInstanceUID, in the order in which they are met."""
    groups: dict[str, list[ParsedFile]] = {}
    for file in images:
        groups.setdefault(file.series_uid, []).append(file)
    return groups


def summarise(files: list[ParsedFile], kind: str = "image") -> SeriesSummary:
    """Describe the images of one series.

    Raises:
        CtError: The first file's size or spacing cannot be understood.
    """
    first = files[0]
    rows, columns = (first.data.read_integer(tag, "damaged") for tag in (tags.ROWS, tags.COLUMNS))
    spacing = first.data.read_numbers(tags.PIXEL_SPACING, 2, "no-geometry")
    return SeriesSummary(
        series_uid=first.series_uid,
        modality=first.modality,
        num_files=len(files),
        rows=rows or 0,
        columns=columns or 0,
        spacing_mm=(spacing[0], spacing[1]) if spacing else None,
        is_candidate=_is_candidate(files, kind),
    )


def choose_series(
    images: list[ParsedFile], series_uid: str | None, kind: str, where: str
) -> list[ParsedFile]:
    """Return the images of the one series that is meant.

    Args:
        images: Of all series.
        series_uid: The series, or None if there is only one that can be meant.
        kind: "image" or "mask".
        where: What to call the folder in an error.

    Raises:
        CtError: "several-series" with the list of them, "not-ct", or "empty-folder" if there are
            only scout images.
    """
    groups = group_series(images)
    if series_uid in groups:
        return groups[series_uid]
    candidates = {uid: files for uid, files in groups.items() if _is_candidate(files, kind)}
    if len(candidates) == 1 and series_uid is None:
        return next(iter(candidates.values()))
    if candidates or series_uid is not None:
        listed = [
            (summarise(files, kind), f" in {folder}" if folder else "")
            for files in (candidates or groups).values()
            for folder in [files[0].entry.name.rpartition("/")[0]]
        ]
        rest = f"; and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
        listed = listed[:MAX_LISTED]
        raise CtError(
            "several-series",
            "No series has this UID" if series_uid is not None else "There is more than one series",
            where=where,
            found="; ".join(f"{series}{place}" for series, place in listed) + rest,
            found_kept="; ".join(f"{series.facts}{place}" for series, place in listed) + rest,
            next_step="choose one by its UID, or name the folder that holds only one",
        )
    if all(file.is_localizer for file in images):
        found = f"{len(images)} scout images"
        raise CtError("empty-folder", "There are no CT slices", where=where, found=found)
    modalities = sorted({file.modality[:16] for file in images} - {"CT"})
    raise CtError(
        "not-ct" if modalities else "not-16-bit",
        "Images are not CT" if modalities else "Images are screen captures",
        where=name_files(file.entry.name for file in images),
        found=f"modality {', '.join(modalities)}" if modalities else "",
        wanted="CT slices",
    )


def _check_patients(files: list[ParsedFile]) -> None:
    """Refuse a series of several patients; what names them is never shown."""
    patients: dict[bytes, list[str]] = {}
    for file in files:
        patients.setdefault(file.patient, []).append(file.entry.name)
    patients.pop(b"", None)
    if len(patients) > 1:
        fewest = min(patients.values(), key=len)
        raise CtError(
            "several-patients",
            "One series holds several patients",
            where=name_files(fewest),
            found=f"{len(patients)} patients",
            wanted="one",
            next_step="keep the files of one patient in the folder",
        )


def filter_series(files: list[ParsedFile], kind: str) -> tuple[list[ParsedFile], list[Correction]]:
    """Check that files belong together and leave scout images out.

    Args:
        files: Of one series.
        kind: "image" or "mask".

    Returns:
        The files that hold slices, and the corrections.

    Raises:
        CtError: "several-patients" or "not-ct".
    """
    _check_patients(files)
    others = [file for file in files if file.modality != "CT"] if kind == "image" else []
    if others:
        raise CtError(
            "not-ct",
            "An image is not CT",
            where=name_files(file.entry.name for file in others),
            found=f"modality {others[0].modality[:16] or 'missing'}",
            wanted="CT",
        )
    slices = [file for file in files if not file.is_localizer]
    corrections = []
    if not slices:
        where = name_files(file.entry.name for file in files)
        raise CtError("empty-folder", "There are only scout images", where=where)
    if len(slices) < len(files):
        detail = f"{len(files) - len(slices)} of {len(files)} images are scouts"
        corrections.append(make_correction("localizer-left-out", detail))
    num_bare = sum(not file.header.has_meta for file in slices)
    if num_bare:
        detail = f"{num_bare} of {len(slices)} files"
        corrections.append(make_correction("no-meta-header", detail))
    return slices, corrections


def check_counts(files: list[ParsedFile], num_slices: int) -> None:
    """Refuse a series that says itself that it had more images: one at an end is missing.

    Instance numbers tell nothing: many series rightly begin elsewhere than at 1, or count by two.

    Args:
        files: All of the series, scouts as well.
        num_slices: Frames in them, without copies.

    Raises:
        CtError: "missing-slice".
    """
    found = num_slices + sum(file.is_localizer for file in files)
    for file in files:
        claims = {
            tags.KEPT[tag][0]: file.data.read_integer(tag, "damaged")
            for tag in (tags.IMAGES_IN_ACQUISITION, tags.INSTANCES_IN_SERIES)
        }
        total = file.data.read_integer(tags.CONCATENATION_TOTAL, "damaged")
        if total and file.header.elements.get(tags.FRAME_GROUPS):
            claims = {"InConcatenationTotalNumber": total}
        for name, claim in claims.items():
            if claim and claim > (len(files) if total else found):
                raise CtError(
                    "missing-slice",
                    "A series has fewer images than it says",
                    where=file.entry.name,
                    found=f"{found} images",
                    wanted=f"{claim} ({name})",
                    next_step="export the series again, whole",
                )
