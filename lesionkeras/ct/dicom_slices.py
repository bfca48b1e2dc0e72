"""From a DICOM header to slices: place, size, pixel format and rescale of each frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lesionkeras.ct import dicom_tags as tags
from lesionkeras.ct.dicom_files import FileEntry
from lesionkeras.ct.dicom_parse import PATIENT, Header
from lesionkeras.ct.dicom_values import DataSet
from lesionkeras.ct.findings import CtError
from lesionkeras.ct.volume import RIGHT_ANGLE

MAX_SIDE_PX = 8192  # CT has up to 2048
SPACING_MM = (1e-3, 100.0)
UNIT_LENGTH = 1e-2  # by how much a direction of two digits may miss unit length
SLOPES = (1e-3, 64.0)  # extended CT scales have 10, floats mapped to 16 bit some .06
MAX_INTERCEPT_HU = 32768.0
LOSSY_NEXT_STEP = "ask for the original: HU that were compressed with loss are not measured"
AGAIN = "export the series again from its source"


@dataclass(frozen=True)
class PixelFormat:
    """How stored words become HU; slices that agree share one table.

    Attributes:
        bits_allocated: 8 or 16.
        bits_stored: Bits that count.
        high_bit: The highest of them.
        is_signed: Two's complement.
        padding: Bits of the padding value, or None.
        padding_limit: Bits of the other end of a range of padding values, or None.
        slope: Of the rescale; 1 for a mask.
        intercept: Likewise; 0 for a mask.
    """

    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    padding: int | None = None
    padding_limit: int | None = None
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True)
class Slice:
    """One frame.

    Attributes:
        entry: Its file.
        header: The file's header.
        frame: Number of the frame in the file, from 0.
        num_frames: Of the file.
        size: Rows, columns.
        spacing_mm: Between rows, between columns.
        row_direction: Unit vector along which the column index grows, LPS.
        column_direction: Unit vector along which the row index grows, LPS.
        position: Centre of the first pixel, LPS mm.
        decimals: With which positions are written, at most 9.
        pixels: Format of the pixels.
    """

    entry: FileEntry
    header: Header
    frame: int
    num_frames: int
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    row_direction: np.ndarray
    column_direction: np.ndarray
    position: np.ndarray
    decimals: int
    pixels: PixelFormat


class ParsedFile:
    """A DICOM file of which the header was read.

    Attributes:
        entry: The file.
        header: Its header.
        data: Values of the header.
    """

    def __init__(self, entry: FileEntry, header: Header) -> None:
        self.entry, self.header = entry, header
        self.data = DataSet(header.elements, entry.name, header.is_big_endian)
        self.series_uid = self.data.read_text(tags.SERIES)
        self.instance_uid = self.data.read_text(tags.SOP_INSTANCE)
        self.modality = self.data.read_text(tags.MODALITY)
        self.sop_class = self.data.read_text(tags.SOP_CLASS) or self.data.read_text(
            tags.META_SOP_CLASS
        )
        name, identifier = (self.data.read_bytes(tag) for tag in PATIENT)  # hashes
        self.patient = identifier or name

    @property
    def is_image(self) -> bool:
        """Whether there are pixels, or should be."""
        has_rows = tags.ROWS in self.header.elements
        return has_rows or bool(self.header.pixels_vr) or self.sop_class in tags.CT_CLASSES

    @property
    def is_localizer(self) -> bool:
        """Whether the file is a scout image."""
        return "LOCALIZER" in (word.upper() for word in self.data.read_words(tags.IMAGE_TYPE))

    def read_size(self) -> tuple[int, int]:
        """Return rows and columns.

        Raises:
            CtError: "damaged" or "too-large".
        """
        rows = self.data.read_integer(tags.ROWS, "damaged")
        columns = self.data.read_integer(tags.COLUMNS, "damaged")
        if not rows or not columns or rows < 0 or columns < 0:
            found = f"{rows} rows and {columns} columns"
            raise CtError("damaged", "An image has no size", where=self.entry.name, found=found)
        if max(rows, columns) > MAX_SIDE_PX:
            raise CtError(
                "too-large",
                "An image is too large",
                where=self.entry.name,
                found=f"{rows} x {columns} px",
                wanted=f"sides up to {MAX_SIDE_PX} px",
            )
        return rows, columns


def _refuse_geometry(name: str, what: str, where: str, found: str) -> CtError:
    return CtError(name, what, where=where, found=found, next_step=AGAIN)


def _find_numbers(places: list[DataSet], tag: int, count: int, error: str) -> list[float] | None:
    """Return an element from the first place that has it."""
    for place in places:
        numbers = place.read_numbers(tag, count, error)
        if numbers is not None:
            return numbers
    return None


def _read_directions(places: list[DataSet], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors along rows and along columns."""
    numbers = _find_numbers(places, tags.ORIENTATION, 6, "no-geometry")
    if numbers is None:
        found = "no ImageOrientationPatient"
        raise _refuse_geometry("no-geometry", "A slice has no orientation", where, found)
    directions = np.array(numbers).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if not (abs(lengths - 1) <= UNIT_LENGTH).all():
        found = f"directions of length {lengths[0]:.4g} and {lengths[1]:.4g}"
        raise _refuse_geometry("no-geometry", "An orientation is no direction", where, found)
    row, column = directions / lengths[:, None]
    if abs(row @ column) > RIGHT_ANGLE:
        found = f"a cosine of {row @ column:.4f}"
        what = "Rows and columns are not at right angles"
        raise _refuse_geometry("sheared-affine", what, where, found)
    return row, column


def _read_spacing(places: list[DataSet], where: str) -> tuple[float, float]:
    numbers = _find_numbers(places, tags.PIXEL_SPACING, 2, "no-geometry")
    if numbers is None:
        found = "no PixelSpacing"
        raise _refuse_geometry("no-geometry", "A slice has no pixel spacing", where, found)
    if not all(SPACING_MM[0] <= number <= SPACING_MM[1] for number in numbers):
        found = f"{numbers[0]:g} and {numbers[1]:g} mm"
        raise _refuse_geometry("no-geometry", "A pixel spacing is impossible", where, found)
    return numbers[0], numbers[1]


def _read_position(places: list[DataSet], where: str) -> tuple[np.ndarray, int]:
    """Return the position and the number of decimals that it is written with."""
    for place in places:
        numbers = place.read_numbers(tags.POSITION, 3, "no-geometry")
        if numbers is not None:
            words = [word.replace(",", ".") for word in place.read_words(tags.POSITION)]
            decimals = [len(word.partition(".")[2].rstrip("0")) for word in words]
            if max(map(abs, numbers)) > 1e6:
                found = "a position more than 1 km away"
                raise _refuse_geometry("no-geometry", "A position is impossible", where, found)
            is_plain = not any(letter in word for word in words for letter in "eE")
            return np.array(numbers), min(max(decimals), 9) if is_plain else 9
    found = "no ImagePositionPatient"
    raise _refuse_geometry("no-geometry", "A slice has no position", where, found)


def _read_rescale(places: list[DataSet], where: str) -> tuple[float, float]:
    """Return slope and intercept."""
    values = []
    for tag, name in ((tags.SLOPE, "RescaleSlope"), (tags.INTERCEPT, "RescaleIntercept")):
        numbers = _find_numbers(places, tag, 1, "bad-rescale")
        if numbers is None:
            raise CtError(
                "no-rescale",
                "Stored values cannot become HU",
                where=where,
                found=f"no {name}",
                next_step=AGAIN,
            )
        values += numbers
    slope, intercept = values
    is_possible = SLOPES[0] <= slope <= SLOPES[1] and abs(intercept) <= MAX_INTERCEPT_HU
    if not (math.isfinite(slope) and is_possible):
        raise CtError(
            "bad-rescale",
            "A rescale is impossible for CT",
            where=where,
            found=f"slope {slope:g}, intercept {intercept:g}",
            wanted=f"a slope of {SLOPES[0]:g} to {SLOPES[1]:g}",
            next_step=AGAIN,
        )
    for place in places:
        unit = place.read_text(tags.RESCALE_TYPE).upper()
        if unit not in ("", "HU", "US"):  # US: unspecified
            raise CtError("not-hu", "Rescaled values are not HU", where=where, wanted="unit HU")
    return slope, intercept


def _read_bits(file: ParsedFile, kind: str) -> tuple[int, int, int, bool]:
    """Return bits allocated, bits stored, high bit, signedness, after checking what they are of."""
    data, where = file.data, file.entry.name
    photometric = data.read_text(tags.PHOTOMETRIC).upper()
    samples = data.read_integer(tags.SAMPLES, "damaged")
    if photometric == "MONOCHROME1":
        found = "MONOCHROME1"
        raise CtError("monochrome1", "Grey is inverted", where=where, found=found, next_step=AGAIN)
    bits = (tags.BITS_ALLOCATED, tags.BITS_STORED, tags.HIGH_BIT, tags.SIGN)
    allocated, stored, high, sign = (data.read_integer(tag, "damaged") for tag in bits)
    allowed = (8, 16) if kind == "mask" else (16,)
    is_grey = photometric == "MONOCHROME2" and samples in (1, None)
    if file.header.has_float_pixels or not is_grey or allocated not in allowed:
        raise CtError(
            "not-16-bit",
            "Pixels cannot be HU" if kind == "image" else "Pixels cannot be a mask",
            where=where,
            found=f"{samples} x {allocated} bits, {photometric[:16] or 'no colour model'}",
            wanted=f"1 x {' or '.join(map(str, allowed))} bits, MONOCHROME2",
            next_step=AGAIN,
        )
    high = high if high is not None else (stored or 0) - 1
    is_whole = 0 < (stored or 0) <= high + 1 <= (allocated or 0) and sign in (0, 1)
    if allocated is None or stored is None or not is_whole:
        raise CtError(
            "damaged",
            "A pixel format contradicts itself",
            where=where,
            found=f"{stored} bits of {allocated} up to bit {high}, sign {sign}",
            next_step=AGAIN,
        )
    return allocated, stored, high, sign == 1


def _check_pixels(file: ParsedFile, num_frames: int, size: tuple[int, int], bits: int) -> None:
    """Compare the number of bytes with what the size wants, before memory is taken for it."""
    header, where = file.header, file.entry.name
    if not header.pixels_vr:
        found = "no PixelData"
        raise CtError("no-pixels", "There are no pixels", where=where, found=found, next_step=AGAIN)
    lossy = file.data.read_text(tags.LOSSY) == "01"
    if lossy:
        raise CtError(
            "not-decodable",
            "Pixels were compressed with loss",
            where=where,
            next_step=LOSSY_NEXT_STEP,
        )
    if header.syntax not in tags.UNCOMPRESSED:
        return
    wanted = num_frames * size[0] * size[1] * bits // 8
    length = header.pixels_length
    is_there = header.deflated_offset is not None or length is None
    if not is_there and header.pixels_offset + (length or 0) > file.entry.size:
        raise CtError(
            "truncated",
            "A DICOM file ends early",
            where=where,
            found=f"{file.entry.size - header.pixels_offset} bytes of pixels",
            wanted=f"{length}",
            next_step="copy the file from its source again",
        )
    # Some writers pad; a wrong matrix is off by at least a row or a column.
    if length is None or not wanted <= length < wanted + max(2, min(size) * bits // 8):
        raise CtError(
            "truncated" if length is not None and length < wanted else "damaged",
            "Pixels do not fill the image",
            where=where,
            found="pixels in fragments" if length is None else f"{length} bytes",
            wanted=f"{wanted}",
            next_step="copy the file from its source again",
        )


def _find_frames(file: ParsedFile) -> list[list[DataSet]]:
    """Return, for each frame, where its geometry and rescale stand: own, shared, the file's."""
    num_frames = file.data.read_integer(tags.NUM_FRAMES, "damaged")
    per_frame = file.data.read_items(tags.FRAME_GROUPS)
    if not per_frame and num_frames in (None, 1) and file.sop_class not in tags.ENHANCED_CT:
        return [[file.data]]
    if not per_frame or num_frames != len(per_frame):
        raise CtError(
            "multi-frame",
            "A file holds several frames and no place for each",
            where=file.entry.name,
            found=f"{num_frames} frames, {len(per_frame)} of them placed",
            wanted="one file a slice, or enhanced CT",
            next_step="export the series as single slices",
        )
    shared = file.data.read_items(tags.SHARED_GROUPS)
    groups = (
        tags.PLANE_POSITIONS,
        tags.PLANE_ORIENTATIONS,
        tags.PIXEL_MEASURES,
        tags.PIXEL_VALUES,
    )  # place, orientation, spacing, HU
    return [
        [item for holder in (frame, *shared) for tag in groups for item in holder.read_items(tag)]
        for frame in per_frame
    ]


def read_slices(file: ParsedFile, kind: str) -> list[Slice]:
    """Read place, size and pixel format of each frame of a file.

    Args:
        file: Of the chosen series.
        kind: "image", or "mask", which needs no rescale and may have 8 bits.

    Raises:
        CtError: Whatever keeps the file from being CT slices in HU with a place.
    """
    where = file.entry.name
    frames = _find_frames(file)
    size = file.read_size()
    allocated, stored, high, is_signed = _read_bits(file, kind)
    _check_pixels(file, len(frames), size, allocated)
    is_image = kind == "image"
    patterns = [
        file.data.read_pattern(tag, allocated // 8) if is_image else None
        for tag in (tags.PADDING, tags.PADDING_LIMIT)
    ]
    slices = []
    for number, places in enumerate(frames):
        slope, intercept = _read_rescale(places, where) if is_image else (1.0, 0.0)
        row, column = _read_directions(places, where)
        position, decimals = _read_position(places, where)
        pixels = PixelFormat(
            allocated, stored, high, is_signed, patterns[0], patterns[1], slope, intercept
        )
        slices.append(
            Slice(
                entry=file.entry,
                header=file.header,
                frame=number,
                num_frames=len(frames),
                size=size,
                spacing_mm=_read_spacing(places, where),
                row_direction=row,
                column_direction=column,
                position=position,
                decimals=decimals,
                pixels=pixels,
            )
        )
    return slices
