"""`DL_info.csv` to typed rows: every column of a row, its box in half-open pixels, named errors.

Which pixels a box means.  `Bounding_boxes` are the extremes of the measured diameters
(`Measurement_coordinates`) with 5 px added on each side: real numbers such as 226.169.  Three
readings are in use: pixel i has its centre at i (0-based, DESIGN 4's "inclusive"), at i + 1
(1-based, subtracted by the authors' own loaders) or at i + .5 (continuous, half-open).  The data
decide.  Between a box's centre and the centroid of its lesion's pixel indices lie .66 px in x and
.38 in y (46 masks of the shared data, standard errors .13 and .17), and the images' gradient at the
ends of the diameters is steepest where indices lie .45 px in x and .25 in y below the coordinates.
That is half-open (.5), neither 0-based (0) nor 1-based (1).  So x1, y1, x2, y2 are taken as they
stand, here and nowhere else.  It is also the reading in which eight shared boxes hang over an edge;
with 1 added to x2 and y2 there would be eleven.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionkeras.errors import DataError

SPLITS = {1: "train", 2: "validation", 3: "test"}  # Train_Val_Test, official FAQ
COARSE_TYPES = {  # Coarse_lesion_type, official FAQ; training rows have -1
    -1: "unknown",
    1: "bone",
    2: "abdomen",
    3: "mediastinum",
    4: "liver",
    5: "lung",
    6: "kidney",
    7: "soft tissue",
    8: "pelvis",
}
LIVER = 4
FILE_NAME = re.compile(r"(\d{6})_(\d{2})_(\d{2})_(\d{3,})\.png", re.ASCII)


@dataclass(frozen=True)
class LesionRow:
    """One row of `DL_info.csv`: the 18 columns typed, the text they came from, and the box.

    `row` counts as a text editor does: the header is 1.  `text` holds the 18 fields verbatim in the
    official order.  `box` is xyxy px of the image, half-open, clipped to it by `overhang_px`.
    """

    row: int
    text: tuple[str, ...]
    box: tuple[float, float, float, float]
    overhang_px: float
    file_name: str
    patient_index: int
    study_index: int
    series_id: int
    key_slice_index: int
    measurement_coordinates: tuple[float, ...]  # px; x, y of four ends: long, then short diameter
    bounding_boxes: tuple[float, ...]  # px, as written
    lesion_diameters_pixel: tuple[float, ...]  # px; long, short
    normalized_lesion_location: tuple[float, ...]  # x, y, z as shares of the body
    coarse_lesion_type: int
    possibly_noisy: int
    slice_range: tuple[int, ...]  # first and last slice that the data set holds around the lesion
    spacing_mm_px: tuple[float, ...]  # mm; x, y, z
    image_size: tuple[int, ...]  # px; height, width (all official images are square)
    dicom_windows: tuple[float, ...]  # HU; low, high
    patient_gender: str
    patient_age: float  # years; NaN where empty
    train_val_test: int

    @property
    def patient(self) -> str:
        """The patient as DeepLesion writes it in file names, such as "000047"."""
        return self.file_name[:6]

    @property
    def series(self) -> str:
        """The series' folder in `Images_png`, such as "000047_10_01"."""
        return self.file_name[:12]

    @property
    def split(self) -> str:
        """The official split: train, validation or test."""
        return SPLITS[self.train_val_test]


def _parse_int(text: str) -> int:
    number = _parse_float(text)
    if not number.is_integer():
        raise ValueError("a whole number")
    return int(number)


def _parse_float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or "_" in text:  # float("1_0") is 10 in Python
        raise ValueError("a number")
    return number


def _parse_optional(text: str) -> float:
    return math.nan if text.strip().lower() in ("", "nan") else _parse_float(text)


def _many(parse: Callable[[str], Any], num: int) -> Callable[[str], tuple[Any, ...]]:
    def parse_all(text: str) -> tuple[Any, ...]:
        parts = text.split(",")
        try:
            values = tuple(parse(part) for part in parts)
        except ValueError as error:
            raise ValueError(f"{num} numbers with commas between") from error
        if len(values) != num:
            raise ValueError(f"{num} numbers with commas between")
        return values

    return parse_all


def _choice(*choices: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.strip() not in map(str, choices):
            raise ValueError("one of " + ", ".join(map(str, choices)))
        return int(text)

    return parse


def _parse_file_name(text: str) -> str:
    if not FILE_NAME.fullmatch(text.strip()):
        raise ValueError("a name such as 000001_01_01_109.png")
    return text.strip()


# Column as the file spells it -> how its text is read.  The field is the name in lower case.  Only
# what places a box must be a number; what merely describes a lesion may be empty or NaN.
COLUMNS: dict[str, Callable[[str], Any]] = {
    "File_name": _parse_file_name,
    "Patient_index": _parse_int,
    "Study_index": _parse_int,
    "Series_ID": _parse_int,
    "Key_slice_index": _parse_int,
    "Measurement_coordinates": _many(_parse_optional, 8),
    "Bounding_boxes": _many(_parse_float, 4),
    "Lesion_diameters_Pixel_": _many(_parse_optional, 2),
    "Normalized_lesion_location": _many(_parse_optional, 3),
    "Coarse_lesion_type": _choice(*COARSE_TYPES),
    "Possibly_noisy": _choice(0, 1),
    "Slice_range": _many(_parse_int, 2),
    "Spacing_mm_px_": _many(_parse_float, 3),
    "Image_size": _many(_parse_int, 2),
    "DICOM_windows": _many(_parse_optional, 2),
    "Patient_gender": str.strip,
    "Patient_age": _parse_optional,
    "Train_Val_Test": _choice(*SPLITS),
}
FIELDS = {column: column.lower().rstrip("_") for column in COLUMNS}
# What rows of one key slice must agree in, because it belongs to the image.
IMAGE_COLUMNS = (
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)


def _read_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row, fields) of a CSV file, the header first; a blank line has no fields."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            row = 1
            for fields in reader:
                yield row, fields
                row = reader.line_num + 1
    except OSError as error:
        raise DataError(
            "A file cannot be read", where=str(path), found=str(error.strerror)
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "A file is not a CSV table",
            where=str(path),
            found=str(error),
            wanted="the official DL_info.csv as UTF-8 text",
            next_step="copy it from the source again",
        ) from error


def _check_header(path: Path, header: list[str]) -> list[int]:
    """Return the position of each wanted column."""
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(
            "A column is missing" if len(missing) == 1 else f"{len(missing)} columns are missing",
            where=str(path),
            found="no " + ", ".join(missing),
            wanted="the columns " + ", ".join(COLUMNS),
            next_step="use DL_info.csv as it was published",
        )
    return [header.index(column) for column in COLUMNS]


def _parse_box(bounding_box: tuple[float, ...], image_size: tuple[int, ...], where: str) -> Any:
    """Return the box clipped to its image, and by how many px it hung over."""
    (x1, y1, x2, y2), (height, width) = bounding_box, image_size
    found = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    fix = "correct or remove the row"
    if height < 1 or width < 1:
        wanted = "a positive height and width"
        raise DataError(
            "An image has no size",
            where=where,
            found=f"{height}, {width}",
            wanted=wanted,
            next_step=fix,
        )
    if x1 >= x2 or y1 >= y2:
        wanted = "x1 < x2 and y1 < y2"
        raise DataError(
            "A box is degenerate", where=where, found=found, wanted=wanted, next_step=fix
        )
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        wanted = f"some of 0 to {width} by 0 to {height}"
        raise DataError(
            "A box lies wholly outside its image",
            where=where,
            found=found,
            wanted=wanted,
            next_step=fix,
        )
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    return box, max(0.0, -x1, -y1, x2 - width, y2 - height)


def _parse_row(path: Path, row: int, text: tuple[str, ...]) -> LesionRow:
    values: dict[str, Any] = {}
    where = f"{path} row {row}"
    for (column, parse), field_text in zip(COLUMNS.items(), text, strict=True):
        try:
            values[FIELDS[column]] = parse(field_text)
        except ValueError as error:
            raise DataError(
                f"{column} cannot be read",
                where=where,
                found=repr(field_text),
                wanted=str(error),
                next_step="correct the row",
            ) from error
    _check_name(values, where)
    if min(values["spacing_mm_px"]) <= 0:
        raise DataError(
            "Spacing_mm_px_ cannot be used",
            where=where,
            found=text[list(COLUMNS).index("Spacing_mm_px_")],
            wanted="three positive numbers of mm",
            next_step="correct the row",
        )
    box, overhang_px = _parse_box(values["bounding_boxes"], values["image_size"], where)
    return LesionRow(row=row, text=text, box=box, overhang_px=overhang_px, **values)


def _check_name(values: dict[str, Any], where: str) -> None:
    match = FILE_NAME.fullmatch(values["file_name"])
    assert match is not None  # _parse_file_name has seen to it
    in_name = tuple(int(part) for part in match.groups())
    columns = ("Patient_index", "Study_index", "Series_ID", "Key_slice_index")
    in_row = tuple(values[FIELDS[column]] for column in columns)
    for column, number, wanted in zip(columns, in_row, in_name, strict=True):
        if number != wanted:
            raise DataError(
                f"{column} contradicts File_name",
                where=where,
                found=str(number),
                wanted=f"{wanted} as in {values['file_name']}",
                next_step="correct the row",
            )


def _find_split_patients(path: Path, rows: list[LesionRow]) -> Iterator[DataError]:
    first: dict[int, LesionRow] = {}
    for row in rows:
        other = first.setdefault(row.patient_index, row)
        if other.train_val_test != row.train_val_test:
            yield DataError(
                f"Patient {row.patient} is in two splits",
                where=str(path),
                found=f"{other.split} in row {other.row} and {row.split} in row {row.row}",
                wanted="every patient in one split",
                next_step="correct Train_Val_Test",
            )


def _find_contradictions(path: Path, rows: list[LesionRow]) -> Iterator[DataError]:
    first: dict[str, LesionRow] = {}
    positions = [(column, list(COLUMNS).index(column)) for column in IMAGE_COLUMNS]
    for row in rows:
        other = first.setdefault(row.file_name, row)
        for column, position in positions:
            if other.text[position] != row.text[position]:
                yield DataError(
                    f"{column} differs between two rows of {row.file_name}",
                    where=str(path),
                    found=f"{other.text[position]!r} in row {other.row} and "
                    f"{row.text[position]!r} in row {row.row}",
                    wanted="one value an image",
                    next_step="correct one of the rows",
                )


def read_dl_info(path: Path, refused: list[DataError] | None = None) -> list[LesionRow]:
    """Read and check `DL_info.csv`.

    Args:
        path: The file.
        refused: Where what is wrong with rows is collected, and the row left out; None raises the
            first.

    Returns:
        One `LesionRow` a row, in the file's order; `overhang_px` > 0 marks clipped boxes.

    Raises:
        DataError: The file is unreadable, no CSV, empty, or lacks a column; a field cannot be read;
            a box is degenerate or wholly outside its image; the file name contradicts the row; a
            patient is in two splits; two rows of an image contradict each other.  All name the row.
    """
    fields = _read_fields(path)
    columns = _check_header(path, next(fields, (1, []))[1])
    rows = []
    for row, texts in fields:
        try:
            if texts:  # not a blank line
                rows.append(_parse_row(path, row, _take_texts(path, row, texts, columns)))
        except DataError as error:
            if refused is None:
                raise
            refused.append(error)
    if not rows:
        raise DataError("A table has no rows", where=str(path), wanted="one row a lesion")
    for wrong in (*_find_split_patients(path, rows), *_find_contradictions(path, rows)):
        if refused is None:
            raise wrong
        refused.append(wrong)
    return rows


def _take_texts(path: Path, row: int, texts: list[str], columns: list[int]) -> tuple[str, ...]:
    if len(texts) <= max(columns):
        raise DataError(
            "A row is too short",
            where=f"{path} row {row}",
            found=f"{len(texts)} fields",
            wanted=f"{max(columns) + 1}",
            next_step="copy the file from the source again",
        )
    return tuple(texts[i] for i in columns)
