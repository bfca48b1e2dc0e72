"""One image of a detection data set, between its annotation file and its record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lesionkeras.errors import DataError

Box = tuple[float, float, float, float]
NUMBER = re.compile(r"(.*?)(\d+)(\.png)", re.IGNORECASE | re.DOTALL)
MAX_SIDE_PX = 2**16
MOST_DIGITS = 255  # of a file's name


@dataclass(frozen=True)
class BoxImage:
    """An image with its boxes.

    Attributes:
        file: Relative to the data set's folder, "/" between.
        size_px: Height and width.
        boxes: xyxy px, half-open.
        categories: Their names, one a box.
        spacing_mm: z, y, x, or None where the annotations do not say.
        patient: Who, or "" where they do not say.
        previous: File of the slice before, or "".
        next: File of the slice behind, or "".
        slice: Number of the slice in its series, or -1.
        split: "train", "validation", "test", or "".
        where: What to call it in an error.
    """

    file: str
    size_px: tuple[int, int]
    boxes: tuple[Box, ...]
    categories: tuple[str, ...]
    spacing_mm: tuple[float, float, float] | None
    patient: str
    previous: str
    next: str
    slice: int
    split: str
    where: str

    @property
    def files(self) -> list[str]:
        """The image's file, then its neighbours', as far as they are there."""
        return [name for name in (self.file, self.previous, self.next) if name]


def make_error(what: str, where: str, found: str, wanted: str = "") -> DataError:
    """Return the error of an annotation that cannot be used."""
    return DataError(
        what, where=where, found=found, wanted=wanted, next_step="correct the annotation"
    )


def check_file(text: Any, where: str) -> str:
    r"""Check the name of a file in an annotation: relative, and inside the data set's folder.

    Args:
        text: What stands there.
        where: What to call the annotation in an error.

    Raises:
        DataError: It is no name, or leads out of the folder.

    >>> check_file("images\\a.png", "here")
    'images/a.png'
    """
    name = text.replace("\\", "/").strip() if isinstance(text, str) else ""
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or ":" in name:
        raise make_error("A file name cannot be used", where, repr(text)[:80], "a name inside DIR")
    return path.as_posix()


def check_box(box: tuple[float, ...], size_px: tuple[int, int], where: str) -> Box:
    """Check a box and clip it to its image.

    Args:
        box: xyxy px, half-open.
        size_px: Height and width.
        where: What to call the annotation in an error.

    Raises:
        DataError: The box is not finite, degenerate, or wholly outside its image.

    >>> check_box((-2.0, 1.0, 5.0, 4.0), (10, 10), "here")
    (0.0, 1.0, 5.0, 4.0)
    """
    x1, y1, x2, y2 = box
    height, width = size_px
    found = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(map(math.isfinite, box)) or x1 >= x2 or y1 >= y2:
        raise make_error("A box is degenerate", where, found, "x1 < x2 and y1 < y2")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        wanted = f"some of 0 to {width} by 0 to {height}"
        raise make_error("A box lies wholly outside its image", where, found, wanted)
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def check_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Check an image's height and width, in px.

    Raises:
        DataError: One is no whole number from 1 to 65,536.
    """
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= MAX_SIDE_PX:
            wanted = "whole numbers of pixels"
            raise make_error("An image's size cannot be used", where, f"{height} x {width}", wanted)
    return height, width


def check_spacing(values: Any, where: str) -> tuple[float, float, float] | None:
    """Check a spacing z, y, x in mm; None and an empty list mean unknown.

    Raises:
        DataError: It is not three positive numbers.
    """
    if not values:
        return None
    try:
        z, y, x = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        z = y = x = math.nan
    if not all(math.isfinite(mm) and mm > 0 for mm in (z, y, x)):
        wanted = "three positive numbers of mm: z, y, x"
        raise make_error("spacing_mm cannot be used", where, repr(values)[:80], wanted)
    return z, y, x


def find_neighbour(file: str, step: int) -> str:
    """Return the file whose number is the next or the one before.

    Args:
        file: Relative name.
        step: 1 or -1.

    Returns:
        The name, of as many digits; "" where there is no number to count with.

    >>> find_neighbour("a/007.png", -1), find_neighbour("a/key.png", 1)
    ('a/006.png', '')
    """
    match = NUMBER.fullmatch(file)
    if not match or len(match[2]) > MOST_DIGITS or int(match[2]) + step < 0:
        return ""
    return f"{match[1]}{int(match[2]) + step:0{len(match[2])}d}{match[3]}"


def find_slice(file: str) -> int:
    """Return the number at the end of a file's name, or -1.

    >>> find_slice("a/007.png"), find_slice("a/key.png")
    (7, -1)
    """
    match = NUMBER.fullmatch(file)
    return int(match[2][-9:]) if match else -1


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Read a text file that must not be gigantic.

    Raises:
        DataError: It cannot be read, or holds more.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise make_error(
                "A file is too large",
                path.name,
                f"{path.stat().st_size} bytes",
                f"at most {max_bytes}",
            )
        return path.read_bytes()
    except OSError as error:
        raise make_error("A file cannot be read", str(path), error.strerror or "") from error


def get_text(tree: Mapping[str, Any], key: str) -> str:
    """Return a text of an annotation, a number as text, "" where there is neither."""
    value = tree.get(key)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value).strip() if isinstance(value, str) or is_number else ""
