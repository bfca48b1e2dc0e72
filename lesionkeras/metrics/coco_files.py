"""COCO's JSON of true boxes and of results, read for scoring: anybody's files.

Images may carry `patient` and `spacing_mm` ([z, y, x] or [y, x]) beside COCO's own keys, and
annotations `size_mm`, the lesion's size.  Ids are whole numbers or texts; boxes are x, y, width,
height in continuous px.
Source: https://cocodataset.org/#format-data and #format-results.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.errors import DataError
from lesionkeras.metrics.matches import ImageDetections, ImageTruth

MAX_BYTES = 2**30  # COCO's own largest annotation file has 470 MB; results can be larger
MAX_PX = 1e7  # beyond any image; areas of such boxes still have exact ratios
_SHOWN_CHARS = 60  # of what was found, in an error


@dataclass(frozen=True)
class CocoTruth:
    """True boxes of a COCO file; rows belong together.

    Args:
        image_ids: Of the images, in the file's order.
        truths: One an image; `diameters_mm` is `size_mm`, or else the longer side where the
            spacing is known.
        patients: Who each image is of; an image without `patient` is its own.
        has_patients: Every image names its patient.
        sizes_px: [N, 2] height and width, or None where one is missing.
        categories: Id of a category to its class number, in order of id.
    """

    image_ids: tuple[Any, ...]
    truths: tuple[ImageTruth, ...]
    patients: tuple[str, ...]
    has_patients: bool
    sizes_px: np.ndarray | None
    categories: Mapping[Any, int]


def read_truth(path: Path) -> CocoTruth:
    """Reads the true boxes of a COCO file.

    Args:
        path: The JSON file, with `images` and `annotations`; without `categories`, they are those
            that annotations name.

    Raises:
        DataError: It cannot be read or is no such file, an id repeats or points nowhere, or a box
            or a spacing cannot be used.
    """
    tree = _read_json(path)
    images = _list_objects(tree, "images", path)
    annotations = _list_objects(tree, "annotations", path)
    named = _list_objects(tree, "categories", path) if "categories" in tree else []
    ids = [image.get("id") for image in images]
    places = _number_ids(ids, f"images of {path.name}")
    if not images:
        raise DataError("A truth has no image", where=path.name, wanted="one or more images")
    numbers = [entry.get("category_id") for entry in annotations]
    found = {number for number in numbers if _is_whole(number) or isinstance(number, str)}
    categories = [entry.get("id") for entry in named] or sorted(found, key=str)
    classes = _number_ids(sorted(categories, key=_order), f"categories of {path.name}")
    boxes: list[list[tuple[float, ...]]] = [[] for _ in images]
    columns: list[list[tuple[int, bool, float]]] = [[] for _ in images]
    for number, entry in enumerate(annotations):
        where = f"{path.name}, annotation {number}"
        place = _look_up(places, entry.get("image_id"), "image_id", where)
        class_id = _look_up(classes, entry.get("category_id"), "category_id", where)
        boxes[place].append(_read_box(entry, where, may_be_empty=False))
        size_mm = _read_size_mm(entry.get("size_mm"), where)
        columns[place].append((class_id, _read_crowd(entry.get("iscrowd"), where), size_mm))
    truths = [
        _make_truth(image, of_image, rest, path.name)
        for image, of_image, rest in zip(images, boxes, columns, strict=True)
    ]
    patients = [_read_patient(image, path.name) for image in images]
    return CocoTruth(
        image_ids=tuple(ids),
        truths=tuple(truths),
        patients=tuple(
            name or f"image {image_id}" for name, image_id in zip(patients, ids, strict=True)
        ),
        has_patients=all(patients),
        sizes_px=_read_sizes(images),
        categories=classes,
    )


def _make_truth(
    image: Mapping[str, Any],
    boxes: Sequence[tuple[float, ...]],
    columns: Sequence[tuple[int, bool, float]],
    file: str,
) -> ImageTruth:
    own = np.array(boxes, np.float64).reshape(-1, 4)
    sizes_mm = np.array([size_mm for _, _, size_mm in columns])
    spacing_mm = _read_spacing(image, f"{file}, image {image['id']}")
    if spacing_mm is not None:
        sizes_mm = np.where(np.isnan(sizes_mm), _measure_mm(own, spacing_mm), sizes_mm)
    return ImageTruth(
        boxes=own,
        classes=np.array([class_id for class_id, _, _ in columns], np.int64),
        crowd=np.array([is_crowd for _, is_crowd, _ in columns], bool),
        diameters_mm=None if np.isnan(sizes_mm).any() else sizes_mm,
    )


def read_results(path: Path, truth: CocoTruth) -> tuple[ImageDetections, ...]:
    """Reads the detections of a COCO results file.

    Args:
        path: The JSON file: a list of {"image_id", "category_id", "bbox", "score"}; an image
            without an entry has no detection.
        truth: Its images and categories are those that may be named.

    Returns:
        One an image of the truth, in its order.

    Raises:
        DataError: It cannot be read or is no such file, an id is not the truth's, or a box or a
            score cannot be used.
    """
    entries = _read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            "A file is not COCO's results",
            where=path.name,
            found=_name_kind(entries),
            wanted="a list of objects with image_id, category_id, bbox and score",
        )
    places = {image_id: place for place, image_id in enumerate(truth.image_ids)}
    boxes = np.zeros((len(entries), 4))
    scores = np.zeros(len(entries))
    classes, images = np.zeros((2, len(entries)), np.int64)
    for number, entry in enumerate(entries):
        where = f"{path.name}, entry {number}"
        images[number] = _look_up(places, entry.get("image_id"), "image_id", where)
        if truth.categories:  # else nobody says any, and nothing is there to be found
            named = entry.get("category_id")
            classes[number] = _look_up(truth.categories, named, "category_id", where)
        boxes[number] = _read_box(entry, where, may_be_empty=True)
        scores[number] = _read_score(entry.get("score"), where)
    order = np.argsort(images, kind="stable")
    ends = np.cumsum(np.bincount(images, minlength=len(places)))[:-1]
    return tuple(
        ImageDetections(boxes[rows], scores[rows], classes[rows]) for rows in np.split(order, ends)
    )


def list_results(detections: Sequence[ImageDetections], truth: CocoTruth) -> list[dict[str, Any]]:
    """Return what `read_results` reads: an entry a detection, in the truth's ids.

    Args:
        detections: One an image of the truth, in its order.
        truth: Its categories are those of the classes.
    """
    names = {number: category for category, number in truth.categories.items()}
    return [
        {
            "image_id": image_id,
            "category_id": names.get(int(class_id), int(class_id)),
            "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": float(score),
        }
        for image_id, found in zip(truth.image_ids, detections, strict=True)
        for (x1, y1, x2, y2), score, class_id in zip(
            found.boxes, found.scores, found.classes, strict=True
        )
    ]


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError("A file is too large", where=str(path), wanted="1 GiB or less")
        return json.loads(path.read_bytes())
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise DataError("A file cannot be read", where=str(path), found=found) from error
    except (ValueError, RecursionError) as error:
        found = str(error)[:_SHOWN_CHARS]
        raise DataError("A file is not JSON", where=str(path), found=found) from error


def _list_objects(tree: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"COCO's list {key!r} is missing",
            where=path.name,
            found=_name_kind(tree if entries is None else entries),
            wanted="an object with the lists images, annotations and categories",
            next_step="give results to --detections and the true boxes to --truth",
        )
    return entries


def _name_kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", type(None): "nothing"}
    if isinstance(value, dict):
        return f"an object of {', '.join(map(str, list(value)[:5])) or 'nothing'}"[:_SHOWN_CHARS]
    return kinds.get(type(value), "a number")


def _order(value: Any) -> tuple[bool, Any]:
    """Order whole numbers before texts."""
    return (False, value) if _is_whole(value) else (True, str(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Tell finite numbers."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max  # False for NaN


def _is_text(value: Any) -> bool:
    """Tell texts that can be written: JSON can hold halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= mark <= "\udfff" for mark in value)


def _list_numbers(values: Any, lengths: Sequence[int]) -> list[float]:
    """The numbers of a list of one of these lengths; NaN, as many as the first, of any other."""
    is_usable = isinstance(values, list) and len(values) in lengths and all(map(_is_number, values))
    return [float(value) for value in values] if is_usable else [math.nan] * lengths[0]


def _number_ids(ids: Sequence[Any], where: str) -> dict[Any, int]:
    numbers: dict[Any, int] = {}
    for value in ids:
        if not _is_whole(value) and not _is_text(value):
            raise DataError(
                "An id cannot be used",
                where=where,
                found=ascii(value)[:_SHOWN_CHARS],
                wanted="a whole number or a text",
            )
        if value in numbers:
            raise DataError("An id repeats", where=where, found=repr(value)[:_SHOWN_CHARS])
        numbers[value] = len(numbers)
    return numbers


def _look_up(known: Mapping[Any, int], value: Any, key: str, where: str) -> int:
    usable = _is_whole(value) or isinstance(value, str)
    if usable and value in known:
        return known[value]
    few = ", ".join(repr(name) for name in list(known)[:3])
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    raise DataError(
        f"A box's {key} is not among the truth's",
        where=where,
        found=repr(value)[:_SHOWN_CHARS],
        wanted=f"one of {few}{more}" if known else "",
        next_step="give the truth that these boxes belong to",
    )


def _read_box(entry: Mapping[str, Any], where: str, may_be_empty: bool) -> tuple[float, ...]:
    """Read a bbox as xyxy px."""
    values = entry.get("bbox")
    x, y, width, height = _list_numbers(values, [4])
    is_usable = all(abs(value) < MAX_PX for value in (x, y, width, height))  # False for NaN
    x2, y2 = x + width, y + height  # a side may be too small to be seen beside its place
    is_empty = x2 == x or y2 == y
    if not is_usable or min(width, height) < 0 or (is_empty and not may_be_empty):
        raise DataError(
            "A bbox cannot be used",
            where=where,
            found=repr(values)[:_SHOWN_CHARS],
            wanted="[x, y, width, height] in px, with width and height above 0",
        )
    return x, y, x2, y2


def _read_crowd(value: Any, where: str) -> bool:
    if value in (None, 0, 1):  # False and True are among these
        return bool(value)
    raise DataError(
        "An iscrowd cannot be used", where=where, found=repr(value)[:_SHOWN_CHARS], wanted="0 or 1"
    )


def _read_score(value: Any, where: str) -> float:
    if not _is_number(value):
        raise DataError(
            "A score cannot be used",
            where=where,
            found=repr(value)[:_SHOWN_CHARS],
            wanted="a number, higher for surer",
        )
    return float(value)


def _read_size_mm(value: Any, where: str) -> float:
    """Size of a lesion, NaN where it is not given."""
    if value is None:
        return math.nan
    if not _is_number(value) or value <= 0:
        raise DataError(
            "size_mm cannot be used",
            where=where,
            found=repr(value)[:_SHOWN_CHARS],
            wanted="a number of mm above 0",
        )
    return float(value)


def _read_patient(image: Mapping[str, Any], file: str) -> str:
    """Who an image is of, "" where it is not said."""
    value = image.get("patient")
    if value in (None, ""):
        return ""
    if not _is_whole(value) and not _is_text(value):
        raise DataError(
            "A patient cannot be used",
            where=f"{file}, image {image['id']}",
            found=ascii(value)[:_SHOWN_CHARS],
            wanted="a text or a whole number",
        )
    return str(value)


def _read_sizes(images: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    sizes: list[tuple[Any, Any]] = [(image.get("height"), image.get("width")) for image in images]
    known = all(_is_whole(side) and 0 < side < MAX_PX for size in sizes for side in size)
    return np.array(sizes, np.int64).reshape(-1, 2) if known else None


def _read_spacing(image: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """Spacing of rows and columns in mm, or None."""
    values = image.get("spacing_mm")
    if values in (None, []):
        return None
    *_, y, x = sides = _list_numbers(values, [2, 3])
    if not all(mm > 0 for mm in sides):  # False for NaN
        raise DataError(
            "spacing_mm cannot be used",
            where=where,
            found=repr(values)[:_SHOWN_CHARS],
            wanted="z, y, x or y, x in mm, above 0",
        )
    return y, x


def _measure_mm(boxes: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Longer side of each box in mm."""
    y_mm, x_mm = spacing_mm
    return ((boxes[:, 2:] - boxes[:, :2]) * np.array([x_mm, y_mm])).max(axis=1, initial=0.0)
