"""COCO's JSON of boxes, read and written.

`images` may carry what CT needs beside COCO's own keys: `patient`, `spacing_mm` [z, y, x],
`previous`, `next` (files) and `slice`.  Boxes are x, y, width, height in continuous px, as COCO has
them; crowds are left out.
Source: Lin et al. 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import (
    Box,
    BoxImage,
    check_box,
    check_file,
    check_size,
    check_spacing,
    find_neighbour,
    find_slice,
    get_text,
    make_error,
    read_limited,
)

MAX_BYTES = 2**29  # COCO's own largest annotation file has 470 MB
CATEGORY = "lesion"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Raises:
        DataError: It is unreadable, larger than 512 MiB or not JSON.
    """
    try:
        return json.loads(read_limited(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise make_error("A file is not JSON", path.name, str(error)[:80]) from error


def _list_objects(tree: Any, key: str, where: str) -> list[dict[str, Any]]:
    entries = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise make_error(f"COCO's list {key!r} is missing", where, "no list of objects")
    return entries


def _read_box(entry: dict[str, Any], size_px: tuple[int, int], where: str) -> Box:
    try:
        values = entry.get("bbox")
        x, y, width, height = map(float, values if isinstance(values, list) else ())
    except (TypeError, ValueError, OverflowError) as error:
        found, wanted = repr(entry.get("bbox"))[:80], "x, y, width, height"
        raise make_error("A bbox cannot be read", where, found, wanted) from error
    return check_box((x, y, x + width, y + height), size_px, where)


def read_coco(path: Path, split: str = "") -> list[BoxImage]:
    """Read a COCO file.

    Args:
        path: The JSON file.
        split: The split of its images, or "".

    Returns:
        One entry an image, in the file's order.

    Raises:
        DataError: It is no COCO file; an image, box or file name cannot be used; ids repeat or
            point nowhere.
    """
    tree, where = read_json(path), path.name
    images = _list_objects(tree, "images", where)
    names = {
        _hashable(entry.get("id")): get_text(entry, "name") or CATEGORY
        for entry in _list_objects(tree, "categories", where)
    }
    boxes: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for i, entry in enumerate(_list_objects(tree, "annotations", where)):
        if not entry.get("iscrowd"):
            boxes.setdefault(_hashable(entry.get("image_id")), []).append((i, entry))
    ids = [_hashable(entry.get("id")) for entry in images]
    if len(set(ids)) < len(ids):
        raise make_error("Two images have one id", where, f"{len(ids) - len(set(ids))} repetitions")
    unknown = boxes.keys() - set(ids)
    if unknown:
        i = boxes[next(iter(unknown))][0][0]
        raise make_error("A box belongs to no image", f"{where} annotation {i}", "an unknown id")
    return [
        _read_image(entry, boxes.get(key, []), names, split, f"{where} image {i}")
        for i, (key, entry) in enumerate(zip(ids, images, strict=True))
    ]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str) else repr(value)


def _read_image(
    entry: dict[str, Any],
    boxes: list[tuple[int, dict[str, Any]]],
    names: dict[Any, str],
    split: str,
    where: str,
) -> BoxImage:
    file = check_file(entry.get("file_name"), where)
    size_px = check_size(entry.get("height"), entry.get("width"), where)
    neighbours = [
        check_file(entry[key], where) if entry.get(key) else find_neighbour(file, step)
        for key, step in (("previous", -1), ("next", 1))
    ]
    number = entry.get("slice")
    return BoxImage(
        file=file,
        size_px=size_px,
        boxes=tuple(_read_box(box, size_px, f"{where} annotation {i}") for i, box in boxes),
        categories=tuple(
            names.get(_hashable(box.get("category_id")), CATEGORY) for _, box in boxes
        ),
        spacing_mm=check_spacing(entry.get("spacing_mm"), where),
        patient=_read_patient(entry, where),
        previous=neighbours[0],
        next=neighbours[1],
        slice=number if isinstance(number, int) and 0 <= number < 2**31 else find_slice(file),
        split=get_text(entry, "split") or split,
        where=where,
    )


def _read_patient(entry: dict[str, Any], where: str) -> str:
    """Return who an image is of; what cannot be read would divide a patient among splits."""
    patient = get_text(entry, "patient")
    if patient or entry.get("patient") in (None, ""):
        return patient
    found = repr(entry["patient"])[:80]
    raise make_error("A patient cannot be read", where, found, "a text or a whole number")


def write_coco(path: Path, images: Sequence[BoxImage]) -> None:
    """Write a COCO file that `read_coco` reads to the same images.

    Args:
        path: The JSON file.
        images: Of one split.

    Raises:
        DataError: The file cannot be written.
    """
    categories = sorted({name for image in images for name in image.categories} | {CATEGORY})
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, image in enumerate(images, 1):
        height, width = image.size_px
        entry = {"id": i, "file_name": image.file, "height": height, "width": width}
        extra = {
            "patient": image.patient,
            "spacing_mm": list(image.spacing_mm or ()),
            "previous": image.previous,
            "next": image.next,
        }
        entries.append(entry | {key: value for key, value in extra.items() if value})
        entries[-1]["slice"] = image.slice
        for (x1, y1, x2, y2), name in zip(image.boxes, image.categories, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": categories.index(name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, 1)],
    }
    try:
        path.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    except OSError as error:
        raise DataError("A file cannot be written", where=str(path), found=str(error)) from error
